"""A trace as it is followed: its events with the text they complete, and where a stop string or token ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polythink.engine.params import Event
from polythink.engine.trace_state import TraceState
from polythink.serve.detokenise import Decoding, Detokeniser
from polythink.serve.generation import Update, Wanted
from polythink.trace.rollout import Rollout, Segment


class StopStrings:
    """Text up to the first of some strings. Text that may yet turn out as the beginning of one is held back.

    A tag is given as a whole or not at all: where a stop string begins within one, the text ends before the tag.
    `between`: tags are not shown, so stop strings are looked for between them alone.
    """

    def __init__(self, stop: Sequence[str], between: bool = False) -> None:
        self.stop, self.between, self.held, self.hit = stop, between, "", False
        self._tags: list[tuple[int, int]] = []  # where tags begin and end in what is held

    def add(self, text: str, tag: str = "") -> str:
        """What of the text so far may be given now. `tag`: the tag that the text ends in, if it does."""
        if self.between and tag and text.endswith(tag):
            given = self.add(text.removesuffix(tag))
            return given if self.hit else given + self.end() + tag
        self.held += text
        if tag and text.endswith(tag):
            self._tags.append((len(self.held) - len(tag), len(self.held)))
        found = [at for at in (self.held.find(stop) for stop in self.stop) if at >= 0]
        if found:
            self.hit = True
        at = min(found) if found else len(self.held) - self._doubtful()
        at = next((begin for begin, end in self._tags if begin < at < end), at)
        self._tags = [(begin - at, end - at) for begin, end in self._tags if begin >= at]
        given, self.held = self.held[:at], "" if found else self.held[at:]
        return given

    def end(self) -> str:
        """What was held back."""
        held, self.held, self._tags = self.held, "", []
        return held

    def _doubtful(self) -> int:
        """Characters at the end that are the beginning of a stop string."""
        most = min(len(self.held), max(map(len, self.stop), default=1) - 1)
        ends = (n for n in range(most, 0, -1) if any(stop.startswith(self.held[-n:]) for stop in self.stop))
        return next(ends, 0)


class _Open:
    """A segment that is being written."""

    def __init__(self, decoding: Decoding, stop: StopStrings) -> None:
        self.text, self.stop, self.given = Detokeniser(decoding), stop, 0

    def take(self, token: int, tag: str, ended: bool, is_stop: bool) -> str:
        """The text to be given at this token. `tag`: how it is spelled if it is a tag; `ended`: it is the segment's
        last one; `is_stop`: it is a stop token."""
        if is_stop:
            new = self.stop.add(self.text.end())
            new += "" if self.stop.hit else self.stop.end()
            self.stop.hit = True
        else:
            new = self.stop.add(self.text.add(token), tag)
            if ended and not self.stop.hit:
                return self._given(new) + self.end()
        return self._given(new)

    def end(self) -> str:
        """What was held back."""
        new = self.stop.add(self.text.end())
        return self._given(new + ("" if self.stop.hit else self.stop.end()))

    @property
    def holds(self) -> bool:
        """Is text held back?"""
        return bool(self.stop.held) or self.text.holds

    def _given(self, text: str) -> str:
        self.given += len(text)
        return text


class Follower:
    """One trace: turns its events into updates. `stopped`: a stop string or token has come up, and the trace is to be
    ended."""

    def __init__(self, index: int, wanted: Wanted, state: TraceState, decoding: Decoding) -> None:
        self.index, self.wanted, self.state, self.decoding = index, wanted, state, decoding
        self._open: dict[int, _Open] = {}  # by segment
        self._given: dict[int, int] = {}  # characters of text that have been given, by segment
        self._stop_at: int | None = None  # the segment in which it was stopped
        self._flat = not wanted.params.rules.isolated  # one text: where a segment ends is known by the next token
        self._late: Update | None = None  # of the last token, while it is not known whether it ends its segment
        dialect, nests = state.tags.dialect, wanted.params.max_depth > 1
        plain = wanted.request.plain is not None  # a text without blocks, in which tags are like any other token
        self._tags = frozenset() if plain else state.tags.steering
        self._stops_in_summary = dialect.answers_in_summary and not nests

    @property
    def stopped(self) -> bool:
        return self._stop_at is not None

    def read(self, events: Sequence[Event]) -> list[Update]:
        """The updates of a step's events of this trace."""
        last = {event.segment: i for i, event in enumerate(events) if event.kind == "token"}
        updates = []
        for i, event in enumerate(events):
            if event.rollout is not None:
                event = replace(event, rollout=self._finished(event.rollout))
            elif self.stopped:
                continue
            text = self._text(event, last[event.segment] == i) if event.kind == "token" else ""
            updates += self._in_turn(Update(self.index, event, text))
        return [update for update in updates if self.wanted.stream or update.event.rollout is not None]

    def _in_turn(self, update: Update) -> list[Update]:
        """The update, after one that waited for it. In a flat text it waits if it holds text back."""
        event, late, self._late = update.event, self._late, None
        before = []
        if late is not None:
            segment, rest = late.event.segment, ""
            if event.kind == "token" and event.segment != segment:
                rest, self._given[segment] = self._open[segment].end(), self._open[segment].given
            before = [replace(late, text=late.text + rest)]
        if self._flat and event.kind == "token" and not self.state.done and self._open[event.segment].holds:
            self._late = update
            return before
        return [*before, update]

    def _text(self, event: Event, last: bool) -> str:
        segment = event.segment
        stoppable = event.block < 0 or (event.path == 0 and self._stops_in_summary)
        if segment not in self._open:
            stop = StopStrings(self.wanted.stop if stoppable else (), self.wanted.stop_between_tags)
            self._open[segment] = _Open(self.decoding, stop)
        own = self._open[segment]
        ended = last and (self.state.done if self._flat else self.state.ended(segment))
        is_stop = stoppable and not event.forced and event.token in self.wanted.stop_token_ids
        tag = self.decoding.alone(event.token) if event.token in self._tags else ""
        text = own.take(event.token, tag, ended, is_stop)
        self._given[segment] = own.given
        if own.stop.hit:
            self._stop_at = segment
        if ended:
            del self._open[segment]
        return text

    def _finished(self, rollout: Rollout) -> Rollout:
        """The rollout with the texts that have been given, where the trace was ended early.

        What the runtime wrote after a stop in the same step, into further segments, is left out.
        """
        if self.stopped:
            records: list[Segment] = self.state.records
            at = next(i for i, s in enumerate(rollout.segments) if s is records[self._stop_at])
            rollout = replace(rollout, segments=rollout.segments[: at + 1], stop="")
            rollout.segments[-1].finish_reason = "stop"
        if self.stopped or self._open:
            for segment, record in enumerate(self.state.records):
                if segment in self._given:
                    record.text = record.text[: self._given[segment]]
        return rollout
