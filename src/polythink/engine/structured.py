"""The rules of the modes with isolated paths: the runtime forks, closes paths, and joins them in a summary.

A trace is a text; a block in a text holds paths and a summary, which are texts again and may hold blocks where the
dialect nests. `texts.py` has the records of both. The join reads the paths' own keys and values, or a copy of their
text where the mode rereads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from polythink.engine.controllers import OFF
from polythink.engine.inputs import Room, tightest
from polythink.engine.isolated import IsolatedState
from polythink.engine.planning import Planning, Read
from polythink.engine.policies import answer_of
from polythink.engine.probing import Probing
from polythink.engine.sampling import stream_key
from polythink.engine.texts import Block, Text, reach_of, share_of
from polythink.engine.width import WIDTHS, ForkState, wanted
from polythink.errors import UserError
from polythink.trace.finish import paths_needed


class StructuredState(IsolatedState):
    """Main text, then blocks: paths that see the text before them and not each other, and a summary of all."""

    def _start(self) -> None:
        self.policy = WIDTHS.function(self.params.width)
        probes = self.params.controller != OFF
        self.probing = Probing(self.params, self.request.prompt, self.tags.decode) if probes else None
        self.ready: list[Block] = []  # blocks whose paths have ended
        prompt, size = self.records[0], len(self.request.prompt)
        self.main = Text(0, prompt, size, 0, 0.0, place=("main", -1, 0, 0), base=self.seed, allowance=self.budget)
        if not self._forks_at(0):
            self._go_on(self.main, (0,))
            self._want(self.main)  # the response's first token comes from the prompt's last logits
        elif not self.tags.begin:
            self._fork(self.main)
        else:
            self._go_on(self.main, (0,))
            self._begin(self.main)

    def _forks_at(self, drawn: int) -> bool:
        """Is the first block begun by the runtime after `drawn` tokens of the response?"""
        return self._first_fork == drawn and self.main.blocks == 0

    @property
    def _first_fork(self) -> int | None:
        """After how many tokens of the response the runtime begins the first block, if it does."""
        at = self.params.fork_at
        return 0 if at is None and self.tags.dialect.runtime_forks else at

    # --- sampled tokens

    def on_token(self, branch: Text, token: int, logprob: float) -> None:
        branch.drawn += 1
        branch.limit -= 1
        read = self._read(branch, token)
        if branch.depth == 0:
            self._on_main_token(branch, token, logprob, read)
        else:
            self._on_inner_token(branch, token, logprob, read)

    def reach(self, text: Text) -> int:
        reach, at = text.limit, self._first_fork
        if text.depth == 0 and text.blocks == 0 and at is not None and at > text.drawn:
            reach = min(reach, at - text.drawn)
        if self.probing is not None:
            reach = min(reach, self.probing.room(text) + 1)
        return reach

    def _plain_room(self, text: Text) -> int:
        return 0 if text.plan is not None else self.reach(text) - 1

    def _read(self, text: Text, token: int) -> Read:
        """What the token is to a block that the text is about to open."""
        if text.plan is None:
            if token != self.tags.model_opens or not self._may_open(text):
                return ""
            if self.tags.plan is None:
                return "fork"
            text.plan = Planning(self.tags, opened=self.tags.dialect.opening is None)
            return "plan"
        found = text.plan.read(token, self.params.most_paths(self.tags.dialect))
        if text.plan.over:
            text.plan = None
            text.record.empty_plans += 1
        return found

    def _stray(self, text: Text, token: int, read: Read) -> bool:
        """Is the token a tag to be replaced: one that does not belong here?"""
        return token in self.tags.misplaced_tags and not read and not (text.blocks and token in self.tags.after)

    def _on_main_token(self, main: Text, token: int, logprob: float, read: Read) -> None:
        """Main text forks or ends. A tag that would be replaced elsewhere ends it, by a forced end token."""
        if self._stray(main, token, read):
            main.record.misplaced_tags += 1
            self._write(main, self.tags.end, None)
            self._end(main, "eos")
            return
        forks, ends = read in ("fork", "bound"), token in self.tags.ends
        truncated = main.limit <= 0 and not ends and not forks
        begins = not (read or ends or truncated) and main.plan is None and self._forks_at(main.drawn)
        self._write_read(main, token, logprob, read, want=not (forks or ends or truncated or begins))
        if forks:
            self._fork(main)
        elif begins:
            self._begin(main)
        elif ends or truncated:
            self._end(main, "eos" if ends else main.limit_reason)

    def _on_inner_token(self, text: Text, token: int, logprob: float, read: Read) -> None:
        """A path or summary forks, or stops at its closing tag, at the end token, or at its budget.

        In the latter two it is closed by force. Where the dialect says so, a tag that does not belong here is replaced
        by the segment's own tag, which is forced: a closing tag closes it, an opening tag stands in it as text.
        """
        tags = self.tags
        opened, close = tags.tags_of(text.record)
        own = token == close and not read
        reason = "tag" if own else "eos" if token in tags.ends else ""
        replaced = tags.misplaced_tags and not own and (reason or self._stray(text, token, read))
        if replaced and not reason:
            text.record.misplaced_tags += 1
            reason = "tag" if token in tags.closing else ""
        closed = own or (replaced and reason)
        forks = read in ("fork", "bound")
        reason = reason or (text.limit_reason if text.limit <= 0 and not forks else "")
        if replaced:
            self._write(text, close if closed else opened, None, want=not reason)
        else:
            self._write_read(text, token, logprob, read, want=not (reason or forks))
        if forks:
            self._fork(text)
        elif reason:
            self._close(text, reason, force=not closed)

    def _write_read(self, text: Text, token: int, logprob: float, read: Read, want: bool) -> None:
        """Write a sampled token; one that would declare too many paths is replaced by the plan's closing tag."""
        if read == "bound":
            text.record.bounded = True
            self._write(text, self.tags.plan.close, None, want)
        else:
            self._write(text, token, logprob, want)

    # --- texts

    def _close(self, text: Text, reason: str, force: bool) -> None:
        """End a path or summary; `force`: its closing tag is not written yet."""
        if force:
            self._write(text, self.tags.tags_of(text.record)[1], None)
        self._finish(text, reason)
        block = text.block
        if block.summary is text:
            self._after(block)
            return
        block.running -= 1
        if block.running == len(block.paths) - paths_needed(self.params.join_when, len(block.paths)):
            self.ready.append(block)

    def _refuse(self, text: Text, reason: str) -> None:
        """A block does not fit: it ends the trace, or closes the path or summary that it would stand in."""
        if text.depth:
            self._close(text, reason, force=True)
        elif text.segment == 0:
            raise UserError(self._no_room(reason))
        else:
            self._end(text, reason)

    # --- fork

    def _begin(self, main: Text) -> None:
        """The runtime writes the tag that a block begins with, and forks there; or the model goes on with its plan."""
        plans, begin = self.tags.plan is not None, self.tags.begin
        if (left := self._left(main)).tokens < len(begin):
            self._end(main, left.reason)
            return
        self._force(main, begin)
        if not plans:
            self._fork(main)
            return
        main.plan = Planning(self.tags, opened=self.tags.dialect.opening is None)
        self._allow(main)
        if main.limit < 1:
            self._end(main, main.limit_reason)
        else:
            self._want(main)

    def _fork(self, text: Text) -> None:
        """Open a block's paths, each with an equal share of what the text may still hold besides the summary."""
        outlines = tuple(text.plan.outlines) if text.plan is not None else ()
        text.plan = None
        block = Block(text, self.blocks, text.segment, outlines)
        block.prefixes = self.request.path_prefixes if text.depth == 0 and text.blocks == 0 else ()
        count = len(outlines) if self.tags.dialect.declares_paths else self._width(block)
        costs, share = self._share(block, count)
        refused = "max_blocks" if text.blocks >= self.params.max_blocks else share.reason if share.tokens < 1 else ""
        if refused:
            self._refuse(text, refused)
            return
        if text.segment:
            self._finish(text, "fork")
            text.spent += text.drawn * (text.depth > 0)
        key = stream_key(text.base, self.request.problem, self.request.sample, -1 - text.blocks)
        rng = Random(key) if self.params.labels == "random" else None
        most = count if self.policy is None else max(count, self.params.most_paths(self.tags.dialect))
        block.labels = self.tags.dialect.draw_labels(most, rng) or (0,) * most
        text.blocks += 1
        self.blocks += 1
        text.parts.append(block)
        self._open_paths(block, costs, share)
        if block.bounded:
            (text.record if text.segment else block.paths[0].record).bounded = True

    def _width(self, block: Block) -> int:
        """How many paths the block is to have, those that have ended among them."""
        if self.policy is None:
            return self.params.paths
        text, params, most = block.text, self.params, self.params.most_paths(self.tags.dialect)
        count = wanted(self.policy, ForkState(
            self.request.prompt, tuple(text.record.tokens), tuple(tuple(self._shown(path)) for path in block.paths),
            text.blocks - bool(block.paths), text.depth, params.paths, most, self.tags.decode,
            partial(answer_of, params.path_answer),
        ))  # fmt: skip
        block.bounded |= count > most
        return min(count, most)

    def _share(self, block: Block, count: int) -> tuple[list[int], Room]:
        """What opens and closes each of the paths to come, in tokens, and how many each may hold between its tags: 0
        where one would have to begin with all of them."""
        costs = [len(self._head(block, i)) + 1 for i in range(len(block.paths), count)]
        room, ahead = self._room(block.text), self.context - self.ends[block.fork] - 1
        drawn = sum(path.written for path in block.paths)
        share, bound = share_of(self.params, self.tags, costs, room, ahead, drawn, len(block.paths))
        forced = max(map(len, block.prefixes[len(block.paths) : count]), default=0)
        return costs, Room(share if share > forced else 0, bound)

    def _head(self, block: Block, index: int) -> tuple[int, ...]:
        outline = block.outlines[index] if index < len(block.outlines) else ""
        return self.tags.head(block.labels[index] if block.labels else 1, index + 1, outline)

    def _open_paths(self, block: Block, costs: Sequence[int], share: Room) -> None:
        for cost in costs:
            index = len(block.paths)
            path = self._inner(block, index + 1, block.labels[index])
            prefix = block.prefixes[index] if index < len(block.prefixes) else ()
            path.allowance, path.bound, path.spent = share.tokens + cost, share.reason, len(prefix)
            block.paths.append(path)
            block.running += 1
            self._event("fork", path)
            self._force(path, (*self._head(block, index), *prefix), want=True)
            self._allow(path)
            assert path.limit >= 1, "prefixes are checked when a request is made, and shares before paths are opened"
        if self.probing is not None:
            before, ahead = len(block.paths) - len(costs), self.context - self.ends[block.fork] - 1
            self.probing.begin(block, len(costs), reach_of(self.params, self.tags, costs, ahead, before))

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
        """Start the summary once enough paths have finished, truncating the others, or widen the block.

        Call after every token of a step has been accepted: only then have all siblings come equally far. The controller
        is asked first, unless the block is joined anyway.
        """
        if self.probing is not None and not self.ready:
            self._probe(self.probing)
        while self.ready:
            block = self.ready.pop(0)
            for path in block.paths if block.running else ():
                if not path.record.finish_reason:
                    self._stop(path, "joined")
            if not self._widens(block):
                self._join(block)

    def _probe(self, probing: Probing) -> None:
        """Do what the controller decides, if it is to be asked now."""
        decision = probing.decide(self._shown)
        if decision is None:
            return
        for index, reason in decision.stop.items():
            self._stop(probing.block.paths[index], reason)
        for index, tokens in decision.give.items():
            probing.block.paths[index].limit += tokens

    def _stop(self, path: Text, reason: str) -> None:
        """Truncate a path that is about to sample its next token."""
        self.pending.wanted = [want for want in self.pending.wanted if want[1] is not path]
        self._close(path, reason, force=True)

    def _widens(self, block: Block) -> bool:
        """Fork more paths where the policy asks for them and they fit."""
        if self.policy is None or self.tags.dialect.declares_paths:
            return False
        count = self._width(block)
        costs, share = self._share(block, count) if count > len(block.paths) else ([], Room(0, ""))
        if costs and share.tokens >= 1:
            self._open_paths(block, costs, share)
        if block.bounded or (costs and share.tokens < 1):
            (block.text.record if block.text.segment else block.paths[0].record).bounded = True
        return bool(costs) and share.tokens >= 1

    def _join(self, block: Block) -> None:
        """Open the summary: it sees all paths and resumes after the longest, or it sees their copy."""
        text, tags = block.text, self.tags
        if self.probing is not None:
            self.probing.end()
        text.written += sum(path.written for path in block.paths)
        if self.params.rules.rereads:
            self._copy(block)
        summary = block.summary = self._inner(block, 0, 0)
        if not self.params.rules.rereads:
            self._scale(block)
        self._event("join", summary)
        self._force(summary, tags.join, want=tags.summary is not None)
        ahead = Room(summary.written + self.context - summary.position, "context")
        room = tightest(self._room(text), ahead)
        summary.allowance, summary.bound = room.tokens - len(tags.finish), room.reason
        if tags.summary is None:
            self._finish(summary, "tag")
            self._after(block)
        else:
            self._allow(summary)

    def _after(self, block: Block) -> None:
        """The text goes on after a block's summary: its next token comes from the logits of the last tag written."""
        text, summary = block.text, block.summary
        if block.copy is not None:
            self.records[block.copy].finish_reason = "tag"
        self._force(summary, self.tags.finish)
        text.written += summary.written
        self._go_on(text, (summary.segment,))
        if text.limit >= 1:
            self._want(text)
        elif text.depth:
            self._close(text, text.limit_reason, force=True)
        else:
            self._end(text, text.limit_reason)
