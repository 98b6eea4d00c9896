"""The rules of `structured` mode: the runtime forks isolated paths, closes them, and joins them in a summary."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from polythink.engine.sampling import stream_key
from polythink.engine.trace_state import Branch, TraceState
from polythink.errors import UserError
from polythink.trace.finish import paths_needed
from polythink.trace.layout import join_scale


class StructuredState(TraceState):
    """Main text, then blocks: P paths that see the text before them and not each other, and a summary of all."""

    def _start(self) -> None:
        self.paths: list[Branch] = []  # of the open block
        forks = self._forks_at(0)
        if forks and self.tags.block_open is None:
            self._fork(0, None)
            return
        main = self._branch("main", (0,), -1, 0)
        if forks:
            self._force_fork(main)
        else:
            self._want(main)  # the response's first token comes from the prompt's last logits

    def _forks_at(self, drawn: int) -> bool:
        """Is the first fork forced after `drawn` tokens of the response?"""
        at = self.params.fork_at
        if at is None and self.tags.block_open is None:
            at = 0
        return at == drawn and self.blocks == 0

    @property
    def most_slots(self) -> int:
        p = self.params
        block = p.paths * (p.max_path_tokens + 2) + len(self.tags.join) + p.max_summary_tokens + 1
        longest = p.max_blocks * block + (p.max_blocks + 1) * (p.max_main_tokens + 1)
        return len(self.request.prompt) + min(self.budget, longest)

    # --- sampled tokens

    def on_token(self, branch: Branch, token: int, logprob: float) -> None:
        branch.drawn += 1
        branch.limit -= 1
        if branch.record.kind == "main":
            self._on_main_token(branch, token, logprob)
        else:
            self._on_inner_token(branch, token, logprob)

    def _on_main_token(self, branch: Branch, token: int, logprob: float) -> None:
        """Main text forks or ends. A tag that would be replaced elsewhere ends it, by a forced end token."""
        if token in self.tags.misplaced_tags:
            branch.record.misplaced_tags += 1
            self._write(branch, self.tags.end, None, want=False)
            self._end(branch, "eos")
            return
        forks, ends = token == self.tags.block_open, token in self.tags.ends
        truncated = branch.limit <= 0 and not ends and not forks
        forced = self._forks_at(branch.drawn) and not (forks or ends or truncated)
        self._write(branch, token, logprob, want=not (forks or ends or truncated or forced))
        if forks:
            self._fork(branch.segment, branch)
        elif forced:
            self._force_fork(branch)
        elif ends or truncated:
            self._end(branch, "eos" if ends else branch.limit_reason)

    def _on_inner_token(self, branch: Branch, token: int, logprob: float) -> None:
        """A path or summary stops at its closing tag, at the end token (then closed by force), or at its budget.

        Where the dialect says so, a tag that does not belong here is replaced by the segment's own tag, which is
        forced: a closing tag closes the segment, an opening tag stands in it as text.
        """
        tags = self.tags
        opened, close = tags.tags_of(branch.record)
        reason = "tag" if token == close else "eos" if token in tags.ends else ""
        replaced = tags.misplaced_tags and token != close and (token in tags.misplaced_tags or reason == "eos")
        if replaced and not reason:
            branch.record.misplaced_tags += 1
            reason = "tag" if token in tags.closing else ""
        closed = token == close or (replaced and reason)
        reason = reason or (branch.limit_reason if branch.limit <= 0 else "")
        if replaced:
            self._write(branch, close if closed else opened, None, want=not reason)
        else:
            self._write(branch, token, logprob, want=not reason)
        if not reason:
            return
        if not closed:
            self._write(branch, close, None, want=False)
        self._finish(branch, reason)
        if branch.record.kind == "summary":
            self._continue(branch.segment)

    def _continue(self, after: int) -> None:
        """Main text goes on after a summary: its first token comes from the logits of the closing tag just written."""
        main = self._branch("main", (after,), -1, 0)
        if main.limit < 1:
            self._end(main, "trace_length")
        else:
            self._want(main)

    # --- fork

    def _force_fork(self, main: Branch) -> None:
        """Fork here: the runtime writes the block's tag, where the dialect has one."""
        if self.tags.block_open is not None:
            self._write(main, self.tags.block_open, None, want=False)
        self._fork(main.segment, main)

    def _fork(self, segment: int, branch: Branch | None) -> None:
        """Open the block's paths, each with an equal share of what the trace may still hold besides the summary.

        They follow `segment`, which `branch` wrote; None where that is the prompt.
        """
        paths, share = self.params.paths, self._share(segment)
        refused = "max_blocks" if self.blocks >= self.params.max_blocks else "trace_length" if share < 1 else ""
        if refused:
            if branch is None:
                raise UserError(self._no_room(refused))
            self._end(branch, refused)
            return
        if branch is not None:
            self._finish(branch, "fork")
        block, self.blocks = self.blocks, self.blocks + 1
        key = stream_key(self.seed, self.request.problem, self.request.sample, -1 - block)
        rng = Random(key) if self.params.labels == "random" else None
        labels = self.tags.dialect.draw_labels(paths, rng) or (0,) * paths
        prefixes = dict(enumerate(self.request.path_prefixes, start=1)) if block == 0 else {}
        for number, label in enumerate(labels, start=1):
            path = self._branch("path", (segment,), block, number, label)
            self._allow(path, share + 1)
            self._event("fork", path)
            self.paths.append(path)
            self._open_path(path, prefixes.get(number, ()))

    def _share(self, segment: int) -> int:
        """How many tokens each path of a block after `segment` may have between its tags.

        The tags of paths and summary and the summary's own tokens are set aside first: from the tokens that the trace
        may still hold, and from the positions that the context has after the start of the last path.
        """
        p, fixed = self.params, len(self.tags.join) + 1
        left = self.budget - self.written - 2 * p.paths - fixed
        tokens = (left - max(1, min(p.max_summary_tokens, left // (p.paths + 1)))) // p.paths
        span = self.context - self.ends[segment] - 1 - (p.paths - 1) * p.stride - 2 - fixed
        return min(tokens, span - max(1, min(p.max_summary_tokens, span // 2)))

    def _open_path(self, path: Branch, prefix: Sequence[int]) -> None:
        """Write a path's opening tag and its forced prefix, which counts towards its budget."""
        path.limit -= len(prefix)
        if path.limit < 1:
            raise UserError(
                f"a path is to begin with {len(prefix)} tokens and may have {path.limit + len(prefix)}; "
                "raise max_path_tokens and max_trace_tokens"
            )
        self._force(path, (self.tags.tags_of(path.record)[0], *prefix))

    def _no_room(self, refused: str) -> str:
        if refused == "max_blocks":
            return "max_blocks is 0, but the dialect forks at the end of the prompt; allow one block"
        return (
            f"max_trace_tokens {self.budget} and the model's context of {self.context} positions, "
            f"{len(self.request.prompt)} of them the prompt's, leave no room for {self.params.paths} paths and a "
            "summary; raise them, or use fewer paths"
        )

    # --- join

    def join_if_ready(self) -> None:
        """Start the summary once enough paths have finished, truncating the others.

        Call after every token of a step has been accepted: only then have all siblings come equally far.
        """
        finished = sum(bool(path.record.finish_reason) for path in self.paths)
        if not self.paths or finished < paths_needed(self.params.join_when, len(self.paths)):
            return
        for path in self.paths:
            if not path.record.finish_reason:
                self.pending.wanted = [want for want in self.pending.wanted if want[1] is not path]
                self._write(path, self.tags.tags_of(path.record)[1], None, want=False)
                self._finish(path, "joined")
        block, self.paths = self.paths[0].record.block, []
        self._join(block)

    def _join(self, block: int) -> None:
        """Open the summary: it sees all paths and resumes after the longest."""
        paths = tuple(i for i, r in enumerate(self.records) if r.kind == "path" and r.block == block)
        summary = self._branch("summary", paths, block, 0)
        of_paths = sum(len(self.records[i].tokens) for i in paths)
        scale = join_scale(self._seen(paths), of_paths, len(paths), self.trained_paths)
        self.scales[summary.segment] = max(self.scales[summary.segment], scale)
        self._event("join", summary)
        self._force(summary, self.tags.join)
        self._allow(summary, self.budget - self.written)

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
