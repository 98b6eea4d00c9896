"""The rules of modes of one flat text: one branch writes it; its tags only say which segment it is in."""

from __future__ import annotations

from dataclasses import dataclass

from polythink.engine.inputs import Branch, Room
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError


@dataclass(slots=True)
class Frame:
    """A text with a block open in it: the segment that goes on after the block, and what it may still sample."""

    kind: str
    block: int
    path: int
    label: int
    limit: int
    blocks: int  # opened in it
    number: int = -1  # of the open block
    paths: int = 0  # of the open block so far


class SequentialState(TraceState):
    """Tags are sampled like any other token. They end one segment, begin the next, and decide which budget counts.

    The segments follow each other, so every path sees the earlier ones. Where a block begins with its first path, main
    text goes over into that, and the last path into the summary. Blocks in paths and summaries are followed as deep as
    `max_depth` allows.
    """

    def _start(self) -> None:
        self._bound_by_context()
        self.frames: list[Frame] = []  # the texts with an open block, outermost first
        self.opened_here = 0  # blocks opened in the text that is being written
        branch = Branch(
            0, self.records[0], len(self.request.prompt), self._key(self.seed, 1), self.params.temperature_of("main")
        )
        self._move(branch, "main", -1, 0)
        self._allow(branch, self.budget)
        self._want(branch)

    def _check_room(self) -> None:
        super()._check_room()
        if self.request.path_prefixes:
            raise UserError(
                "path_prefixes are forced on the paths of a block, and in sequential mode the runtime opens none; "
                "append them to the prompt, or use mode: structured"
            )

    def on_token(self, branch: Branch, token: int, logprob: float) -> None:
        branch.drawn += 1
        branch.limit -= 1
        tags, label = self.tags, self.tags.label_of.get(token)
        overfull = self._between(branch) and label is not None and self.frames[-1].paths == self.params.max_paths
        before = branch.segment
        if not overfull:
            self._enter(branch, token, label)
        record, inside = branch.record, not branch.record.finish_reason
        closing = tags.tags_of(record)[1] if inside and record.kind != "main" else None
        opens = inside and branch.segment == before and self._opens(token, label)  # a path's tag opens that path alone
        truncated = branch.limit <= 0 and token != closing and token not in tags.ends and not opens
        closable = closing is not None and self.written + 1 < self.budget  # there is room for the tag after this token
        too_many = opens and self.opened_here >= self.params.max_blocks
        ends = token in tags.ends or too_many or overfull or (truncated and not closable)
        self._write(branch, token, logprob, want=not (ends or truncated))
        if ends:
            bound = "max_paths" if overfull else "max_blocks" if opens else branch.limit_reason
            self._end(branch, "eos" if token in tags.ends else bound)
        elif opens:
            self._open_block(branch)
            self._resume(branch)
        elif truncated:
            self._write(branch, closing, None, want=True)
            self._close(branch, branch.limit_reason)
        elif token == closing:
            self._close(branch, "tag")

    @staticmethod
    def _between(branch: Branch) -> bool:
        """Does the branch stand between the segments of a block?"""
        return bool(branch.record.finish_reason)

    def _plain_room(self, branch: Branch) -> int:
        return 0 if self._between(branch) else self.reach(branch) - 1

    def _opens(self, token: int, label: int | None) -> bool:
        """Does the token open a block in the text that is being written?"""
        if token != self.tags.opens if self.tags.opens is not None else label is None:
            return False
        depth = len(self.frames)
        return depth == 0 or (self.tags.dialect.nests and depth < self.params.max_depth)

    def _enter(self, branch: Branch, token: int, label: int | None) -> None:
        """Move to the segment that this token begins, if any. `label`: the path number of an opening tag."""
        if self.tags.opens is None and not branch.record.finish_reason and self._opens(token, label):
            if self.opened_here >= self.params.max_blocks:
                return
            self._open_block(branch)  # the block begins with its first path
        if not self._between(branch):
            return
        frame = self.frames[-1]
        if label is not None:  # between the paths of a block
            frame.paths += 1
            self._inside(branch, "path", frame.paths, label)
        elif token == self.tags.opens_summary:
            self._inside(branch, "summary", 0, 0)

    def _open_block(self, branch: Branch) -> None:
        record = branch.record
        place = (record.kind, record.block, record.path, record.label)
        self.frames.append(Frame(*place, branch.limit, self.opened_here + 1, self.blocks))
        self.blocks += 1
        self._finish(branch, "fork")

    def _inside(self, branch: Branch, kind: str, path: int, label: int) -> None:
        """Begin a path or summary with the tag that is about to be written, which is not part of its own budget."""
        self.opened_here = 0
        self._move(branch, kind, self.frames[-1].number, path, label)
        self._allow(branch, self.budget - self.written - 1)

    def _close(self, branch: Branch, reason: str) -> None:
        """End a path or summary; the text around the block goes on after its summary."""
        self._finish(branch, reason)
        if branch.record.kind == "summary":
            frame = self.frames.pop()
            self.opened_here = frame.blocks
            self._move(branch, frame.kind, frame.block, frame.path, frame.label)
            self._allow(branch, self.budget - self.written, None if frame.kind == "main" else frame.limit)
            self._close_spent(branch)
        self._resume(branch)

    def _close_spent(self, branch: Branch) -> None:
        """A path or summary with nothing left to sample after a block in it is closed at once, if there is room."""
        record = branch.record
        if record.kind != "main" and branch.limit < 1 and self.written < self.budget:
            self.pending.wanted.clear()
            self._write(branch, self.tags.tags_of(record)[1], None, want=True)
            self._close(branch, branch.limit_reason)

    def _resume(self, branch: Branch) -> None:
        """Between the segments of a block the trace's budget counts, and that of main text."""
        if self.done:
            return
        if branch.record.finish_reason:
            self._limit(branch, self.params.max_main_tokens, Room(self.budget - self.written, self.bound))
        if branch.limit < 1:
            self._end(branch, self.bound)

    def _allow(self, branch: Branch, left: int, own: int | None = None) -> None:
        """Set the branch's budget: that of its kind (`own`: what is left of it), or the `left` tokens of the trace."""
        kind = branch.record.kind
        left -= kind != "main"  # a truncated path or summary is closed by one forced tag
        self._limit(branch, getattr(self.params, f"max_{kind}_tokens") if own is None else own, Room(left, self.bound))

    def _move(self, branch: Branch, kind: str, block: int, path: int, label: int = 0) -> None:
        """Let the branch write a new segment, on the same random stream."""
        branch.segment = self._open(kind, (branch.segment,), block, path, label)
        branch.record = self.records[branch.segment]
        branch.record.temperature = branch.temperature or 1.0
