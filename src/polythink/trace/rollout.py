"""A rollout: a trace as it was drawn, with every log-probability and the reason why each segment stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

from polythink.trace.layout import Layout, Piece, lay_out
from polythink.trace.modes import STRUCTURED, Mode, get_mode

# Why a segment stopped: `tag` its closing tag was sampled, `fork` a block was opened, `eos` the end token was sampled,
# `length` the segment's own budget ran out, `trace_length` the trace's budget or a path's share of it, `context` the
# model's positions or a path's share of them, `max_blocks` the model opened more blocks than allowed, `max_paths` more
# paths of a block (`sequential` mode); and of paths that were stopped while their block ran, those of `STOPPED`, which
# says what they mean. A request may be ended from outside: `stop` a stop string or stop token came up, `abort` the
# caller gave it up; neither is a truncation, since no budget ran out, and all segments that were open then stopped for
# that reason.
STOPPED = {
    "joined": "enough other paths had finished",
    "agreed": "the controller found that the paths agree",
    "pruned": "the controller chose to go on without it",
}
OUT_OF_ROOM = ("trace_length", "context")
TRUNCATIONS = ("length", *OUT_OF_ROOM, "max_blocks", "max_paths", *STOPPED)


@dataclass
class Segment:
    """One segment as drawn. `logprobs` are natural logs under the policy at `temperature`, 0.0 for forced tokens."""

    kind: str  # "main", "path", "copy" (of the paths, read again before the summary) or "summary"
    block: int  # -1 for main text
    path: int  # 1..P inside a block, 0 elsewhere
    tokens: list[int] = field(default_factory=list)  # ids, those of its tags included
    sampled: list[bool] = field(default_factory=list)  # of each token: drawn from the model, not put there
    logprobs: list[float] = field(default_factory=list)  # of each token
    temperature: float = 1.0  # that of `logprobs`; 1.0 under greedy decoding too
    finish_reason: str = ""  # why it stopped
    label: int = 0  # the number in the path's tags, 0 where paths have none
    misplaced_tags: int = 0  # tags of other elements that were sampled and replaced (`Dialect.misplaced_tags`)
    text: str = ""  # decoded, with tags, without the end token; "" for a copy, which is not shown
    bounded: bool = False  # the model declared more paths than were allowed, and the runtime closed its plan
    empty_plans: int = 0  # plans that declared no path where paths are declared, so that no block was opened


@dataclass
class Rollout:
    """One response to one prompt. `segments` are in text order."""

    problem: str  # key of the problem
    sample: int  # number of the sample among those of the problem
    mode: str
    prompt: tuple[int, ...]
    segments: list[Segment]
    path_position_stride: int = 0  # see `lay_out`
    trained_paths: int = 0  # see `lay_out`
    stop: str = ""  # why the trace ended, where it did so after its last segment had stopped (between a block's paths)
    weight_version: str = ""  # of the weights that drew it, as a server names it; several: "3,4"; "" in this process
    _layouts: dict[tuple, tuple] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The whole response as text."""
        return "".join(s.text for s in self.segments)

    @property
    def finish_reason(self) -> str:
        return self.stop or (self.segments[-1].finish_reason if self.segments else "trace_length")

    @property
    def truncated(self) -> int:
        """Number of segments that were truncated, one that was stopped where the trace's budget ended among them."""
        stops = [s.finish_reason for s in self.segments]
        if self.stop in TRUNCATIONS and stops[-1] not in TRUNCATIONS:
            stops[-1] = self.stop
        return sum(stop in TRUNCATIONS for stop in stops)

    @property
    def stopped(self) -> dict[str, int]:
        """Number of paths that were stopped while their block ran, by each reason of `STOPPED`."""
        stops = [s.finish_reason for s in self.segments]
        return {reason: stops.count(reason) for reason in STOPPED}

    @property
    def misplaced_tags(self) -> int:
        """Number of sampled tags that the runtime replaced."""
        return sum(s.misplaced_tags for s in self.segments)

    @property
    def tokens(self) -> int:
        """Length of the response in tokens, over all paths, forced ones and copies included: what it costs."""
        return sum(len(s.tokens) for s in self.segments)

    def pieces(self) -> list[Piece]:
        """The pieces of prompt and response: what `lay_out` takes."""
        prompt = [Piece("prompt", self.prompt, (False,) * len(self.prompt))] if self.prompt else []
        return prompt + [
            Piece(s.kind, tuple(s.tokens), tuple(s.sampled), s.block, s.path, s.label)
            for s in self.segments
            if s.tokens
        ]

    @property
    def rules(self) -> Mode:
        """The mode's record."""
        return get_mode(self.mode)

    @property
    def critical_path(self) -> int:
        """Number of sequential steps of the response (the prompt is not counted): its last position; 0 without tokens.

        Positions that `path_position_stride` sets apart are no steps, so they are counted without it. Nor are tokens
        that a join reads again, all at once: isolated paths count with the longest in every mode.
        """
        if not self.tokens:
            return 0
        mode = STRUCTURED if self.rules.isolated else self.rules
        return int(self._lay_out(mode, 0).position.max()) + 1 - len(self.prompt)

    def layout(self, mode: str | None = None) -> Layout:
        """The layout in which it was drawn, or that of another mode."""
        return self._lay_out(self.rules if mode is None else get_mode(mode), self.path_position_stride)

    def _lay_out(self, mode: Mode, stride: int) -> Layout:
        """Cached, since statistics, training and reports all ask for it.

        Segments are mutable while a trace is drawn, but tokens are only ever added: a layout stays true as long as the
        lengths of the segments are the same.
        """
        lengths = [len(s.tokens) for s in self.segments]
        known, layout = self._layouts.get((mode, stride), (None, None))
        if known != lengths:
            layout = lay_out(self.pieces(), mode, stride, self.trained_paths)
            self._layouts[mode, stride] = (lengths, layout)
        return layout
