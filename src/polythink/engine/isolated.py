"""What the isolated modes keep: texts within texts, their segments, streams and limits, and what a join reads."""

from __future__ import annotations

from collections.abc import Sequence

from polythink.engine.inputs import Room, tightest
from polythink.engine.texts import Block, Text, blocks_in, in_text_order, most_tokens
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError
from polythink.trace.layout import join_scale
from polythink.trace.rollout import Segment


class IsolatedState(TraceState):
    """The texts of a trace and the segments in them. What happens to them is in `structured.py`."""

    main: Text

    def _check_room(self) -> None:
        super()._check_room()
        longest = max(map(len, self.request.path_prefixes), default=0)
        if longest >= self.params.max_path_tokens:
            raise UserError(
                f"path_prefixes force {longest} tokens on a path, and max_path_tokens={self.params.max_path_tokens} "
                "leaves it none to sample; raise that, or shorten the prefix"
            )
        given, most = len(self.request.path_prefixes), self.params.most_paths(self.tags.dialect)
        if given > most:
            raise UserError(f"path_prefixes are given for {given} paths, and the block has at most {most}; give fewer")
        if self.params.max_blocks:  # asked at the fork alone, it would end the drawing of all that runs beside
            self.tags.dialect.draw_labels(most, None)
        self._check_stride()

    def _check_stride(self) -> None:
        stride, paths, gap = self.params.stride, self.tags.dialect.paths, len(self.tags.path_gap)
        where = f"path_position_stride={self.params.path_position_stride}: in dialect {self.tags.dialect.name} paths"
        if stride and paths.heading:
            raise UserError(f"{where} begin with a heading, whose length is not known before; leave the stride at 0")
        if 0 < stride < (least := self.params.max_path_tokens + 2 + gap):
            raise UserError(f"{where} begin with a gap of {gap} tokens and would overlap; it must be at least {least}")

    @property
    def most_slots(self) -> int:
        return len(self.request.prompt) + min(self.budget, most_tokens(self.params, self.tags) or self.budget)

    @property
    def most_segments(self) -> int:
        """Of each block the paths, the summary and the copy that it may read; the prompt, and main text around them."""
        if self.tags.dialect.nests and self.params.max_depth > 1:
            return super().most_segments
        block = self.params.most_paths(self.tags.dialect) + 2
        return min(self.params.max_blocks * (block + 1) + 2, super().most_segments)

    @property
    def most_sequences(self) -> int:
        """Of each open block its fork, what the paths hold, and the copy and the summary that follow them."""
        paths, depth = self.params.most_paths(self.tags.dialect), self.params.max_depth
        most = 1
        for _ in range(depth if self.tags.dialect.nests else 1):
            most = min(paths * most + 3, self.most_slots)  # each has a token of its own
        return most + 2

    @property
    def followable(self) -> set[int]:
        """Of open blocks the fork too, which more paths may follow, and a copy; and the paths that a join will read."""
        unjoined = [block for block in blocks_in(self.main) if block.summary is None]
        read = () if self.params.rules.rereads else (path.segment for block in unjoined for path in block.paths)
        return super().followable | {block.fork for block in unjoined} | set(read)

    def _may_open(self, text: Text) -> bool:
        return text.depth == 0 or (self.tags.dialect.nests and text.depth < self.params.max_depth)

    # --- segments

    def _stream(self, text: Text) -> int:
        """The random stream of the next segment that is opened in a text; copies have none.

        Those of the outermost text are numbered; deeper ones are named by the stream of the text they lie in.
        """
        text.streams += 1
        return self._key(text.base, text.streams)

    def _go_on(self, text: Text, follows: tuple[int, ...]) -> None:
        """Open the text's next segment: its first one, or what comes after a block in it."""
        self._enter(text, follows, self._stream(text))
        self._allow(text)

    def _enter(self, text: Text, follows: tuple[int, ...], key: int) -> None:
        kind, _, path, _ = text.place
        first = not text.parts
        text.segment = self._open(kind, follows, *text.place[1:])
        text.record, text.key, text.drawn = self.records[text.segment], key, 0
        text.temperature = self.params.temperature_of(kind)
        text.record.temperature = text.temperature or 1.0
        text.position = self.ends[text.segment] + 1
        text.position += (path - 1) * self.params.stride * (first and kind == "path")
        text.parts.append(text.segment)

    def _inner(self, block: Block, path: int, label: int) -> Text:
        """A path of the block, or its summary (path 0), with a segment of its own."""
        place = ("path" if path else "summary", block.number, path, label)
        key = self._stream(block.text)
        text = Text(0, self.records[0], 0, key, 0.0, place=place, depth=block.text.depth + 1, block=block, base=key)
        self._enter(text, (block.fork,) if path else self._before_summary(block), key)
        return text

    def _room(self, text: Text) -> Room:
        """How many tokens the text may still hold, its closing tag left aside."""
        return Room(text.allowance - text.written - (text.depth > 0), text.bound)

    def _allow(self, text: Text) -> None:
        """Set the limit of an open text: what its own budget leaves, or the tokens of the trace and the context."""
        own = getattr(self.params, f"max_{text.place[0]}_tokens") - text.spent - text.drawn
        self._limit(text, own, self._left(text))

    def _left(self, text: Text) -> Room:
        """How many tokens the open text may hold; inner texts were given no more than there are positions for."""
        left = self._room(text)
        return left if text.depth else tightest(left, Room(self.context - text.position, "context"))

    # --- what a join reads

    def _copy(self, block: Block) -> None:
        """Run the text of the block's paths again, as it stands, after what the fork followed."""
        tokens = [token for path in block.paths for token in self._shown(path)]
        segment = block.copy = self._open("copy", (block.fork,), block.number, 0)
        record, first = self.records[segment], self.ends[segment] + 1
        record.tokens, record.sampled, record.logprobs = tokens, [False] * len(tokens), [0.0] * len(tokens)
        for position, token in enumerate(tokens, start=first):
            self._run(token, segment, position)
        self.ends[segment] = first + len(tokens) - 1
        self.written += len(tokens)
        block.text.written += len(tokens)

    def _shown(self, text: Text) -> list[int]:
        """The tokens of a text as it is read: with the blocks in it, without what their joins read again."""
        return [
            token for record in in_text_order(text, self.records) if record.kind != "copy" for token in record.tokens
        ]

    def _before_summary(self, block: Block) -> tuple[int, ...]:
        return (block.copy,) if block.copy is not None else tuple(path.segment for path in block.paths)

    def _scale(self, block: Block) -> None:
        """Scale attention after a join of more paths than the model was trained with."""
        own = [part for path in block.paths for part in path.parts if isinstance(part, int)]
        of_paths, ends = sum(len(self.records[i].tokens) for i in own), self._before_summary(block)
        scale = join_scale(self._seen(ends), of_paths, len(block.paths), self.trained_paths)
        segment = block.summary.segment
        self.scales[segment] = max(self.scales[segment], scale)

    def _seen(self, segments: Sequence[int]) -> int:
        """How many tokens a segment that follows these can read."""
        reached: set[int] = set()
        waiting = list(segments)
        while waiting:
            segment = waiting.pop()
            if segment not in reached:
                reached.add(segment)
                waiting += self.follows[segment]
        return len(self.request.prompt) + sum(len(self.records[i].tokens) for i in reached)

    def _text_order(self) -> list[Segment]:
        """The segments in text order, blocks numbered as they open in it."""
        return in_text_order(self.main, self.records, number=True)
