"""One trace while it is drawn: which branches are open, what they may still write, and the feeds they ask for.

No tensors here. The engine asks `take` for feeds, runs the model on them, and hands each wanted token to `accept`.
A feed is one token to be run through the model. Slots (places in the cache row) are handed out in the order of feeding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from polythink.engine.params import Event, OnEvent, Request, SamplingParams
from polythink.engine.sampling import stream_key
from polythink.engine.tag_ids import TagIds
from polythink.errors import UserError
from polythink.trace.finish import paths_needed
from polythink.trace.layout import join_scale
from polythink.trace.rollout import TRUNCATIONS, Rollout, Segment


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


class TokenInput(NamedTuple):
    """One token for the model. `branch` is set where the next token is to be drawn from its logits."""

    token: int
    segment: int
    position: int
    slot: int
    label: int = 0  # of the segment: the path's number, 0 elsewhere
    scale: float = 1.0  # of the segment: factor on the query's attention scores
    branch: Branch | None = None


@dataclass
class TraceState:
    """The state of one request. `segments[0]` is the prompt; the others are numbered as they open."""

    request: Request
    index: int
    decoding: SamplingParams
    grammar: TagIds
    seed: int
    context: int
    on_event: OnEvent | None = None
    trained: int = 0  # the most paths that the model was trained with; beyond it attention is scaled (0: never)

    records: list[Segment] = field(default_factory=list)
    follows: list[tuple[int, ...]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # last position of each segment
    scales: list[float] = field(default_factory=list)  # factor on the attention scores of each segment's queries
    pending: deque[TokenInput] = field(default_factory=deque)
    opened: deque[int] = field(default_factory=deque)  # segments the engine has not entered in its table yet
    slots: int = 0
    taken: int = 0  # feeds that were taken so far
    written: int = 0  # response tokens so far
    blocks: int = 0
    paths: list[Branch] = field(default_factory=list)  # of the open block
    done: bool = False

    def __post_init__(self) -> None:
        prompt = self.request.prompt
        if not prompt:
            raise UserError("a prompt must have at least one token")
        if self.request.path_prefixes and self.decoding.mode == "sequential":
            raise UserError(
                "path_prefixes are forced on the paths of a block, and in the mode sequential no block is; "
                "put them behind the prompt, or draw in the mode structured"
            )
        room = self.context - len(prompt)
        if room < 1:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the model's context holds {self.context}; "
                "shorten the prompt or use a model with a longer context"
            )
        # parallel paths share positions: together they may have more tokens than the context has positions
        flat = self.decoding.mode == "sequential"
        self.budget = min(self.decoding.max_trace_tokens, room) if flat else self.decoding.max_trace_tokens
        self._open("prompt", (), -1, 0)
        self.ends[0] = len(prompt) - 1
        forks = self._forks_at(0)
        main = None if forks and self.grammar.block_open is None else self._branch("main", (0,), -1, 0)
        # the first token of the response is drawn from the prompt's last logits
        for i, token in enumerate(prompt):
            self._feed(token, 0, i, main if i == len(prompt) - 1 and not forks else None)
        if forks:
            self._force_fork(main)

    def _forks_at(self, drawn: int) -> bool:
        """Is the first fork forced behind so many tokens of the response?"""
        at = self.decoding.fork_at
        if at is None and self.grammar.block_open is None:
            at = 0
        return at == drawn and self.blocks == 0 and self.decoding.mode != "sequential"

    # --- feeds

    def take(self, most: int) -> list[TokenInput]:
        """The pending feeds in order, but no more than `most` of the prompt; what is behind it is never divided.

        So the paths of a block are always equally far, whatever the chunks.
        """
        of_prompt = len(self.request.prompt) - self.taken
        count = most if of_prompt > most else len(self.pending)
        self.taken += count
        return [self.pending.popleft() for _ in range(count)]

    def _feed(self, token: int, segment: int, position: int, branch: Branch | None) -> None:
        label, scale = self.records[segment].label, self.scales[segment]
        self.pending.append(TokenInput(token, segment, position, self.slots, label, scale, branch))
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

    def _open(self, kind: str, follows: tuple[int, ...], block: int, path: int, label: int = 0) -> int:
        self.records.append(Segment(kind, block, path, label=label))
        self.follows.append(follows)
        self.scales.append(max((self.scales[f] for f in follows), default=1.0))
        self.ends.append(max((self.ends[f] for f in follows), default=-1))
        self.opened.append(len(self.records) - 1)
        return len(self.records) - 1

    def _branch(self, kind: str, follows: tuple[int, ...], block: int, path: int, label: int = 0) -> Branch:
        """Open a segment and the branch that writes it."""
        segment = self._open(kind, follows, block, path, label)
        record = self.records[segment]
        temperature = self.decoding.temperature_of(kind)
        record.temperature = temperature or 1.0
        key = stream_key(self.seed, self.request.problem, self.request.sample, segment)
        position = self.ends[segment] + 1 + (path - 1) * self.decoding.stride * (kind == "path")
        branch = Branch(segment, record, position, key, temperature)
        self._allow(branch, self.budget - self.written)
        return branch

    def _allow(self, branch: Branch, left: int) -> None:
        """Set the branch's budget: that of its kind, or the `left` tokens of the trace's where these are fewer.

        Neither goes beyond the last position of the model's context.
        """
        kind = branch.record.kind
        most = getattr(self.decoding, f"max_{kind}_tokens")
        left = min(left, self.context - branch.position)
        left -= kind != "main"  # a cut inside a block is closed by one forced tag
        branch.limit, branch.limit_stop = (most, "length") if most <= left else (left, "trace_length")

    # --- what the model drew

    def on_token(self, branch: Branch, token: int, logprob: float) -> None:
        """Record a drawn token and go on: write, fork, join, continue or end."""
        branch.drawn += 1
        branch.limit -= 1
        if self.decoding.mode == "sequential":
            self._on_token_sequential(branch, token, logprob)
        elif branch.record.kind == "main":
            self._on_main_token(branch, token, logprob)
        else:
            self._on_inner_token(branch, token, logprob)

    def _on_main_token(self, branch: Branch, token: int, logprob: float) -> None:
        """Main text: it forks or ends. A tag that would be replaced elsewhere ends it, by a forced end token."""
        if token in self.grammar.misplaced_tags:
            branch.record.misplaced_tags += 1
            self._write(branch, self.grammar.end, None, want=False)
            self._end(branch, "eos")
            return
        forks, ends = token == self.grammar.block_open, token == self.grammar.end
        cut = branch.limit <= 0 and not ends and not forks
        forced = self._forks_at(branch.drawn) and not (forks or ends or cut)
        self._write(branch, token, logprob, want=not (forks or ends or cut or forced))
        if forks:
            self._fork(branch.segment, branch)
        elif forced:
            self._force_fork(branch)
        elif ends or cut:
            self._end(branch, "eos" if ends else branch.limit_stop)

    def _on_inner_token(self, branch: Branch, token: int, logprob: float) -> None:
        """A path or a summary: it stops at its closing tag, at the end token (then closed for it), or when cut.

        Where the dialect says so, a tag that does not belong here is replaced by the segment's own, which is forced:
        what closes closes, what opens goes on.
        """
        opened, close = self.grammar.tags_of(branch.record)
        stop = "tag" if token == close else "eos" if token == self.grammar.end else ""
        replaced = (
            self.grammar.misplaced_tags and token != close and (token in self.grammar.misplaced_tags or stop == "eos")
        )
        if replaced and not stop:
            branch.record.misplaced_tags += 1
            stop = "tag" if token in self.grammar.closing else ""
        closed = token == close or (replaced and stop)
        stop = stop or (branch.limit_stop if branch.limit <= 0 else "")
        if replaced:
            self._write(branch, close if closed else opened, None, want=not stop)
        else:
            self._write(branch, token, logprob, want=not stop)
        if not stop:
            return
        if not closed:
            self._write(branch, close, None, want=False)
        self._stop(branch, stop)
        if branch.record.kind == "summary":
            self._continue(branch.segment)

    def join_if_ready(self) -> None:
        """Join when enough paths are through: called when all tokens of a step are in. The other paths are cut here."""
        if not self.paths or sum(bool(p.record.finish_reason) for p in self.paths) < paths_needed(
            self.decoding.join_when, len(self.paths)
        ):
            return
        for path in self.paths:
            if not path.record.finish_reason:
                feeds = [feed._replace(branch=None) if feed.branch is path else feed for feed in self.pending]
                self.pending = deque(feeds)
                self._write(path, self.grammar.tags_of(path.record)[1], None, want=False)
                self._stop(path, "joined")
        block, self.paths = self.paths[0].record.block, []
        self._join(block)

    def _force_fork(self, main: Branch | None) -> None:
        """Fork behind what there is: the runtime writes the block's tag, where there is one."""
        if self.grammar.block_open is not None:
            self._write(main, self.grammar.block_open, None, want=False)
        self._fork(main.segment if main else 0, main)

    def _fork(self, segment: int, branch: Branch | None) -> None:
        """Open the block's paths, each with an equal share of what the trace may still hold besides the summary.

        They follow `segment`, which `branch` wrote; None where that is the prompt.
        """
        grammar, paths = self.grammar, self.decoding.paths
        share = self._share(segment)
        refused = "max_blocks" if self.blocks >= self.decoding.max_blocks else "trace_length" if share < 1 else ""
        if refused:
            if branch is None:
                raise UserError(self._no_room(refused))
            self._end(branch, refused)
            return
        if branch is not None:
            self._stop(branch, "fork")
        block, self.blocks = self.blocks, self.blocks + 1
        key = stream_key(self.seed, self.request.problem, self.request.sample, -1 - block)
        rng = Random(key) if self.decoding.labels == "random" else None
        labels = grammar.dialect.draw_labels(paths, rng) or (0,) * paths
        path_prefixes = dict(enumerate(self.request.path_prefixes, start=1)) if block == 0 else {}
        for number, label in enumerate(labels, start=1):
            path = self._branch("path", (segment,), block, number, label)
            self._allow(path, share + 1)
            self._event("fork", path)
            self.paths.append(path)
            self._open_path(path, path_prefixes.get(number, ()))

    def _share(self, segment: int) -> int:
        """How many tokens each path of a block behind `segment` may have between its tags.

        The tags of paths and summary, and the summary's own tokens, are set aside first: of the tokens that the trace
        may still hold, and of the positions that the context has behind the start of the last path.
        """
        d, fixed = self.decoding, len(self.grammar.join) + 1
        left = self.budget - self.written - 2 * d.paths - fixed
        tokens = (left - max(1, min(d.max_summary_tokens, left // (d.paths + 1)))) // d.paths
        span = self.context - self.ends[segment] - 1 - (d.paths - 1) * d.stride - 2 - fixed
        return min(tokens, span - max(1, min(d.max_summary_tokens, span // 2)))

    def _open_path(self, path: Branch, opening: Sequence[int]) -> None:
        """Write a path's tag and what it is forced to begin with, which counts towards its budget."""
        *head, last = (self.grammar.tags_of(path.record)[0], *opening)
        path.limit -= len(opening)
        if path.limit < 1:
            raise UserError(
                f"a path is to begin with {len(opening)} tokens and may have {path.limit + len(opening)}; "
                "raise max_path_tokens and max_trace_tokens"
            )
        for token in head:
            self._write(path, token, None, want=False)
        self._write(path, last, None, want=True)

    def _no_room(self, refused: str) -> str:
        if refused == "max_blocks":
            return "max_blocks is 0, but the dialect forks at the end of the prompt; allow one block"
        return (
            f"max_trace_tokens {self.budget} and the model's context of {self.context} positions, "
            f"{len(self.request.prompt)} of them the prompt's, leave no room for {self.decoding.paths} paths and a "
            "summary; raise them, or draw fewer paths"
        )

    def _join(self, block: int) -> None:
        """Open the summary: it sees all paths and resumes after the longest."""
        paths = tuple(i for i, r in enumerate(self.records) if r.kind == "path" and r.block == block)
        summary = self._branch("summary", paths, block, 0)
        of_paths = sum(len(self.records[i].tokens) for i in paths)
        scale = join_scale(self._seen(paths), of_paths, len(paths), self.trained)
        self.scales[summary.segment] = max(self.scales[summary.segment], scale)
        self._event("join", summary)
        *head, last = self.grammar.join
        for token in head:
            self._write(summary, token, None, want=False)
        self._write(summary, last, None, want=True)
        self._allow(summary, self.budget - self.written)

    def _seen(self, segments: Sequence[int]) -> int:
        """How many tokens can be read from behind these segments."""
        reached: set[int] = set()
        waiting = list(segments)
        while waiting:
            segment = waiting.pop()
            if segment not in reached:
                reached.add(segment)
                waiting += self.follows[segment]
        return len(self.request.prompt) + sum(len(self.records[i].tokens) for i in reached)

    def _continue(self, after: int) -> None:
        """Main text goes on after a summary: its first token is drawn from the logits of the closing tag just fed."""
        main = self._branch("main", (after,), -1, 0)
        if main.limit < 1:
            self._end(main, "trace_length")
        else:
            self.pending.append(self.pending.pop()._replace(branch=main))

    def _on_token_sequential(self, branch: Branch, token: int, logprob: float) -> None:
        """One branch writes everything; tags only say where a segment begins and which budget counts."""
        grammar, label = self.grammar, self.grammar.label_of.get(token)
        begins = grammar.block_open is None and label is not None and branch.record.kind == "main"
        if begins and self.blocks < self.decoding.max_blocks:  # the block begins with its first path
            self.blocks += 1
            self._stop(branch, "fork")
        if branch.record.finish_reason and label is not None:  # between the paths of a block
            self._move(branch, "path", self.blocks - 1, branch.record.path + 1, label)
        elif branch.record.finish_reason and token == grammar.opens_summary:
            self._move(branch, "summary", self.blocks - 1, 0)
        record, inside = branch.record, not branch.record.finish_reason
        kind = record.kind if inside else "between"
        closing = grammar.tags_of(record)[1] if kind in ("path", "summary") else None
        opens = kind == "main" and (
            token == grammar.block_open if grammar.block_open is not None else label is not None
        )
        cut = branch.limit <= 0 and token not in (closing, grammar.end) and not opens
        closable = closing is not None and self.written + 1 < self.budget  # there is room for the tag behind this token
        ends = token == grammar.end or (opens and self.blocks >= self.decoding.max_blocks) or (cut and not closable)
        self._write(branch, token, logprob, want=not (ends or cut))
        if ends:
            self._end(branch, "eos" if token == grammar.end else "max_blocks" if opens else branch.limit_stop)
        elif opens:
            self.blocks += 1
            self._stop(branch, "fork")
            self._resume(branch)
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
        self._resume(branch)

    def _resume(self, branch: Branch) -> None:
        """Between the segments of a block the trace's budget counts, and that of main text."""
        if branch.record.finish_reason:
            left, most = self.budget - self.written, self.decoding.max_main_tokens
            branch.limit, branch.limit_stop = (most, "length") if most <= left else (left, "trace_length")
        if branch.limit < 1:
            self._end(branch, "trace_length")

    def _move(self, branch: Branch, kind: str, block: int, path: int, label: int = 0) -> None:
        """Let the branch of a sequential trace write a new segment, on the same random stream.

        A path or summary begins with the tag that is about to be written, which is not of its own budget.
        """
        branch.segment = self._open(kind, (branch.segment,), block, path, label)
        branch.record = self.records[branch.segment]
        branch.record.temperature = branch.temperature or 1.0
        self._allow(branch, self.budget - self.written - (kind != "main"))

    # --- ends

    def _stop(self, branch: Branch, stop: str) -> None:
        branch.record.finish_reason = stop
        if stop in TRUNCATIONS:
            self._event("cut", branch, finish_reason=stop)

    def _end(self, branch: Branch, stop: str) -> None:
        self._stop(branch, stop)
        self.done = True
        self._event("done", branch)

    def _event(self, kind: str, branch: Branch, **facts) -> None:
        if self.on_event is not None:
            record = branch.record
            place = (self.index, branch.segment, record.block, record.path)
            self.on_event(Event(kind, *place, label=record.label, **facts))

    @property
    def most_tokens(self) -> int:
        """A bound on the tokens of the response."""
        d = self.decoding
        block = d.paths * (d.max_path_tokens + 2) + len(self.grammar.join) + d.max_summary_tokens + 1
        longest = d.max_blocks * block + (d.max_blocks + 1) * (d.max_main_tokens + 1)
        return min(self.budget, longest) if d.mode != "sequential" else self.budget

    def rollout(self) -> Rollout:
        """The finished trace; texts are filled in by the engine."""
        assert self.done
        request, decoding = self.request, self.decoding
        return Rollout(
            request.problem,
            request.sample,
            decoding.mode,
            request.prompt,
            self.records[1:],
            decoding.stride,
            self.trained,
        )
