"""The state of one trace while it is sampled: its segments, open branches, budgets, and the tokens to run next.

No tensors here. The engine calls `take` for the tokens of the next step, hands each sampled token to `on_token`, and
calls `join_if_ready` once all tokens of the step are in. `structured.py` holds the rules of the modes in which the
runtime forks, `sequential.py` those of one flat text; this file holds what they share. Slots (places in the cache row)
are given out in the order of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from polythink.engine.inputs import Branch, Room, Tokens, tightest
from polythink.engine.params import Event, Request, SamplingParams
from polythink.engine.sampling import stream_key
from polythink.engine.tag_ids import TagIds
from polythink.errors import UserError
from polythink.trace.rollout import TRUNCATIONS, Rollout, Segment


class TraceState(Tokens):
    """What all modes share. Segment 0 is the prompt; the others are numbered as they open.

    `trained_paths`: with more paths than that, attention after a join is scaled (0: never). `emit` takes the events of
    a request that is streamed; without it no event is made. `UserError` for a prompt that leaves no room.
    """

    def __init__(
        self,
        request: Request,
        params: SamplingParams,
        tags: TagIds,
        context: int,
        seed: int = 0,
        trained_paths: int = 0,
        id: int = 0,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__()
        self.request, self.params, self.tags, self.context = request, params, tags, context
        self.prompt = request.prompt
        self.seed, self.trained_paths, self.id, self.emit = seed, trained_paths, id, emit
        self.follows: list[tuple[int, ...]] = []
        self.labels: list[int] = []  # path number of each segment, 0 elsewhere
        self.scales: list[float] = []  # of each segment: factor on the attention scores of its queries
        self.streams: dict[int, tuple[int, int]] = {}  # by key of a random stream: the seed and the number in its name
        self.budget, self.bound = params.max_trace_tokens, "trace_length"  # tokens, and the reason where they run out
        self.written = 0  # response tokens so far
        self.blocks = 0
        self.last: Branch | None = None  # the branch that ended the trace
        self.top = 0  # how many alternatives to each sampled token its events are to tell
        self.early: list[Event] = []  # what happened before it was queued, where `emit` keeps it here
        self.stop = ""  # why the trace ended, where that was between segments
        self._check_room()
        self._open("prompt", (), -1, 0)
        self.ends[0] = len(request.prompt) - 1
        self._start()

    def _check_room(self) -> None:
        prompt = self.request.prompt
        if not prompt:
            raise UserError("a prompt must have at least one token")
        if len(prompt) >= self.context:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the model's context holds {self.context}; "
                "shorten the prompt or use a model with a longer context"
            )

    # --- the rules of a mode

    def _start(self) -> None:
        """Open what follows the prompt, whose tokens are pending."""
        raise NotImplementedError

    def on_token(self, branch: Branch, token: int, logprob: float) -> None:
        """Record a sampled token and go on: write, fork, close, continue or end."""
        raise NotImplementedError

    def join_if_ready(self) -> None:
        """Start the summary once enough paths have finished. Call after every token of a step has been accepted."""

    def reach(self, branch: Branch) -> int:
        """After how many more sampled tokens, tags and ends aside, the branch is stopped or the trace is looked at."""
        return branch.limit

    def _plain_room(self, branch: Branch) -> int:
        """How many tokens that are neither tags nor ends `on_token` just appends and continues after; 0: do not ask."""
        return 0

    @property
    def most_slots(self) -> int:
        """A bound on the tokens of prompt and response together."""
        return len(self.request.prompt) + self.budget

    @property
    def most_segments(self) -> int:
        """A bound on the segments: all but main text have an opening and a closing tag."""
        return self.most_slots * 2 // 3 + 2

    @property
    def slots(self) -> int:
        """Slots in use after the next step, or after several where the prompt is still being read."""
        return len(self.request.prompt) - self.shared + self.written

    @property
    def followable(self) -> set[int]:
        """The segments that run or may be followed: those that have not ended or have tokens to run, and the last.

        A backend that keeps a cache for each segment may forget all others, but for what an empty one goes on from.
        """
        written = (s for s, record in enumerate(self.records) if s and record.kind != "copy")
        unended = (s for s in written if not self.records[s].finish_reason)
        return {len(self.records) - 1, *unended, *self.waiting}

    @property
    def most_sequences(self) -> int:
        """A bound on the segments that run or may be followed at a time: one, and the next where it follows that."""
        return 2

    # --- tokens

    def plain_room(self) -> int:
        """For how many steps every open branch continues plainly, as long as none draws a tag or an end.

        That is with one token each to run next, its own last one, and no event to tell.
        """
        pending = self.pending
        busy = self.opened or self.again.tokens or self.read < len(self.request.prompt) or self.emit is not None
        busy = busy or self.parted or (self.grant is not None and self.width > 1)  # its branches may have to take turns
        if busy or self.done or not pending.wanted or len(pending.wanted) != len(pending.tokens):
            return 0
        if any(
            i != index or branch.segment != segment
            for i, ((index, branch), segment) in enumerate(zip(pending.wanted, pending.segments, strict=True))
        ):
            return 0  # fmt: skip
        return min(self._plain_room(branch) for _, branch in pending.wanted)

    def append_plain(
        self, branches: Sequence[Branch], tokens: Sequence[list[int]], logprobs: Sequence[list[float]]
    ) -> None:
        """What `on_token` does for several plain tokens of each branch, but that `written` counts them already."""
        for branch, own, likely in zip(branches, tokens, logprobs, strict=True):
            record, n = branch.record, len(own)
            record.tokens += own
            record.logprobs += likely
            record.sampled += [True] * n
            branch.drawn += n
            branch.limit -= n
            branch.position += n
            branch.written += n
            self.ends[branch.segment] += n

    def _write(self, branch: Branch, token: int, logprob: float | None, want: bool = False) -> None:
        """Append a token to the branch's segment and run it; `logprob` None marks it as forced."""
        record = branch.record
        record.tokens.append(token)
        record.sampled.append(logprob is not None)
        record.logprobs.append(0.0 if logprob is None else logprob)
        self._run(token, branch.segment, branch.position)
        if want:
            self._want(branch)
        self.ends[branch.segment] = branch.position
        branch.position += 1
        branch.written += 1
        self.written += 1
        if self.emit is not None:
            self._event("token", branch, token=token, forced=logprob is None, logprob=record.logprobs[-1],
                        top=() if logprob is None else branch.top)  # fmt: skip

    def _force(self, branch: Branch, tokens: Iterable[int], want: bool = False) -> None:
        """Write forced tokens, after which the branch samples if `want`."""
        for token in tokens:
            self._write(branch, token, None)
        if want:
            self._want(branch)

    # --- segments

    def _open(self, kind: str, follows: tuple[int, ...], block: int, path: int, label: int = 0) -> int:
        self.records.append(Segment(kind, block, path, label=label))
        self.follows.append(follows)
        self.labels.append(label)
        self.scales.append(max([self.scales[f] for f in follows], default=1.0))
        self.ends.append(max([self.ends[f] for f in follows], default=-1))
        self.opened.append(len(self.records) - 1)
        return len(self.records) - 1

    def _key(self, seed: int, number: int) -> int:
        """The key of the random stream of that name."""
        key = stream_key(seed, self.request.problem, self.request.sample, number)
        self.streams[key] = (seed, number)
        return key

    def name_of(self, key: int) -> tuple[int, ...]:
        """The numbers that name a random stream in this trace, from the outermost text's on: `Continuation.segment`."""
        numbers: tuple[int, ...] = ()
        while key in self.streams:
            key, number = self.streams[key]
            numbers = (number, *numbers)
        return numbers

    @staticmethod
    def _limit(branch: Branch, most: int, left: Room) -> None:
        """Set what the branch may sample: `most` tokens by its own budget, what is `left` by that of all."""
        branch.limit, branch.limit_reason = tightest(Room(most, "length"), left)

    def _bound_by_context(self) -> None:
        """Of a flat text, which has one position per token: the context bounds all of it."""
        ahead = self.context - len(self.request.prompt)
        if ahead < self.budget:
            self.budget, self.bound = ahead, "context"

    # --- ends

    @property
    def done(self) -> bool:
        return self.last is not None

    def _finish(self, branch: Branch, reason: str) -> None:
        """End the branch's segment."""
        branch.record.finish_reason = reason
        if reason in TRUNCATIONS:
            self._event("cut", branch, finish_reason=reason)

    def _end(self, branch: Branch, reason: str) -> None:
        """End the trace, and the branch's segment unless it was closed before: its stop is written once.

        Text between the tags of a block counts as main text where it follows a fork.
        """
        if branch.record.finish_reason in ("", "fork"):
            self._finish(branch, reason)
        else:
            self.stop = reason
            if reason in TRUNCATIONS and branch.record.finish_reason not in TRUNCATIONS:
                self._event("cut", branch, finish_reason=reason)
        self.last = branch

    def stop_here(self, reason: str) -> None:
        """End the trace from outside, between two steps: what has been drawn stands, open segments stop for `reason`.

        The last segment stands for the branch that ended it.
        """
        assert not self.done
        for record in self.records[1:]:
            record.finish_reason = record.finish_reason or reason
        segment, record = len(self.records) - 1, self.records[-1]
        self.stop = "" if self._text_order()[-1].finish_reason == reason else reason
        self.last = Branch(segment, record, self.ends[segment] + 1, 0, 0.0)

    def ended(self, segment: int) -> bool:
        """Has this segment stopped?"""
        return self.done or bool(self.records[segment].finish_reason)

    def _event(self, kind: str, branch: Branch, **facts) -> None:
        if self.emit is not None:
            self.emit(self.event(kind, branch, **facts))

    def event(self, kind: str, branch: Branch, **facts) -> Event:
        record = branch.record
        return Event(kind, self.id, branch.segment, record.block, record.path, label=record.label, **facts)

    def rollout(self) -> Rollout:
        """The finished trace."""
        assert self.done
        for record in self.records[1:]:
            record.text = "" if record.kind == "copy" else self.tags.decode(record.tokens)
        request, params = self.request, self.params
        return Rollout(
            request.problem,
            request.sample,
            params.mode,
            request.prompt,
            self._text_order(),
            params.stride,
            self.trained_paths,
            self.stop,
        )

    def _text_order(self) -> list[Segment]:
        """The segments in text order."""
        return self.records[1:]
