"""One trace as it grows: its texts and the blocks in them, kept up to date from the events of its drawing.

A trace is a text; a block in a text holds paths and a summary, which are texts again. Tags are no part of a text here:
each of them ends a stretch. Sibling paths grow at once in the modes that isolate them, so a reader that goes from text
to text has to know which of them have ended: `Growing` finds that out by the same rules by which they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from polythink.engine.params import Event, SamplingParams
from polythink.engine.planning import Planning
from polythink.engine.tag_ids import TagIds
from polythink.models.lm import LanguageModel


@dataclass(frozen=True)
class Spelling:
    """The tags of a model: as token ids, and as they are spelled."""

    tags: TagIds
    texts: dict[int, str]  # by token id

    @classmethod
    def of(cls, lm: LanguageModel) -> Spelling:
        tags = TagIds.of(lm.dialect, lm.tag_ids, lm.ends, lm.encode, lm.decode)
        return cls(tags, {id: tag for tag, id in lm.tag_ids.items()})


@dataclass(slots=True, eq=False)
class Stretch:
    """Text without tags: each token's, with its event where the token was sampled and is neither a tag nor an end."""

    pieces: list[tuple[str, Event | None]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Text:
    """Main text, a path, or a summary: stretches and blocks in text order."""

    block: Block | None = None  # the innermost block around it; None: main text
    path: int = 0  # its place in the block from 1; 0: a summary, or main text
    label: int = 0  # the number in its tags, where it has one
    depth: int = 0  # blocks around it
    parts: list[Stretch | Block] = field(default_factory=list)
    blocks: int = 0  # in it
    due: list[str] = field(default_factory=list)  # tags that have been written, and are still to come in its text
    sampled: int = 0  # tokens of its own
    plan: Planning | None = None  # of a block that the model has begun here and that has not forked
    between: bool = False  # flat text: a block has been opened here that has no path yet
    closed: bool = False  # its closing tag has been written
    cut: str = ""  # why it was truncated, if it was
    ended: bool = False  # nothing is written in it or in its blocks any more

    @property
    def around(self) -> Iterator[Text]:
        """It and the texts around it, innermost first."""
        text: Text | None = self
        while text is not None:
            yield text
            text = text.block.text if text.block else None

    def add(self, piece: str, event: Event | None = None) -> None:
        if not (self.parts and isinstance(self.parts[-1], Stretch)):
            self.parts.append(Stretch())
        self.parts[-1].pieces.append((piece, event))

    def next_stretch(self) -> None:
        self.parts.append(Stretch())


@dataclass(slots=True, eq=False)
class Block:
    """A block in `text`."""

    text: Text
    paths: list[Text] = field(default_factory=list)
    summary: Text | None = None
    over: bool = False  # the text around it goes on, or has ended

    @property
    def joined(self) -> bool:
        """No more paths come."""
        return self.over or self.summary is not None


class Growing:
    """The texts of one trace that is drawn with `params`. `add` takes its events in order, each with the text that its
    token completes."""

    def __init__(self, spelling: Spelling, params: SamplingParams) -> None:
        self.spelling, self.tags, self.params = spelling, spelling.tags, params
        self.isolated = params.rules.isolated
        self.main = Text()
        self._texts: dict[tuple[int, int], Text] = {(-1, 0): self.main}
        self._blocks: dict[int, Block] = {}
        self._current = self.main  # the text of the last token
        self._doubtful: Text | None = None  # its closing tag was forced: the next event says whether it was cut

    def add(self, event: Event, text: str = "") -> None:
        doubtful, self._doubtful = self._doubtful, None
        if event.kind == "done":
            self._end(self.main)
            return
        place = self._place(event)
        if event.kind == "cut" and (doubtful is place or not place.closed):
            place.cut = event.finish_reason
        if doubtful is not None and self.isolated:
            self._end(doubtful)
        if event.kind in ("token", "join"):
            self._arrive(place)
        if event.kind == "token":
            self._write(place, event, text)

    # --- where an event belongs

    def _place(self, event: Event) -> Text:
        key = (event.block, event.path)
        if key in self._texts:
            return self._texts[key]
        if event.block not in self._blocks:
            text = self._current
            if text.block and text.closed and not text.path:  # one block comes right after another
                text = text.block.text
            self._blocks[event.block] = self._open(text)
        block = self._blocks[event.block]
        text = self._texts[key] = Text(block, event.path, event.label, block.text.depth + 1)
        if event.path:
            block.paths.append(text)
        else:
            block.summary = text
        return text

    def _open(self, text: Text) -> Block:
        block = Block(text)
        if text.parts and isinstance(text.parts[-1], Block):
            self._finish(text.parts[-1])
        text.parts.append(block)
        text.blocks += 1
        text.plan, text.between = None, False
        text.due.clear()
        return block

    # --- what has ended

    def _arrive(self, text: Text) -> None:
        """The trace goes on in this text: what comes before it in text order has ended, unless paths run at once."""
        if text is self._current:
            return
        self._current = text
        if text.parts and isinstance(text.parts[-1], Block):
            self._finish(text.parts[-1])
        for own in text.around:
            if own.block is None or (own.path and self.isolated):
                continue
            for path in own.block.paths:
                if path is own:
                    break
                self._end(path)

    def _finish(self, block: Block) -> None:
        if not block.over:
            block.over = True
            for text in (*block.paths, *([block.summary] if block.summary else [])):
                self._end(text)

    def _end(self, text: Text) -> None:
        if not text.ended:
            text.ended = True
            for part in text.parts:
                if isinstance(part, Block):
                    self._finish(part)

    # --- tokens

    def _write(self, text: Text, event: Event, piece: str) -> None:
        tag = self.spelling.texts.get(event.token)
        text.sampled += not event.forced
        if tag is not None:
            text.due.append(tag)
        while text.due and (at := piece.find(text.due[0])) >= 0:  # text may come later than its token
            text.add(piece[:at])
            text.next_stretch()
            piece = piece[at + len(text.due.pop(0)) :]
        told = tag is None and not event.forced and event.token not in self.tags.ends
        text.add(piece, event if told else None)
        if tag is not None:
            self._read(text, event)

    def _read(self, text: Text, event: Event) -> None:
        """Follow the plan of a block that is about to open, and find the tag that closes a path or summary."""
        token, read = event.token, ""
        if text.plan is not None:
            read = text.plan.read(token, len(text.plan.outlines) + 1)
            if read == "fork" or text.plan.over:
                text.plan = None
        elif token == self.tags.opens and self._nests(text):
            if not self.isolated:
                text.between = True
            elif self.tags.plan is not None:
                text.plan, read = Planning(self.tags, opened=self.tags.dialect.opening is None), "plan"
        if text.block is None or read or text.between or text.closed or token != self._closing(text):
            return
        text.closed = True
        if text.path and event.forced:
            self._doubtful = text
        elif text.path and self.isolated:
            self._end(text)

    def _closing(self, text: Text) -> int:
        if text.path:
            return self.tags.path_tags[max(text.label - 1, 0)][1]
        return self.tags.summary[1] if self.tags.summary else self.tags.joined

    # --- what may come

    def _nests(self, text: Text) -> bool:
        """May the text hold blocks?"""
        return text.depth == 0 or (self.tags.dialect.nests and text.depth < self.params.max_depth)

    def may_open(self, text: Text) -> bool:
        """May a further block come in this text? Never wrongly no."""
        if text.ended or text.blocks >= self.params.max_blocks or not self._nests(text):
            return False
        if not self.tags.opens_blocks:
            return False
        if not self.isolated or not self.tags.dialect.runtime_forks:
            return True
        at = 0 if self.params.fork_at is None else self.params.fork_at
        return text.depth == 0 and text.blocks == 0 and text.sampled <= at
