"""The slow twin of the engine: one trace at a time, path after path, the whole layout recomputed for every token.

It has no cache, no steps and no state of open branches, and control flow of its own, so that it can disagree with the
engine about all of them. They share the layout table, the random streams and the rule that turns logits into a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch

from polythink.engine.params import Request, SamplingParams
from polythink.engine.sampling import draw, stream_key, uniforms
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.forward import evaluating
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import logits_after
from polythink.models.tags import tag_ids
from polythink.trace.dialect import get_dialect
from polythink.trace.rollout import Rollout, Segment


def reference_generate(
    lm: LanguageModel, requests: Sequence[Request], params: SamplingParams | Sequence[SamplingParams], seed: int = 0
) -> list[Rollout]:
    """The rollouts that `Engine.generate` returns, sampled slowly. `params` apply to all requests, or are one each."""
    each = [params] * len(requests) if isinstance(params, SamplingParams) else params
    rollouts = []
    for request, own in zip(requests, each, strict=True):
        page = _Page(lm, request, own, seed)
        with evaluating(lm.model):
            (_write_sequential if own.mode == "sequential" else _write_structured)(page)
        for segment in page.segments:
            segment.text = lm.decode(segment.tokens)
        rollouts.append(page.rollout())
    return rollouts


class _Page:
    """The trace as far as it is written, in text order."""

    def __init__(self, lm: LanguageModel, request: Request, params: SamplingParams, seed: int) -> None:
        self.lm, self.request, self.params, self.seed = lm, request, params, seed
        self.segments: list[Segment] = []
        self.stop = ""
        self.dialect = get_dialect(request.dialect) if request.dialect else lm.dialect
        self.tags = tag_ids(lm.tokenizer, self.dialect)
        self.trained = lm.settings.trained_paths if params.length_scaling_above is None else params.length_scaling_above
        self.join = [t for text in (self.dialect.block_close, self.dialect.gap) if text for t in lm.encode(text)]
        self.join += [self.id(self.dialect.summary_open), *lm.encode(params.summary_prefix)]
        flat = params.mode == "sequential"
        self.budget = (
            min(params.max_trace_tokens, lm.context - len(request.prompt)) if flat else params.max_trace_tokens
        )

    def id(self, tag: str) -> int:
        return self.tags[tag]

    @property
    def left(self) -> int:
        return self.budget - sum(len(s.tokens) for s in self.segments)

    @property
    def reach(self) -> int:
        """How many positions the context has left, the next token of the last segment included."""
        last = self.segments[-1]
        longer = replace(last, tokens=[*last.tokens, 0], sampled=[*last.sampled, False])
        ahead = replace(self.rollout(), segments=[*self.segments[:-1], longer])
        return self.lm.context - int(ahead.layout().position[-1])

    def open(self, kind: str, block: int = -1, path: int = 0, label: int = 0) -> Segment:
        temperature = self.params.temperature_of(kind)
        self.segments.append(Segment(kind, block, path, temperature=temperature or 1.0, label=label))
        return self.segments[-1]

    def force(self, tokens: Sequence[int]) -> None:
        segment = self.segments[-1]
        segment.tokens += tokens
        segment.sampled += [False] * len(tokens)
        segment.logprobs += [0.0] * len(tokens)

    @torch.inference_mode()
    def draw(self, stream: int, count: int) -> tuple[int, float]:
        """Sample the next token of the last segment, which may still be empty."""
        batch = collate([self.rollout().layout()]).to(self.lm.device)
        last = torch.tensor([len(batch.tokens[0]) - 1], device=self.lm.device)
        logits, rows, columns = logits_after(self.lm.model, batch, torch.zeros_like(last), last)
        logits = logits[rows, columns]
        key = stream_key(self.seed, self.request.problem, self.request.sample, stream)
        uniform = torch.from_numpy(uniforms(np.array([key], np.uint64), np.array([count], np.uint64)))
        temperature = torch.tensor([self.params.temperature_of(self.segments[-1].kind)])
        params = self.params
        token, logprob = draw(
            logits, temperature.to(logits.device), uniform.to(logits.device), params.top_p, params.top_k
        )
        return int(token), float(logprob)

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

    def end(self, reason: str) -> None:
        """End the trace; where its last segment was closed before, that keeps its own finish_reason."""
        if self.segments[-1].finish_reason not in ("", "fork"):
            self.stop = reason
        else:
            self.segments[-1].finish_reason = reason

    def put(self, token: int, logprob: float) -> None:
        segment = self.segments[-1]
        segment.tokens.append(token)
        segment.sampled.append(True)
        segment.logprobs.append(logprob)

    def fill(self, stream: int, limit: int, stops: dict[int, str], cut: str, fork_at: int = -1) -> str:
        """Sample main text up to `limit` tokens; returns its finish_reason: that of a stop token, or `cut`.

        Where the dialect replaces misplaced tags, one of them is replaced by the end token.
        """
        misplaced = {self.id(tag) for tag in self.dialect.tags} if self.dialect.misplaced_tags == "replace" else set()
        for count in range(limit):
            token, logprob = self.draw(stream, count)
            if token in misplaced:
                self.segments[-1].misplaced_tags += 1
                self.force([self.lm.eos])
                return "eos"
            self.put(token, logprob)
            if token in stops:
                return stops[token]
            if count + 1 == fork_at < limit:
                return "forced"
        return cut

    def fill_inner(self, opened: int, close: int, stream: int, limit: int, cut: str) -> tuple[str, int]:
        """Sample a path or summary and close it; returns its finish_reason and how many tokens were sampled.

        Where the dialect replaces misplaced tags, the segment's own tag takes their place.
        """
        closing = {self.id(tag) for tag in self.dialect.tags[1::2]}
        misplaced = (
            {self.id(tag) for tag in self.dialect.tags} - {close} if self.dialect.misplaced_tags == "replace" else set()
        )
        stops = {close: "tag"} | dict.fromkeys(self.lm.ends, "eos")
        for count in range(limit):
            token, logprob = self.draw(stream, count)
            if token in misplaced:
                self.segments[-1].misplaced_tags += 1
                self.force([close if token in closing else opened])
                if token in closing:
                    return "tag", count + 1
                continue
            if token not in self.lm.ends or self.dialect.misplaced_tags == "keep":
                self.put(token, logprob)
            if token != close and token in stops:
                self.force([close])
            if token in stops:
                return stops[token], count + 1
        self.force([close])
        return cut, limit


def _limit(most: int, left: int) -> tuple[int, str]:
    return (most, "length") if most <= left else (left, "trace_length")


def _write_structured(page: _Page) -> None:
    params, dialect = page.params, page.dialect
    implicit = not dialect.block_open
    fork_at = 0 if params.fork_at is None and implicit else -1 if params.fork_at is None else params.fork_at
    stops = dict.fromkeys(page.lm.ends, "eos") | ({} if implicit else {page.id(dialect.block_open): "fork"})
    blocks = opened = 0  # segments opened so far, the prompt being the first
    while True:
        if not (implicit and blocks == 0 and fork_at == 0):
            main = page.open("main")
            opened += 1
            limit, cut = _limit(params.max_main_tokens, min(page.left, page.reach))
            forced = fork_at if blocks == 0 else -1
            main.finish_reason = "forced" if forced == 0 else page.fill(opened, limit, stops, cut, forced)
            if main.finish_reason == "forced":
                page.force([] if implicit else [page.id(dialect.block_open)])
                main.finish_reason = "fork"
        room = page.left - 2 * params.paths - len(page.join) - 1
        reserve = max(1, min(params.max_summary_tokens, room // (params.paths + 1)))
        share = min((room - reserve) // params.paths, _positions_of_a_path(page))
        refused = "max_blocks" if blocks == params.max_blocks else "trace_length" if share < 1 else ""
        if not page.segments and refused:
            raise UserError("no room for the first block")
        if page.segments and main.finish_reason == "fork" and refused:
            main.finish_reason = refused
        if page.segments and main.finish_reason != "fork":
            return
        _write_block(page, blocks, opened, share)
        opened += params.paths + 1
        blocks += 1


def _write_block(page: _Page, block: int, opened: int, share: int) -> None:
    params, dialect, request = page.params, page.dialect, page.request
    key = stream_key(page.seed, request.problem, request.sample, -1 - block)
    rng = Random(key) if params.labels == "random" else None
    labels = dialect.draw_labels(params.paths, rng) or (0,) * params.paths
    before = len(page.segments)
    drawn: list[tuple[int, int]] = []  # of each path: sampled tokens, and forced ones before them
    for number, label in enumerate(labels, start=1):
        path = page.open("path", block, number, label)
        tags = [page.id(tag) for tag in dialect.path_tags(label)]
        forced = request.path_prefixes[number - 1] if block == 0 and number <= len(request.path_prefixes) else ()
        page.force([tags[0], *forced])
        limit, cut = _limit(params.max_path_tokens, share)
        path.finish_reason, draws = page.fill_inner(*tags, opened + number, limit - len(forced), cut)
        drawn.append((draws, 1 + len(forced)))
    through = {"first": 0, "half": (len(labels) - 1) // 2, "all": len(labels) - 1}[params.join_when]
    last = sorted(draws for draws, _ in drawn)[through]
    for path, (draws, head) in zip(page.segments[before:], drawn, strict=True):
        if draws > last:
            _cut_short(path, head, last, page.id(dialect.path_tags(path.label)[1]))
    summary = page.open("summary", block)
    page.force(page.join)
    limit, cut = _limit(params.max_summary_tokens, min(page.left, page.reach) - 1)
    tags = [page.id(tag) for tag in (dialect.summary_open, dialect.summary_close)]
    summary.finish_reason, _ = page.fill_inner(*tags, opened + len(labels) + 1, limit, cut)


def _positions_of_a_path(page: _Page) -> int:
    """Positions that the context leaves to the last path of a block, and so to each, beside its tags and a summary."""
    params = page.params
    start = page.rollout().layout().position[-1] + 1 if page.segments else len(page.request.prompt)
    span = page.lm.context - int(start) - (params.paths - 1) * params.stride - len(page.join) - 3
    return span - max(1, min(params.max_summary_tokens, span // 2))


def _cut_short(path: Segment, head: int, draws: int, close: int) -> None:
    """Truncate a path after its first `draws` sampled tokens and close it. `head`: forced tokens at its start."""
    for values, last in ((path.tokens, close), (path.sampled, False), (path.logprobs, 0.0)):
        values[head + draws :] = [last]
    path.misplaced_tags = path.sampled[head:-1].count(False)
    path.finish_reason = "joined"


def _write_sequential(page: _Page) -> None:
    """A flat text; `where` walks main -> block -> path -> block -> .. -> summary -> main as tags are sampled.

    Where a block has no tags of its own, main text goes over into a path, and paths into a summary.
    """
    params, dialect = page.params, page.dialect
    if page.request.path_prefixes:
        raise UserError("a sequential trace has no paths to force path_prefixes on")
    implicit = not dialect.block_open
    labels = range(1, dialect.inventory + 1) if dialect.inventory else (0,)
    opens = {page.id(dialect.path_tags(n)[0]): n for n in labels}
    joins = page.id(dialect.summary_open if implicit else dialect.block_close)
    forks = set(opens) if implicit else {page.id(dialect.block_open)}
    where, blocks, count = "main", 0, 0
    close = -1
    page.open("main")
    limit, cut = _limit(params.max_main_tokens, page.left)
    while True:
        if limit < 1:
            page.end("trace_length")
            return
        token, logprob = page.draw(1, count)
        count += 1
        if implicit and where == "main" and token in forks and blocks < params.max_blocks:
            page.segments[-1].finish_reason = "fork"
            where, blocks = "block", blocks + 1
        if where == "block" and (token in opens or token == joins):
            where = "path" if token in opens else "summary"
            label = opens.get(token, 0)
            close = page.id(dialect.path_tags(label)[1] if where == "path" else dialect.summary_close)
            page.open(where, blocks - 1, page.segments[-1].path + 1 if where == "path" else 0, label)
            most = params.max_path_tokens if where == "path" else params.max_summary_tokens
            limit, cut = _limit(most, page.left - 2)  # this tag, and the one that may have to close what it opens
        else:
            limit -= 1
        page.put(token, logprob)
        segment = page.segments[-1]
        if token in page.lm.ends:
            page.end("eos")
            return
        if where == "main" and token in forks:
            segment.finish_reason = "max_blocks" if blocks == params.max_blocks else "fork"
            if segment.finish_reason == "max_blocks":
                return
            where, blocks = "block", blocks + 1
            limit, cut = _limit(params.max_main_tokens, page.left)
        elif where in ("path", "summary") and (token == close or limit < 1):
            segment.finish_reason = "tag" if token == close else cut
            if token != close:
                if page.left < 1:
                    return
                page.force([close])
            where = "block" if where == "path" else "main"
            if where == "main":
                page.open("main")
            limit, cut = _limit(params.max_main_tokens, page.left)
        elif limit < 1:
            page.end(cut)
            return
