"""What is told of a trace: its tokens in text order as soon as their place is known, its events, its usage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polythink.trace.rollout import STOPPED, TRUNCATIONS, Rollout, Segment

if TYPE_CHECKING:
    from polythink.serve.generation import Update

CUT = frozenset(TRUNCATIONS) - frozenset(STOPPED)


@dataclass(slots=True)
class Token:
    """One token of a response. `logprob` is None for a forced one; `text` is what it completes."""

    id: int
    text: str
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)
class Piece:
    """What comes next in a response: some text and some tokens, either of which may be empty."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens)

    def extend(self, other: Piece) -> None:
        self.text += other.text
        self.tokens += other.tokens


class TextOrder:
    """One trace as a single text: the pieces that `add` gives concatenate to the text and the tokens of the whole.

    Paths that run at once are told one after the other: the first as it comes, the others when their block is joined.
    A block in a block makes all that follows wait for the trace's end.
    """

    def __init__(self) -> None:
        self.told = Piece()
        self.rollout: Rollout | None = None
        self._segments: dict[int, list[Token]] = {}  # by number of opening
        self._block: int | None = None  # whose paths run
        self._held: dict[int, Piece] = {}  # its paths but the first
        self._waits = False

    def add(self, update: Update) -> Piece:
        """What may be told after this update."""
        event, piece = update.event, Piece(update.text)
        if event.kind == "token":
            piece.tokens.append(Token(event.token, update.text, None if event.forced else event.logprob, event.top))
            self._segments.setdefault(event.segment, []).extend(piece.tokens)
        if event.kind == "done":
            self.rollout = event.rollout
            piece = self._rest(event.rollout)
        elif self._waits:  # at a join too: of the paths that it would tell, one may go on after a block in it
            piece = Piece()
        elif event.segment in self._held:
            self._held[event.segment].extend(piece)
            piece = Piece()
        elif event.kind == "fork":
            self._fork(event.block, event.segment)
        elif event.kind == "join" and event.block == self._block:
            for held in self._held.values():
                piece.extend(held)
            self._block, self._held = None, {}
        self.told.extend(piece)
        return piece

    def _fork(self, block: int, segment: int) -> None:
        """A path opens: there is an event for each."""
        if self._block is None:
            self._block = block
        elif block == self._block:
            self._held[segment] = Piece()
        else:
            self._waits, self._held = True, {}  # `_rest` tells them, in their place

    def _rest(self, rollout: Rollout) -> Piece:
        told, tokens = self.told, [token for segment in self._in_text_order(rollout) for token in segment]
        if not self._segments:  # it was not followed token by token
            tokens = [token for segment in rollout.segments if segment.kind != "copy" for token in _tokens(segment)]
        assert rollout.text.startswith(told.text), "what was told is no beginning of the trace"
        return Piece(rollout.text[len(told.text) :], tokens[len(told.tokens) :])

    def _in_text_order(self, rollout: Rollout) -> list[list[Token]]:
        """Segments open in the order of the text, but for blocks in blocks; there they are known by what was drawn."""
        if not self._waits:
            return [self._segments[number] for number in sorted(self._segments)]
        own, found = list(self._segments.values()), []
        left = [_drawn(segment) for segment in own]
        for segment in rollout.segments:
            if segment.kind != "copy" and segment.tokens:
                at = left.index(_drawn(_tokens(segment)))
                left.pop(at)
                found.append(own.pop(at))
        return found


def _drawn(tokens: Sequence[Token]) -> list[tuple[int, float | None]]:
    return [(token.id, token.logprob) for token in tokens]


def _tokens(segment: Segment) -> list[Token]:
    columns = zip(segment.tokens, segment.sampled, segment.logprobs, strict=True)
    return [Token(id, "", logprob if sampled else None) for id, sampled, logprob in columns]


def token_ids(rollout: Rollout) -> list[int]:
    """The tokens of a trace in text order, without what a join reads again."""
    return [token for segment in rollout.segments if segment.kind != "copy" for token in segment.tokens]


# ---- why it ended, and what it took ----


def finish_reason(rollout: Rollout) -> str:
    """OpenAI's word for why a trace ended: `length` where a budget ran out, `abort` where it was given up, `stop`."""
    reason = rollout.finish_reason
    return "length" if reason in CUT else "abort" if reason == "abort" else "stop"


def stop_reason(
    rollout: Rollout, stops: Sequence[str], stop_token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> str | int | None:
    """vLLM's: the stop string or the id of the stop token, None for any other end."""
    if rollout.finish_reason != "stop":
        return None
    last = rollout.segments[-1]
    if last.tokens[-1] in stop_token_ids:
        return last.tokens[-1]
    whole = decode(last.tokens)  # cut before a stop string, or before the tag in which it begins
    found = [(at, i) for i, at in enumerate(whole.find(stop, len(last.text)) for stop in stops) if at >= 0]
    return stops[min(found)[1]] if found else None


def usage(prompts: Iterable[int], rollouts: Iterable[Rollout], answers_in_summary: bool) -> dict[str, Any]:
    """The object `usage`: tokens of the prompts (each once) and of all responses, forced ones included.

    `reasoning_tokens` are those before the answer: of everything up to the end of the last block (of its paths, where
    the dialect's answer stands in the summary). `critical_path_tokens` are the sequential steps that the responses
    took: fewer than their tokens where paths ran at once. What a join reads again is not counted.
    """
    prompt, own = sum(prompts), list(rollouts)
    completion = sum(len(s.tokens) for r in own for s in r.segments if s.kind != "copy")
    details = {
        "reasoning_tokens": sum(_reasoning(r, answers_in_summary) for r in own),
        "critical_path_tokens": sum(r.critical_path for r in own),
    }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": details,
    }


def _reasoning(rollout: Rollout, answers_in_summary: bool) -> int:
    segments = [s for s in rollout.segments if s.kind != "copy"]
    inside = ("path",) if answers_in_summary else ("path", "summary")
    last = max((i for i, segment in enumerate(segments) if segment.kind in inside), default=-1)
    return sum(len(segment.tokens) for segment in segments[: last + 1])


# ---- events, for clients that know us ----


def told_event(update: Update) -> dict[str, Any]:
    """The object `polythink` of a delta: what happened, and where."""
    event = update.event
    found: dict[str, Any] = {
        "event": event.kind,
        "segment": event.segment,
        "block": event.block,
        "path": event.path,
        "label": event.label,
        "text": update.text,
    }
    if event.kind == "token":
        found |= {"forced": event.forced, "token_id": event.token}
    elif event.kind == "cut":
        found["finish_reason"] = event.finish_reason
    elif event.rollout is not None:
        rollout = event.rollout
        found |= {"text": rollout.text, "tokens": rollout.tokens, "critical_path": rollout.critical_path}
        found["finish_reason"] = rollout.finish_reason
    return found
