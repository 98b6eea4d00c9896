"""What the slow twin writes on: a trace as far as it is written, in text order, with what can be forced or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference_draw import exact_draw
from polythink.engine.sampling import uniforms
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import logits_after
from polythink.models.tags import tag_ids
from polythink.trace.dialect import get_dialect
from polythink.trace.rollout import Rollout, Segment


class Page:
    """The trace as far as it is written, in text order."""

    def __init__(self, lm: LanguageModel, request: Request, params: SamplingParams, seed: int) -> None:
        self.lm, self.request, self.params, self.seed = lm, request, params, seed
        self.segments: list[Segment] = []
        self.stop = ""
        self.blocks = 0
        self.dialect = d = get_dialect(request.dialect) if request.dialect else lm.dialect
        if any(len(prefix) >= params.max_path_tokens for prefix in request.path_prefixes):
            raise UserError("path_prefixes leave a path nothing to sample")
        if len(request.path_prefixes) > params.most_paths(d):
            raise UserError("path_prefixes of paths that no block has")
        if params.rules.isolated and params.max_blocks:
            d.draw_labels(params.most_paths(d), None)
        if params.summary_prefix and d.summary is None:
            raise UserError(f"summary_prefix: dialect {d.name} has no summary")
        if params.stride and d.paths.heading:
            raise UserError(f"path_position_stride: dialect {d.name} has headings")
        if 0 < params.stride < params.max_path_tokens + 2 + len(self.gap(d.paths.gap)):
            raise UserError(f"path_position_stride: dialect {d.name} has gaps")
        self.tags = tag_ids(lm.tokenizer, d)
        self.closing = {self.id(tag) for tag in d.closing_tags}
        self.trained = lm.settings.trained_paths if params.length_scaling_above is None else params.length_scaling_above
        self.join = [t for tag in d.joining for t in (*self.gap(tag.gap), self.id(tag.text))]
        if d.summary:
            self.join += [*self.gap(d.summary.gap), self.id(d.summary.open), *self.gap(params.summary_prefix)]
        self.finish = [t for tag in d.closing if tag.by == "runtime" for t in (*self.gap(tag.gap), self.id(tag.text))]
        self.model_closes = {self.id(tag.text) for tag in d.closing if tag.by == "model"}
        first = (d.opening.gap, d.opening.text) if d.opening else (d.plan.gap, d.plan.open) if d.plan else None
        self.opens = self.id(first[1]) if first else None
        self.begin = [*self.gap(first[0]), self.opens] if first else []
        room = lm.context - len(request.prompt)
        self.budget, self.bound = params.max_trace_tokens, "trace_length"
        if room < self.budget and not params.rules.isolated:
            self.budget, self.bound = room, "context"
        self.where = "text"  # of the tokens that `role` was asked about last

    # --- token ids

    def id(self, tag: str) -> int:
        return self.tags[tag]

    def gap(self, text: str) -> list[int]:
        return list(self.lm.encode(text)) if text else []

    def is_tag(self, token: int) -> bool:
        return token in self.tags.values()

    def open_of(self, kind: str, label: int) -> int | None:
        if kind == "path":
            return self.id(self.dialect.path_tags(label)[0])
        return self.id(self.dialect.summary.open) if kind == "summary" and self.dialect.summary else None

    def close_of(self, kind: str, label: int) -> int | None:
        """The tag that closes a path, or what follows the paths."""
        if kind == "path":
            return self.id(self.dialect.path_tags(label)[1])
        if kind != "summary":
            return None
        return self.id(self.dialect.summary.close if self.dialect.summary else self.dialect.joining[-1].text)

    def role(self, tokens: Sequence[int]) -> tuple[str, list[str]]:
        """What the last token of a stretch is to a block before its paths, and the outlines so far.

        The roles: "" text, "plan" one of its tags, "fork" its last one, "bound" one that opens an outline too many.
        """
        plan, counted, role, outlines = self.dialect.plan, self.dialect.declares_paths, "", []
        self.where, start = "text", 0
        if self.dialect.runtime_forks:
            return "", []
        item = [self.id(tag) if tag else None for tag in plan.item] if plan else [None, None]
        for i, token in enumerate(tokens):
            role = ""
            if self.where == "text" and token == self.opens:
                role, outlines = ("plan" if plan else "fork"), []
                self.where = ("opened" if self.dialect.opening else "plan") if plan else "text"
            elif self.where == "opened" and token == self.id(plan.open):
                role, self.where = "plan", "plan"
            elif self.where in ("plan", "outline") and token == item[0]:
                role, self.where, start = "plan", "outline", i + 1
                if counted and len(outlines) == self.params.most_paths(self.dialect):
                    role = "bound"
            elif self.where == "outline" and token == item[1]:
                role, self.where = "plan", "plan"
                outlines = [*outlines, self.lm.decode(tokens[start:i])]
            elif self.where in ("plan", "outline") and token == self.id(plan.close):
                role, self.where = ("fork" if outlines or not counted else "plan"), "text"
        return role, outlines

    # --- room

    @property
    def left(self) -> int:
        return self.budget - sum(len(s.tokens) for s in self.segments)

    @property
    def positions(self) -> int:
        """The position of the next token."""
        return int(self.rollout().layout().position[-1]) + 1 if self.segments else len(self.request.prompt)

    @property
    def reach(self) -> int:
        """How many positions the context has left, the next token of the last segment included."""
        last = self.segments[-1]
        longer = replace(last, tokens=[*last.tokens, 0], sampled=[*last.sampled, False])
        ahead = replace(self.rollout(), segments=[*self.segments[:-1], longer])
        return self.lm.context - int(ahead.layout().position[-1])

    # --- writing

    def open(self, kind: str, block: int = -1, path: int = 0, label: int = 0) -> Segment:
        temperature = 1.0 if kind == "copy" else self.params.temperature_of(kind) or 1.0
        self.segments.append(Segment(kind, block, path, temperature=temperature, label=label))
        return self.segments[-1]

    def force(self, tokens: Sequence[int]) -> None:
        segment = self.segments[-1]
        segment.tokens += tokens
        segment.sampled += [False] * len(tokens)
        segment.logprobs += [0.0] * len(tokens)

    def put(self, token: int, logprob: float) -> None:
        segment = self.segments[-1]
        segment.tokens.append(token)
        segment.sampled.append(True)
        segment.logprobs.append(logprob)

    def draw(self, key: int, count: int) -> tuple[int, float]:
        """Sample the next token of the last segment, which may still be empty, from a random stream."""
        token, logprob, _ = self.drawn(key, count)
        return token, logprob

    def drawn(self, key: int, count: int) -> tuple[int, float, float]:
        """The same with its margin (`exact_draw`)."""
        uniform = uniforms(np.array([key], np.uint64), np.array([count], np.uint64))[0]
        temperature = self.params.temperature_of(self.segments[-1].kind)
        return exact_draw(self.logits(), temperature, uniform, self.params.top_p, self.params.top_k)

    @torch.inference_mode()
    def logits(self) -> np.ndarray:
        """Those (V,) after the last token, of the whole trace as far as it is written."""
        batch = collate([self.rollout().layout()]).to(self.lm.device)
        last = torch.tensor([len(batch.tokens[0]) - 1], device=self.lm.device)
        logits, rows, columns = logits_after(self.lm.model, batch, torch.zeros_like(last), last)
        return logits[rows, columns][0].double().cpu().numpy()

    def end(self, reason: str) -> None:
        """End the trace; where its last segment was closed before, that keeps its own finish_reason."""
        if self.segments[-1].finish_reason not in ("", "fork"):
            self.stop = reason
        else:
            self.segments[-1].finish_reason = reason

    def shown(self, first: int) -> list[Segment]:
        """The segments from number `first` on that are text."""
        return [segment for segment in self.segments[first:] if segment.kind != "copy"]

    def rollout(self) -> Rollout:
        request, params = self.request, self.params
        return Rollout(
            request.problem,
            request.sample,
            params.mode,
            request.prompt,
            self.segments,
            params.stride,
            self.trained,
            self.stop,
        )


def limited(most: int, left: int, bound: str) -> tuple[int, str]:
    """How much may be sampled, and the finish_reason that this gives: by the kind's own budget, or by another."""
    return (most, "length") if most <= left else (left, bound)
