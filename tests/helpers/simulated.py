"""Traces drawn from a script instead of a model: states alone, thousands of tokens a second, tags where they belong.

The script knows the element that a branch is in and mostly follows the dialect's grammar, so that plans, blocks and
blocks in blocks occur and close. `noise` is how often it draws any tag at all, wherever it is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from polythink.engine.params import Request, SamplingParams
from polythink.engine.sampling import uniforms
from polythink.engine.sequential import SequentialState
from polythink.engine.structured import StructuredState
from polythink.engine.tag_ids import TagIds
from polythink.models.codec import Codec
from polythink.models.tags import tag_ids
from polythink.models.tokenizers import byte_tokenizer
from polythink.trace.dialect import get_dialect
from polythink.trace.production import Dialect

LETTERS = "abc d7\n"


@lru_cache
def bytes_of(dialect: Dialect) -> tuple[Codec, dict[str, int], int]:
    """The byte tokenizer's codec, its tags, its end token."""
    tokenizer = byte_tokenizer(dialect)
    ids, end = tag_ids(tokenizer, dialect), tokenizer.eos_token_id
    return Codec(tokenizer, ids.values(), [end]), ids, end


class Script:
    """Chooses the next token of a branch from its tokens so far and a number in [0, 1)."""

    def __init__(self, dialect: Dialect, ids: dict[str, int], end: int, codec, noise: float, blocks: float) -> None:
        self.d, self.ids, self.end, self.noise, self.blocks = dialect, ids, end, noise, blocks
        self.tags = frozenset(ids.values())
        self.letters = [codec.encode(letter)[0] for letter in LETTERS]
        self.gap, self.colon, self.decode = codec.encode("\n")[0], codec.encode(":")[0], codec.decode

    def tag(self, text: str) -> int:
        return self.ids[text]

    def next(self, state, branch, u: float) -> int:
        d, tokens, kind = self.d, branch.record.tokens, branch.record.kind
        if u < self.noise:
            return sorted({*self.tags, self.end})[int(u / self.noise * (len(self.tags) + 1))]
        u = (u - self.noise) / (1 - self.noise)
        planned = self.plan(tokens, u)
        if planned is not None:
            return planned
        if branch.record.finish_reason:  # between the paths of a flat text
            return self.between(state, u)
        if isinstance(state, SequentialState) and (due := self.due(state, branch)) is not None:
            return due
        after = d.closing[d.forced_closing :]
        if after and tokens in ([], [self.gap]) and self.after_block(state, branch):
            return self.gap if after[0].gap and not tokens else self.tag(after[0].text)
        opens = self.opens(state, branch)
        if u < self.blocks + 0.2 * (kind == "main") and opens is not None:
            return opens
        if u > 0.85:
            return self.end if kind == "main" else state.tags.tags_of(branch.record)[1]
        return self.letters[int(u * 997) % len(self.letters)]

    def due(self, state, branch) -> int | None:
        """What a path or summary of a flat text begins with, as far as it is not written."""
        record, tags = branch.record, state.tags
        if record.kind == "main" or self.after_block(state, branch):
            return None
        head = tags.join if record.kind == "summary" else tags.head(record.label, record.path, self.outline(state))
        written = list(tags.path_gap if record.kind == "path" else head[: head.index(tags.opens_summary)])
        written += record.tokens
        return head[len(written)] if written == list(head[: len(written)]) and len(written) < len(head) else None

    def outline(self, state) -> str:
        """The outline of the path that is open in a flat text."""
        fork, item = self.fork(state), [self.tag(tag) for tag in self.d.plan.item] if self.d.plan else None
        if item is None:
            return ""
        starts, ends = ([i for i, token in enumerate(fork.tokens) if token == tag] for tag in item)
        place = state.frames[-1].paths - 1
        return self.decode(fork.tokens[starts[place] + 1 : ends[place]]) if place < len(ends) else ""

    def fork(self, state):
        """The segment with the plan of the innermost open block."""
        frame = state.frames[-1]
        return next(r for r in reversed(state.records) if r.finish_reason == "fork" and r.block == frame.block)

    def opens(self, state, branch) -> int | None:
        """The tag that opens a block here, if one may stand here."""
        if isinstance(state, StructuredState):
            return state.tags.model_opens if state._may_open(branch) else None
        opens = state.tags.opens or self.tag(self.d.path_tags(1)[0])
        return opens if state._opens(opens, 1) and state.opened_here < state.params.max_blocks else None

    def after_block(self, state, branch) -> bool:
        follows = state.follows[branch.segment]
        return bool(follows) and state.records[follows[0]].kind == "summary"

    def plan(self, tokens: list[int], u: float) -> int | None:
        """The next token of a plan that is begun in these tokens."""
        if self.d.plan is None:
            return None
        plan, last = self.d.plan, next((t for t in reversed(tokens) if t in self.tags), None)
        item = [self.tag(t) for t in plan.item]
        fresh = tokens[-1:] == [last]
        if self.d.opening and last == self.tag(self.d.opening.text):
            return self.gap if fresh and plan.gap else self.tag(plan.open)
        if last == item[0]:
            said = len(tokens) - 1 - max(i for i, t in enumerate(tokens) if t == last)
            numbered = (self.letters[5], self.colon, self.letters[0])
            return item[1] if said == 3 else numbered[said] if u < 0.6 else self.letters[0]
        if last in (self.tag(plan.open), item[1]):
            if last != item[1] and fresh and u < 0.5:
                return self.letters[1]
            if tokens[-1] != self.gap and plan.gap:
                return self.gap
            return item[0] if last != item[1] or u < 0.9 else self.tag(plan.close)
        return None

    def between(self, state, u: float) -> int:
        """The next tag between the paths of a flat text."""
        d, frame, last = self.d, state.frames[-1], state.records[-1].tokens[-1:]
        declared = self.fork(state).tokens.count(self.tag(d.plan.item[0])) if d.declares_paths else 1 + int(u * 3)
        if frame.paths < max(declared, d.paths.least):
            gap, tag = d.paths.gap, self.tag(d.path_tags(min(frame.paths + 1, d.inventory or 1))[0])
        else:
            gap, tag = (*d.joining, d.summary)[0].gap, state.tags.opens_summary
        return self.gap if gap and last != [self.gap] else tag


def simulate(
    dialect: str | Dialect,
    params: SamplingParams,
    seed: int = 0,
    noise: float = 0.0,
    blocks: float = 0.08,
    context: int = 100_000,
    trained_paths: int = 0,
    emit=None,
):
    """The finished state of one trace, its texts decoded; `emit` takes its events. The dialect is one, or its name."""
    d = get_dialect(dialect) if isinstance(dialect, str) else dialect
    codec, ids, end = bytes_of(d)
    tags = TagIds.of(d, ids, [end], codec.encode, codec.decode, params.summary_prefix)
    script = Script(d, ids, end, codec, noise, blocks)
    kind = StructuredState if params.rules.isolated else SequentialState
    prompt = tuple(codec.encode("a b"))
    state = kind(Request(prompt, "p", seed), params, tags, context, seed, trained_paths, emit=emit)
    bound = state.most_slots
    while True:
        inputs = state.take(1 << 30)
        assert inputs.slot + len(inputs.tokens) <= bound, "more slots than announced"
        if state.done:
            break
        assert inputs.wanted, "nothing is wanted and the trace is not done"
        branches = [branch for _, branch in inputs.wanted]
        keys, counts = (np.array([getattr(b, name) for b in branches], np.uint64) for name in ("key", "drawn"))
        for branch, u in zip(branches, uniforms(keys, counts).tolist(), strict=True):
            state.on_token(branch, script.next(state, branch, u), -u)  # some log-probability, each another one
        state.join_if_ready()
        assert state.written <= state.budget
    for record in state.records[1:]:
        record.text = "" if record.kind == "copy" else codec.decode(record.tokens)
    return state
