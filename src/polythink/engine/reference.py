"""The slow twin of the engine: one trace at a time, path after path, the whole layout recomputed for every token.

No cache, no feeds, no arena, and control flow of its own, so that it can disagree with the engine about all of them.
Shared with it: the layout table, the random streams and the rule that turns logits into a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from polythink.engine.decoding import Decoding, Request
from polythink.engine.sampling import draw, stream_key, uniforms
from polythink.models.load import LanguageModel
from polythink.models.masks import collate
from polythink.trace.layout import Piece, lay_out
from polythink.trace.rollout import Rollout, Segment


def reference_generate(
    lm: LanguageModel, requests: Sequence[Request], decoding: Decoding, seed: int = 0
) -> list[Rollout]:
    """What `Engine.generate` returns, drawn slowly."""
    write = _write_sequential if decoding.mode == "sequential" else _write_structured
    rollouts = []
    for request in requests:
        page = _Page(lm, request, decoding, seed)
        write(page)
        for segment in page.segments:
            segment.text = lm.decode(segment.tokens)
        rollouts.append(Rollout(request.problem, request.sample, decoding.mode, request.prompt, page.segments))
    return rollouts


class _Page:
    """What has been written so far, in text order."""

    def __init__(self, lm: LanguageModel, request: Request, decoding: Decoding, seed: int) -> None:
        self.lm, self.request, self.decoding, self.seed = lm, request, decoding, seed
        self.segments: list[Segment] = []
        dialect = lm.dialect
        self.tag = {name: lm.tag_ids[getattr(dialect, name)] for name in (
            "block_open", "block_close", "path_open", "path_close", "summary_open", "summary_close")}  # fmt: skip
        self.join = [self.tag["block_close"], *lm.encode(dialect.gap), self.tag["summary_open"]]
        self.budget = min(decoding.max_trace_tokens, lm.context - len(request.prompt))

    @property
    def left(self) -> int:
        return self.budget - sum(len(s.tokens) for s in self.segments)

    def open(self, kind: str, block: int = -1, path: int = 0) -> Segment:
        temperature = self.decoding.temperature_of(kind)
        self.segments.append(Segment(kind, block, path, temperature=temperature or 1.0))
        return self.segments[-1]

    def force(self, tokens: Sequence[int]) -> None:
        segment = self.segments[-1]
        segment.tokens += tokens
        segment.sampled += [False] * len(tokens)
        segment.logprobs += [0.0] * len(tokens)

    @torch.inference_mode()
    def draw(self, stream: int, count: int) -> tuple[int, float]:
        """The next token of the last segment, or of the segment about to be begun where that one is empty."""
        pieces = [Piece("prompt", self.request.prompt, (False,) * len(self.request.prompt))]
        pieces += [Piece(s.kind, tuple(s.tokens), tuple(s.sampled), s.block, s.path) for s in self.segments if s.tokens]
        batch = collate([lay_out(pieces, self.decoding.mode)]).to(self.lm.device)
        logits = self.lm.model(
            input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).logits[:, -1]
        key = stream_key(self.seed, self.request.problem, self.request.sample, stream)
        uniform = torch.from_numpy(uniforms(np.array([key], np.uint64), np.array([count], np.uint64)))
        temperature = torch.tensor([self.decoding.temperature_of(self.segments[-1].kind)])
        decoding = self.decoding
        token, logprob = draw(
            logits, temperature.to(logits.device), uniform.to(logits.device), decoding.top_p, decoding.top_k
        )
        return int(token), float(logprob)

    def put(self, token: int, logprob: float) -> None:
        segment = self.segments[-1]
        segment.tokens.append(token)
        segment.sampled.append(True)
        segment.logprobs.append(logprob)

    def fill(self, limit: int, stops: dict[int, str], cut: str) -> str:
        """Draw into the last segment up to `limit` tokens; returns why it stopped: a stop token's name, or `cut`."""
        for count in range(limit):
            token, logprob = self.draw(len(self.segments), count)
            self.put(token, logprob)
            if token in stops:
                return stops[token]
        return cut


def _limit(most: int, left: int) -> tuple[int, str]:
    return (most, "budget") if most <= left else (left, "trace")


def _write_structured(page: _Page) -> None:
    decoding, tag, end = page.decoding, page.tag, page.lm.eos
    blocks = 0
    while True:
        main = page.open("main")
        limit, cut = _limit(decoding.max_main_tokens, page.left)
        main.stop = page.fill(limit, {tag["block_open"]: "fork", end: "eos"}, cut)
        if main.stop == "fork" and blocks == decoding.max_blocks:
            main.stop = "blocks"
        room = page.left - 2 * decoding.paths - len(page.join) - 1
        reserve = max(1, min(decoding.max_summary_tokens, room // (decoding.paths + 1)))
        share = (room - reserve) // decoding.paths
        if main.stop == "fork" and share < 1:
            main.stop = "trace"
        if main.stop != "fork":
            return
        for number in range(1, decoding.paths + 1):
            path = page.open("path", blocks, number)
            page.force([tag["path_open"]])
            limit, cut = _limit(decoding.max_path_tokens, share)
            _fill_and_close(page, path, limit, cut, tag["path_close"])
        summary = page.open("summary", blocks)
        page.force(page.join)
        limit, cut = _limit(decoding.max_summary_tokens, page.left - 1)
        _fill_and_close(page, summary, limit, cut, tag["summary_close"])
        blocks += 1


def _fill_and_close(page: _Page, segment: Segment, limit: int, cut: str, close: int) -> None:
    segment.stop = page.fill(limit, {close: "tag", page.lm.eos: "eos"}, cut)
    if segment.stop != "tag":
        page.force([close])


def _write_sequential(page: _Page) -> None:
    """A flat text; `where` walks main -> block -> path -> block -> .. -> summary -> main as the tags are drawn."""
    decoding, tag = page.decoding, page.tag
    close = {"path": tag["path_close"], "summary": tag["summary_close"]}
    where, blocks, count = "main", 0, 0
    page.open("main")
    limit, cut = _limit(decoding.max_main_tokens, page.left)
    while True:
        if limit < 1:
            page.segments[-1].stop = "trace"
            return
        token, logprob = page.draw(1, count)
        count += 1
        moves = {tag["path_open"]: "path", tag["block_close"]: "summary"} if where == "block" else {}
        if token in moves:
            where = moves[token]
            page.open(where, blocks - 1, page.segments[-1].path + 1 if where == "path" else 0)
            most = decoding.max_path_tokens if where == "path" else decoding.max_summary_tokens
            limit, cut = _limit(most, page.left - 2)  # this tag, and the one that may have to close what it opens
        else:
            limit -= 1
        page.put(token, logprob)
        segment = page.segments[-1]
        if token == page.lm.eos:
            segment.stop = "eos"
            return
        if where == "main" and token == tag["block_open"]:
            segment.stop = "blocks" if blocks == decoding.max_blocks else "fork"
            if segment.stop == "blocks":
                return
            where, blocks = "block", blocks + 1
            limit, cut = _limit(decoding.max_main_tokens, page.left)
        elif where in close and (token == close[where] or limit < 1):
            segment.stop = "tag" if token == close[where] else cut
            if token != close[where]:
                if page.left < 1:
                    return
                page.force([close[where]])
            where = "block" if where == "path" else "main"
            if where == "main":
                page.open("main")
            limit, cut = _limit(decoding.max_main_tokens, page.left)
        elif limit < 1:
            segment.stop = cut
            return
