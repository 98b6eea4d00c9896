"""The slow twin of the engine: one trace at a time, path after path, the whole layout recomputed for every token.

It has no cache, no steps and no state of open branches, and control flow of its own, so that it can disagree with the
engine about all of them: it writes a trace in text order, and a text inside a text by recursion. They share the layout
table, the random streams and the rule that turns logits into a token. `reference_flat.py` has the modes of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from random import Random

from polythink.engine.controllers import OFF
from polythink.engine.params import Request, SamplingParams, params_for_each
from polythink.engine.policies import answer_of
from polythink.engine.reference_flat import write_flat
from polythink.engine.reference_page import Page, limited
from polythink.engine.reference_replay import Told, replay
from polythink.engine.sampling import stream_key
from polythink.engine.width import WIDTHS, ForkState, wanted
from polythink.errors import UserError
from polythink.models.forward import evaluating
from polythink.models.lm import LanguageModel
from polythink.trace.rollout import Rollout


def reference_generate(
    lm: LanguageModel, requests: Sequence[Request], params: SamplingParams | Sequence[SamplingParams], seed: int = 0
) -> list[Rollout]:
    """The rollouts that `Engine.generate` returns, sampled slowly. `params` apply to all requests, or are one each."""
    each = params_for_each(requests, params)
    rollouts = []
    for request, own in zip(requests, each, strict=True):
        page = Page(lm, request, own, seed)
        with evaluating(lm.model):
            if own.rules.isolated:
                _Text(page, "main", base=seed, allowance=page.budget).write_trace()
            else:
                write_flat(page)
        for segment in page.segments:
            segment.text = "" if segment.kind == "copy" else lm.decode(segment.tokens)
        rollouts.append(page.rollout())
    return rollouts


@dataclass
class _Text:
    """A text that is written from its opening to its end; all that is on the page from `start` on lies in it."""

    page: Page
    kind: str
    block: int = -1
    path: int = 0
    label: int = 0
    depth: int = 0
    base: int = 0
    allowance: int = 0  # tokens of all in it
    bound: str = "trace_length"  # what ran out where those do
    extra: int = 0  # tokens beyond all budgets, to be taken back
    sampled: int = 0  # what counts towards the budget of its kind
    streams: int = 0
    blocks: int = 0
    start: int = 0
    draws: int = 0  # of its last stretch
    closed: bool = False  # by its own tag
    role: str = ""  # of its last token to a plan
    outlines: list[str] = field(default_factory=list)  # of that plan

    @property
    def left(self) -> int:
        """Tokens that it may still hold, beside the tag that closes it."""
        return self.allowance - sum(len(s.tokens) for s in self.page.segments[self.start :]) - bool(self.depth)

    def stream(self) -> int:
        self.streams += 1
        return stream_key(self.base, self.page.request.problem, self.page.request.sample, self.streams)

    def limit(self) -> tuple[int, str]:
        left, bound = (self.left, self.bound) if self.depth else self.ahead()
        own = getattr(self.page.params, f"max_{self.kind}_tokens") - self.sampled
        return limited(own + self.extra, left + self.extra, bound)

    def ahead(self) -> tuple[int, str]:
        """What may still be written, of tokens and of positions."""
        return (self.left, self.bound) if self.left <= self.page.reach else (self.page.reach, "context")

    # --- writing

    def write_trace(self) -> None:
        page = self.page
        at = 0 if page.params.fork_at is None and page.dialect.runtime_forks else page.params.fork_at
        if at == 0 and not page.begin and not _Block(self).write():
            return
        while True:
            page.open(self.kind)
            stream = self.stream()
            reason = self.begin() if at == 0 and not self.blocks else ""
            reason = reason or self.stretch(stream, at if not self.blocks else None)
            if reason != "fork":
                page.segments[-1].finish_reason = reason
                return
            if not _Block(self).write():
                return

    def write_inner(self, stream: int, head: Sequence[int]) -> None:
        """A path or summary, all its stretches and the blocks between them."""
        page, close = self.page, self.page.close_of(self.kind, self.label)
        self.base = stream
        while True:
            page.open(self.kind, self.block, self.path, self.label)
            page.force(head)
            if self.kind == "summary" and head:  # what is left is known now
                if (ahead := page.reach - len(page.finish)) < self.allowance:
                    self.allowance, self.bound = ahead, "context"
                self.allowance += len(head)
            head = ()
            reason = self.stretch(stream, None)
            if reason != "fork":
                page.segments[-1].finish_reason = reason
                if not self.closed:
                    page.force([close])
                return
            if not _Block(self).write():
                return
            stream = self.stream()

    def begin(self) -> str:
        """The runtime begins a block; returns the stretch's finish_reason if it ends here."""
        left, bound = self.ahead()
        if left < len(self.page.begin):
            return bound
        self.page.force(self.page.begin)
        return "fork" if self.page.dialect.plan is None else ""

    def stretch(self, stream: int, fork_at: int | None) -> str:
        """Sample up to the next block, the end of the text or of a budget; returns the finish_reason."""
        self.closed, self.draws, self.role, before = False, 0, "", self.sampled
        limit, cut = self.limit()
        while limit >= 1:
            token, logprob = self.page.draw(stream, self.draws)
            self.draws, self.sampled, limit = self.draws + 1, self.sampled + 1, limit - 1
            reason = self.take(token, logprob)
            if not reason and fork_at == self.draws and limit >= 1 and not self.role and self.page.where == "text":
                reason = self.begin()
                limit, cut = self.limit()
            if reason:
                break
        else:
            reason = cut
        self.sampled = self.sampled if self.depth else before  # main text has a budget for each stretch
        return reason

    def take(self, token: int, logprob: float) -> str:
        """Put the token or what replaces it; returns the finish_reason if the stretch ends with it."""
        page, dialect = self.page, self.page.dialect
        segment, replaces = page.segments[-1], dialect.misplaced_tags == "replace"
        opened, close = page.open_of(self.kind, self.label), page.close_of(self.kind, self.label)
        self.role = role = ""
        if not self.depth or (dialect.nests and self.depth < page.params.max_depth):
            self.role, self.outlines = page.role([*segment.tokens, token])
            role = self.role
            segment.empty_plans += role == "plan" and page.where == "text"
        stray = replaces and page.is_tag(token) and not role and not (self.blocks and token in page.model_closes)
        if role == "bound":
            segment.bounded = True
            page.force([page.id(dialect.plan.close)])
        elif self.depth and token == close and not role:
            self.closed = True
            page.put(token, logprob)
            return "tag"
        elif self.depth and replaces and token in page.lm.ends:
            return "eos"
        elif stray:
            segment.misplaced_tags += 1
            closes = self.depth and token in page.closing
            page.force([page.lm.eos] if not self.depth else [close if closes else opened])
            self.closed = bool(closes)
            return ("tag" if closes else "") if self.depth else "eos"
        else:
            page.put(token, logprob)
        return "fork" if role in ("fork", "bound") else "eos" if token in page.lm.ends else ""


class _Block:
    """A block at the end of what is written."""

    def __init__(self, text: _Text) -> None:
        self.text, self.page, self.policy = text, text.page, WIDTHS.function(text.page.params.width)
        self.outlines, self.labels = text.outlines, ()
        self.paths: list[list[int]] = []  # what is written of each, without what is read again
        self.over = False  # more paths were asked for than are allowed
        self.first = len(text.page.segments)  # of its segments
        self.bound = ""  # what the paths' share comes from
        self.ahead = self.page.lm.context - self.page.positions
        self.before = self.page.segments[-1] if self.page.segments else None
        self.prefixes = self.page.request.path_prefixes if text.depth == 0 and text.blocks == 0 else ()
        text.outlines = []

    def write(self) -> bool:
        """Write it; False where it is refused, and the text with it."""
        text, page, dialect = self.text, self.page, self.page.dialect
        paths = len(self.outlines) if dialect.declares_paths else self.width()
        share = self.share(paths)
        refused = "max_blocks" if text.blocks == page.params.max_blocks else self.bound if share < 1 else ""
        if refused:
            if self.before is None:
                raise UserError("no room for the first block")
            self.before.finish_reason = refused
            if text.depth:
                page.force([page.close_of(text.kind, text.label)])
            return False
        if self.before is not None:
            self.before.finish_reason = "fork"
        rng = None
        if page.params.labels == "random":
            rng = Random(stream_key(text.base, page.request.problem, page.request.sample, -1 - text.blocks))
        most = paths if self.policy is None else max(paths, page.params.most_paths(dialect))
        self.labels = dialect.draw_labels(most, rng) or (0,) * most
        self.number, page.blocks, text.blocks = page.blocks, page.blocks + 1, text.blocks + 1
        while share >= 1 and len(self.paths) < paths:
            self.write_paths(paths, share)
            if self.policy is not None and not dialect.declares_paths:
                paths = self.width()
                share = self.share(paths) if len(self.paths) < paths else share
                self.over |= share < 1
        if self.over:
            (self.before or page.segments[self.first]).bounded = True
        self.write_summary()
        return True

    def width(self) -> int:
        if self.policy is None:
            return self.page.params.paths
        page, text, params = self.page, self.text, self.page.params
        before, most = tuple(self.before.tokens if self.before else ()), params.most_paths(page.dialect)
        asked = wanted(self.policy, ForkState(
            page.request.prompt, before, tuple(map(tuple, self.paths)), text.blocks - bool(self.paths), text.depth,
            params.paths, most, page.lm.decode, partial(answer_of, params.path_answer),
        ))  # fmt: skip
        self.over |= asked > most
        return min(asked, most)

    def head(self, i: int) -> list[int]:
        page, label = self.page, self.labels[i] if self.labels else 1
        heading = page.dialect.heading(i + 1, self.outlines[i] if i < len(self.outlines) else "")
        return [*page.gap(page.dialect.paths.gap), page.open_of("path", label), *page.gap(heading)]

    def share(self, paths: int) -> int:
        """What each of the paths to come may hold between its tags: of the tokens, and of the positions."""
        page, rereads = self.page, self.page.params.rules.rereads
        tags, fixed, drawn = *self.tags(paths), sum(len(s.tokens) for s in page.segments[self.first :])
        new, again = len(tags), 1 + rereads
        # tokens that are there already are counted in `left`; a copy of them is to come
        tokens = self.divided(self.text.left - again * sum(tags) - rereads * drawn - fixed, again * new)
        positions = self.reach(paths)
        if rereads:
            positions = min(positions, self.divided(self.ahead - sum(tags) - drawn - fixed, new))
        self.bound = "context" if positions < tokens else self.text.bound
        share = min(tokens, positions)
        return share if all(len(prefix) < share for prefix in self.prefixes[len(self.paths) : paths]) else 0

    def tags(self, paths: int) -> tuple[list[int], int]:
        """Tokens around each of the paths to come, and after all of them."""
        page = self.page
        fixed = len(page.join) + len(page.finish) + (page.dialect.summary is not None)
        return [len(self.head(i)) + 1 for i in range(len(self.paths), paths)], fixed

    def divided(self, room: int, parts: int) -> int:
        """A part of the room that the summary leaves, which takes one part too, but no more than it may have."""
        params = self.page.params
        after = params.max_summary_tokens if self.page.dialect.summary else params.max_main_tokens
        return (room - max(1, min(after, room // (parts + 1)))) // parts

    def reach(self, paths: int) -> int:
        """What the positions allow between the tags of each of the paths to come."""
        tags, fixed = self.tags(paths)
        return self.divided(self.ahead - (paths - 1) * self.page.params.stride - max(tags) - fixed, 1)

    def write_paths(self, paths: int, share: int) -> None:
        page, text, params = self.page, self.text, self.page.params
        earlier = [Told(s, reason=s.finish_reason) for s in page.segments[self.first :] if s.kind == "path"]
        streams = [text.stream() for _ in range(len(self.paths), paths)]
        controlled, reach = params.controller != OFF, self.reach(paths)
        told: list[Told] = []
        starts = []
        for i, stream in enumerate(streams, start=len(self.paths)):
            prefix, head = self.prefixes[i] if i < len(self.prefixes) else (), self.head(i)
            starts.append(len(page.segments))
            path = _Text(page, "path", self.number, i + 1, self.labels[i], text.depth + 1, start=starts[-1],
                         allowance=share + len(head) + 1, bound=self.bound, sampled=len(prefix))  # fmt: skip
            most = limited(params.max_path_tokens - len(prefix), share - len(prefix), self.bound)
            path.extra = min(share * len(streams), reach - share) if controlled else 0
            path.write_inner(stream, [*head, *prefix])
            last = page.segments[-1]
            ended = path.draws if last.finish_reason in ("tag", "eos") else None
            told.append(Told(last, len(head) + len(prefix), ended, *most, room=reach - len(prefix), stop=None))
        if controlled or params.join_when != "all":
            replay(page, earlier, told)
        for start, end in pairwise([*starts, len(page.segments)]):
            self.paths.append([t for s in page.segments[start:end] if s.kind != "copy" for t in s.tokens])

    def write_summary(self) -> None:
        page, text = self.page, self.text
        if page.params.rules.rereads:
            copied = [token for s in page.shown(self.first) for token in s.tokens]
            page.open("copy", self.number)
            page.force(copied)
            page.segments[-1].finish_reason = "tag"
        room = text.left - len(page.join) - len(page.finish)
        summary = _Text(page, "summary", self.number, depth=text.depth + 1, start=len(page.segments),
                        allowance=room, bound=text.bound)  # fmt: skip
        stream = text.stream()
        if page.dialect.summary is not None:
            summary.write_inner(stream, page.join)
        else:
            page.open("summary", self.number)
            page.force(page.join)
            page.segments[-1].finish_reason = "tag"
        page.force(page.finish)
