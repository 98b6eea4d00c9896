"""The rules of `sequential` mode: one branch writes one flat text; its tags only say which segment it is in."""

from __future__ import annotations

from polythink.engine.trace_state import Branch, TraceState
from polythink.errors import UserError


class SequentialState(TraceState):
    """Tags are sampled like any other token. They end one segment, begin the next, and decide which budget counts.

    The segments follow each other, so every path sees the earlier ones. Where a dialect has no tags for the block,
    main text goes over into the first path, and the last path into the summary.
    """

    def _start(self) -> None:
        # a flat text has one position per token, so the context bounds the whole trace
        self.budget = min(self.budget, self.context - len(self.request.prompt))
        self._want(self._branch("main", (0,), -1, 0))

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
        self._enter(branch, token, label)
        record, inside = branch.record, not branch.record.finish_reason
        kind = record.kind if inside else "between"
        closing = tags.tags_of(record)[1] if kind in ("path", "summary") else None
        opens = kind == "main" and (token == tags.block_open if tags.block_open is not None else label is not None)
        truncated = branch.limit <= 0 and token != closing and token not in tags.ends and not opens
        closable = closing is not None and self.written + 1 < self.budget  # there is room for the tag after this token
        too_many = opens and self.blocks >= self.params.max_blocks
        ends = token in tags.ends or too_many or (truncated and not closable)
        self._write(branch, token, logprob, want=not (ends or truncated))
        if ends:
            self._end(branch, "eos" if token in tags.ends else "max_blocks" if opens else branch.limit_reason)
        elif opens:
            self._open_block(branch)
            self._resume(branch)
        elif truncated:
            self._write(branch, closing, None, want=True)
            self._close(branch, branch.limit_reason)
        elif token == closing:
            self._close(branch, "tag")

    def _enter(self, branch: Branch, token: int, label: int | None) -> None:
        """Move to the segment that this token begins, if any. `label`: the path number of an opening tag."""
        begins = self.tags.block_open is None and label is not None and branch.record.kind == "main"
        if begins and self.blocks < self.params.max_blocks:  # the block begins with its first path
            self._open_block(branch)
        if not branch.record.finish_reason:
            return
        if label is not None:  # between the paths of a block
            self._move(branch, "path", self.blocks - 1, branch.record.path + 1, label)
        elif token == self.tags.opens_summary:
            self._move(branch, "summary", self.blocks - 1, 0)

    def _open_block(self, branch: Branch) -> None:
        self.blocks += 1
        self._finish(branch, "fork")

    def _close(self, branch: Branch, reason: str) -> None:
        """End a path or summary; main text begins after a summary."""
        self._finish(branch, reason)
        if branch.record.kind == "summary":
            self._move(branch, "main", -1, 0)
        self._resume(branch)

    def _resume(self, branch: Branch) -> None:
        """Between the segments of a block the trace's budget counts, and that of main text."""
        if branch.record.finish_reason:
            self._limit(branch, self.params.max_main_tokens, self.budget - self.written)
        if branch.limit < 1:
            self._end(branch, "trace_length")

    def _move(self, branch: Branch, kind: str, block: int, path: int, label: int = 0) -> None:
        """Let the branch write a new segment, on the same random stream.

        A path or summary begins with the tag that is about to be written, which is not part of its own budget.
        """
        branch.segment = self._open(kind, (branch.segment,), block, path, label)
        branch.record = self.records[branch.segment]
        branch.record.temperature = branch.temperature or 1.0
        self._allow(branch, self.budget - self.written - (kind != "main"))
