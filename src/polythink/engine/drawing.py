"""One trace while it is drawn: which branches are open, what they may still write, and the feeds they ask for.

No tensors here. The engine asks `take` for feeds, runs the model on them, and hands each wanted token to `accept`.
A feed is one token to be run through the model. Slots (places in the cache row) are handed out in the order of feeding.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from polythink.engine.decoding import Decoding, Event, OnEvent, Request
from polythink.engine.sampling import stream_key
from polythink.run.errors import UserError
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import CUTS, Rollout, Segment


@dataclass(frozen=True)
class Grammar:
    """The token ids that steer decoding: the tags, the end token, and what the runtime writes at a join."""

    block_open: int
    block_close: int
    path_open: int
    path_close: int
    summary_open: int
    summary_close: int
    end: int
    join: tuple[int, ...]  # `</Parallel>`, the gap, `<Summary>`

    @classmethod
    def of(cls, dialect: Dialect, tag_ids: dict[str, int], end: int, gap: list[int]) -> Grammar:
        ids = [tag_ids[tag] for tag in dialect.tags]
        return cls(*ids, end=end, join=(tag_ids[dialect.block_close], *gap, tag_ids[dialect.summary_open]))


@dataclass
class Branch:
    """The open end of a segment. `position` is that of the next token, `drawn` counts sampled tokens."""

    segment: int
    record: Segment
    position: int
    key: int  # random stream
    temperature: float
    limit: int = 0  # sampled tokens it may still write before it is cut
    limit_stop: str = ""  # which budget that limit comes from
    drawn: int = 0


class Feed(NamedTuple):
    """One token for the model. `branch` is set where the next token is to be drawn from its logits."""

    token: int
    segment: int
    position: int
    slot: int
    label: int = 0
    scale: float = 1.0
    branch: Branch | None = None


@dataclass
class Drawing:
    """The state of one request. `segments[0]` is the prompt; the others are numbered as they open."""

    request: Request
    index: int
    decoding: Decoding
    grammar: Grammar
    seed: int
    context: int
    on_event: OnEvent | None = None

    records: list[Segment] = field(default_factory=list)
    follows: list[tuple[int, ...]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # last position of each segment
    pending: deque[Feed] = field(default_factory=deque)
    opened: deque[int] = field(default_factory=deque)  # segments the engine has not entered in its table yet
    slots: int = 0
    written: int = 0  # response tokens so far
    blocks: int = 0
    waiting: int = 0  # paths of the open block that are not finished
    done: bool = False

    def __post_init__(self) -> None:
        prompt = self.request.prompt
        if not prompt:
            raise UserError("a prompt must have at least one token")
        room = self.context - len(prompt)
        if room < 1:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the model's context holds {self.context}; "
                "shorten the prompt or use a model with a longer context"
            )
        self.budget = min(self.decoding.max_trace_tokens, room)
        self._open("prompt", (), -1, 0)
        main = self._branch("main", (0,), -1, 0)
        # the first token of the response is drawn from the prompt's last logits
        for i, token in enumerate(prompt):
            self._feed(token, 0, i, main if i == len(prompt) - 1 else None)
        self.ends[0] = len(prompt) - 1
        main.position = len(prompt)

    # --- feeds

    def take(self, most: int) -> list[Feed]:
        """Up to `most` pending feeds, in order."""
        return [self.pending.popleft() for _ in range(min(most, len(self.pending)))]

    def _feed(self, token: int, segment: int, position: int, branch: Branch | None) -> None:
        self.pending.append(Feed(token, segment, position, self.slots, branch=branch))
        self.slots += 1

    def _write(self, branch: Branch, token: int, logprob: float | None, want: bool) -> None:
        """Append a token to the branch's segment and feed it; `logprob` None marks it as forced."""
        record = branch.record
        record.tokens.append(token)
        record.sampled.append(logprob is not None)
        record.logprobs.append(0.0 if logprob is None else logprob)
        self._feed(token, branch.segment, branch.position, branch if want else None)
        self.ends[branch.segment] = branch.position
        branch.position += 1
        self.written += 1
        if self.on_event is not None:
            self._event("token", branch, token=token, forced=logprob is None)

    # --- segments

    def _open(self, kind: str, follows: tuple[int, ...], block: int, path: int) -> int:
        self.records.append(Segment(kind, block, path))
        self.follows.append(follows)
        self.ends.append(max((self.ends[f] for f in follows), default=-1))
        self.opened.append(len(self.records) - 1)
        return len(self.records) - 1

    def _branch(self, kind: str, follows: tuple[int, ...], block: int, path: int) -> Branch:
        """Open a segment and the branch that writes it."""
        segment = self._open(kind, follows, block, path)
        record = self.records[segment]
        temperature = self.decoding.temperature_of(kind)
        record.temperature = temperature or 1.0
        key = stream_key(self.seed, self.request.problem, self.request.sample, segment)
        branch = Branch(segment, record, self.ends[segment] + 1, key, temperature)
        self._allow(branch, self.budget - self.written)
        return branch

    def _allow(self, branch: Branch, left: int) -> None:
        """Set the branch's budget: that of its kind, or the `left` tokens of the trace's where these are fewer."""
        kind = branch.record.kind
        most = getattr(self.decoding, f"max_{kind}_tokens")
        left -= kind != "main"  # a cut inside a block is closed by one forced tag
        branch.limit, branch.limit_stop = (most, "budget") if most <= left else (left, "trace")

    # --- what the model drew

    def accept(self, branch: Branch, token: int, logprob: float) -> None:
        """Record a drawn token and go on: write, fork, join, continue or end."""
        branch.drawn += 1
        branch.limit -= 1
        if self.decoding.mode == "sequential":
            self._accept_sequential(branch, token, logprob)
        elif branch.record.kind == "main":
            self._accept_main(branch, token, logprob)
        else:
            self._accept_inner(branch, token, logprob)

    def _accept_main(self, branch: Branch, token: int, logprob: float) -> None:
        forks, ends = token == self.grammar.block_open, token == self.grammar.end
        cut = branch.limit <= 0 and not ends and not forks
        self._write(branch, token, logprob, want=not (forks or ends or cut))
        if forks:
            self._fork(branch)
        elif ends or cut:
            self._end(branch, "eos" if ends else branch.limit_stop)

    def _accept_inner(self, branch: Branch, token: int, logprob: float) -> None:
        """A path or a summary: it stops at its closing tag, at the end token (then closed for it), or when cut."""
        close = self.grammar.path_close if branch.record.kind == "path" else self.grammar.summary_close
        stop = "tag" if token == close else "eos" if token == self.grammar.end else ""
        stop = stop or (branch.limit_stop if branch.limit <= 0 else "")
        self._write(branch, token, logprob, want=not stop)
        if not stop:
            return
        if stop != "tag":
            self._write(branch, close, None, want=False)
        self._stop(branch, stop)
        if branch.record.kind == "summary":
            self._continue(branch.segment)
            return
        self.waiting -= 1
        if self.waiting == 0:
            self._join(branch.record.block)

    def _fork(self, branch: Branch) -> None:
        """Open the block's paths, each with an equal share of what the trace may still hold besides the summary."""
        grammar, paths = self.grammar, self.decoding.paths
        if self.blocks >= self.decoding.max_blocks:
            self._end(branch, "blocks")
            return
        # the tags of paths and summary, and the summary's own tokens, are set aside first
        left = self.budget - self.written - 2 * paths - len(grammar.join) - 1
        share = (left - max(1, min(self.decoding.max_summary_tokens, left // (paths + 1)))) // paths
        if share < 1:
            self._end(branch, "trace")
            return
        self._stop(branch, "fork")
        block, self.blocks = self.blocks, self.blocks + 1
        self.waiting = paths
        for number in range(1, paths + 1):
            path = self._branch("path", (branch.segment,), block, number)
            self._allow(path, share + 1)
            self._event("fork", path)
            self._write(path, grammar.path_open, None, want=True)

    def _join(self, block: int) -> None:
        """Open the summary: it sees all paths and resumes after the longest."""
        paths = tuple(i for i, r in enumerate(self.records) if r.kind == "path" and r.block == block)
        summary = self._branch("summary", paths, block, 0)
        self._event("join", summary)
        *head, last = self.grammar.join
        for token in head:
            self._write(summary, token, None, want=False)
        self._write(summary, last, None, want=True)
        self._allow(summary, self.budget - self.written)

    def _continue(self, after: int) -> None:
        """Main text goes on after a summary: its first token is drawn from the logits of the closing tag just fed."""
        main = self._branch("main", (after,), -1, 0)
        if main.limit < 1:
            self._end(main, "trace")
        else:
            self.pending.append(self.pending.pop()._replace(branch=main))

    def _accept_sequential(self, branch: Branch, token: int, logprob: float) -> None:
        """One branch writes everything; tags only say where a segment begins and which budget counts."""
        grammar = self.grammar
        if branch.record.stop and token == grammar.path_open:  # between the paths of a block
            self._move(branch, "path", self.blocks - 1, branch.record.path + 1)
        elif branch.record.stop and token == grammar.block_close:
            self._move(branch, "summary", self.blocks - 1, 0)
        record, inside = branch.record, not branch.record.stop
        kind = record.kind if inside else "between"
        closing = {"path": grammar.path_close, "summary": grammar.summary_close}.get(kind)
        opens = kind == "main" and token == grammar.block_open
        cut = branch.limit <= 0 and token not in (closing, grammar.end) and not opens
        closable = closing is not None and self.written + 1 < self.budget  # there is room for the tag behind this token
        ends = token == grammar.end or (opens and self.blocks >= self.decoding.max_blocks) or (cut and not closable)
        self._write(branch, token, logprob, want=not (ends or cut))
        if ends:
            self._end(branch, "eos" if token == grammar.end else "blocks" if opens else branch.limit_stop)
        elif opens:
            self.blocks += 1
            self._stop(branch, "fork")
            self._go_on(branch)
        elif cut:
            self._write(branch, closing, None, want=True)
            self._close(branch, branch.limit_stop)
        elif token == closing:
            self._close(branch, "tag")

    def _close(self, branch: Branch, stop: str) -> None:
        """End a path or summary of a sequential trace; main text begins behind a summary."""
        self._stop(branch, stop)
        if branch.record.kind == "summary":
            self._move(branch, "main", -1, 0)
        self._go_on(branch)

    def _go_on(self, branch: Branch) -> None:
        """Between the segments of a block the trace's budget counts, and that of main text."""
        if branch.record.stop:
            left, most = self.budget - self.written, self.decoding.max_main_tokens
            branch.limit, branch.limit_stop = (most, "budget") if most <= left else (left, "trace")
        if branch.limit < 1:
            self._end(branch, "trace")

    def _move(self, branch: Branch, kind: str, block: int, path: int) -> None:
        """Let the branch of a sequential trace write a new segment, on the same random stream.

        A path or summary begins with the tag that is about to be written, which is not of its own budget.
        """
        branch.segment = self._open(kind, (branch.segment,), block, path)
        branch.record = self.records[branch.segment]
        branch.record.temperature = branch.temperature or 1.0
        self._allow(branch, self.budget - self.written - (kind != "main"))

    # --- ends

    def _stop(self, branch: Branch, stop: str) -> None:
        branch.record.stop = stop
        if stop in CUTS:
            self._event("cut", branch, stop=stop)

    def _end(self, branch: Branch, stop: str) -> None:
        self._stop(branch, stop)
        self.done = True
        self._event("done", branch)

    def _event(self, kind: str, branch: Branch, **facts) -> None:
        if self.on_event is not None:
            record = branch.record
            self.on_event(Event(kind, self.index, branch.segment, record.block, record.path, **facts))

    def rollout(self) -> Rollout:
        """The finished trace; texts are filled in by the engine."""
        assert self.done
        request = self.request
        return Rollout(request.problem, request.sample, self.decoding.mode, request.prompt, self.records[1:])
