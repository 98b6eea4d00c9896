"""A rollout: a trace as it was drawn, with every log-probability and the reason why each segment stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

from polythink.trace.layout import Layout, Piece, lay_out

# Why a segment stopped: `tag` its closing tag was drawn, `fork` a block was opened, `eos` the end token was drawn,
# `length` the segment's own budget ran out, `trace_length` the trace's budget ran out, `max_blocks` one block too many
# was opened, `joined` enough other paths had finished. The last four are truncations.
TRUNCATIONS = ("length", "trace_length", "max_blocks", "joined")


@dataclass
class Segment:
    """One segment as drawn. `logprobs` are natural logs under the policy at `temperature`, 0.0 for forced tokens."""

    kind: str  # "main", "path" or "summary"
    block: int  # -1 for main text
    path: int  # 1..P inside a block, 0 elsewhere
    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    temperature: float = 1.0  # 1.0 under greedy decoding as well: what `logprobs` refer to
    finish_reason: str = ""
    label: int = 0  # the number in the path's tags, where it has one
    misplaced_tags: int = 0  # tags of other elements that were drawn and replaced (`Dialect.misplaced_tags`)
    text: str = ""  # decoded, tags included, the end token left out


@dataclass
class Rollout:
    """One response to one prompt. `segments` are in text order."""

    problem: str  # key of the problem it answers
    sample: int  # which of the samples of that problem
    mode: str
    prompt: tuple[int, ...]
    segments: list[Segment]
    path_position_stride: int = 0  # see `lay_out`
    trained_paths: int = 0  # see `lay_out`

    @property
    def text(self) -> str:
        """The whole response as text."""
        return "".join(s.text for s in self.segments)

    @property
    def finish_reason(self) -> str:
        return self.segments[-1].finish_reason if self.segments else "trace_length"

    @property
    def truncated(self) -> int:
        """How many segments were cut by a budget."""
        return sum(s.finish_reason in TRUNCATIONS for s in self.segments)

    @property
    def misplaced_tags(self) -> int:
        """How many drawn tags of other elements the runtime replaced."""
        return sum(s.misplaced_tags for s in self.segments)

    @property
    def tokens(self) -> int:
        """Length of the response in tokens, over all paths, forced ones included."""
        return sum(len(s.tokens) for s in self.segments)

    def pieces(self) -> list[Piece]:
        """The pieces of prompt and response: what `lay_out` takes."""
        prompt = [Piece("prompt", self.prompt, (False,) * len(self.prompt))] if self.prompt else []
        return prompt + [
            Piece(s.kind, tuple(s.tokens), tuple(s.sampled), s.block, s.path, s.label)
            for s in self.segments
            if s.tokens
        ]

    def layout(self, mode: str | None = None) -> Layout:
        """The layout it was drawn in, or that of another mode."""
        return lay_out(self.pieces(), mode or self.mode, self.path_position_stride, self.trained_paths)
