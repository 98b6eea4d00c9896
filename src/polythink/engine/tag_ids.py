"""A dialect's production as token ids: what a trace state compares sampled tokens with, and what it forces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from polythink.errors import UserError
from polythink.trace.production import Dialect, Tag
from polythink.trace.rollout import Segment

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class PlanIds:
    """The tags of a plan. Its outlines' tags are None where it has none."""

    open: int
    close: int
    item_open: int | None
    item_close: int | None


@dataclass(frozen=True)
class TagIds:
    """The token ids that steer decoding: the tags, the end tokens, and what the runtime writes.

    `opens` is the tag that a block begins with, None where that is its first path's.
    """

    dialect: Dialect
    opens: int | None
    begin: tuple[int, ...]  # that tag and the gap before it, as the runtime writes them; () where a path begins a block
    plan: PlanIds | None
    path_gap: tuple[int, ...]
    path_tags: tuple[tuple[int, int], ...]  # (open, close) of each path number from 1; one pair where paths have none
    label_of: dict[int, int]  # path number by opening tag; 0 where paths have none
    join: tuple[int, ...]  # after the paths: the joining tags, the summary's opening tag, its forced prefix
    opens_summary: int  # the first tag after the paths
    summary: tuple[int, int] | None  # (open, close)
    joined: int  # the tag that ends what follows the paths: the summary's closing tag, or the last joining tag
    finish: tuple[int, ...]  # what the runtime writes after the summary
    after: frozenset[int]  # the tags that the model writes after the summary
    end: int  # the end token that the runtime writes
    ends: frozenset[int]  # every token that ends a trace
    misplaced_tags: frozenset[int]  # tags that the runtime replaces where they do not belong
    closing: frozenset[int]  # tags that close an element
    steering: frozenset[int]  # all tags and ends: any other token is text
    encode: Encode
    decode: Decode

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        tag_ids: dict[str, int],
        ends: Sequence[int],
        encode: Encode,
        decode: Decode,
        prefix: str = "",
    ) -> TagIds:
        """`ends`: the end tokens, the one that the runtime writes first. `prefix` is the forced text of every summary.
        A tag that the tokenizer lacks has a negative id, which no token that is sampled has.

        `encode` turns text into token ids, `decode` turns them back. `UserError` for a prefix of no summary.
        """
        d, summary = dialect, dialect.summary
        if prefix and summary is None:
            raise UserError(f"summary_prefix: the blocks of dialect {d.name} have no summary; leave it out")

        def written(tags: Iterable[Tag]) -> tuple[int, ...]:
            return tuple(token for tag in tags for token in (*encode(tag.gap), tag_ids[tag.text]))

        first = d.opening or (Tag(d.plan.open, gap=d.plan.gap) if d.plan else None)
        labels = range(1, d.inventory + 1) if d.inventory else (0,)
        opened = (Tag(summary.open, gap=summary.gap),) if summary else ()
        return cls(
            dialect=d,
            opens=tag_ids[first.text] if first else None,
            begin=written([first] if first else ()),
            plan=_plan_ids(d, tag_ids),
            path_gap=tuple(encode(d.paths.gap)),
            path_tags=tuple((tag_ids[opened], tag_ids[closed]) for opened, closed in map(d.path_tags, labels)),
            label_of={tag_ids[d.path_tags(n)[0]]: n for n in labels},
            join=(*written((*d.joining, *opened)), *encode(prefix)),
            opens_summary=tag_ids[(*d.joining, *opened)[0].text],
            summary=(tag_ids[summary.open], tag_ids[summary.close]) if summary else None,
            joined=tag_ids[summary.close if summary else d.joining[-1].text],
            finish=written(d.closing[: d.forced_closing]),
            after=frozenset(tag_ids[tag.text] for tag in d.closing[d.forced_closing :]),
            end=ends[0],
            ends=frozenset(ends),
            misplaced_tags=frozenset(tag_ids.values()) if d.misplaced_tags == "replace" else frozenset(),
            closing=frozenset(tag_ids[tag] for tag in d.closing_tags),
            steering=frozenset(id for id in (*tag_ids.values(), *ends) if id >= 0),
            encode=encode,
            decode=decode,
        )

    @property
    def model_opens(self) -> int | None:
        """The tag with which the model opens a block where the runtime forks; None where it cannot."""
        return None if self.dialect.runtime_forks else self.opens

    @property
    def opens_blocks(self) -> bool:
        """Can a token begin a block? Not where the tokenizer lacks every tag that one may begin with."""
        return any(id >= 0 for id in (self.label_of if self.opens is None else (self.opens,)))

    @property
    def after_paths(self) -> int:
        """How many tokens the runtime writes after the paths, the closing tag of a truncated summary among them."""
        return len(self.join) + len(self.finish) + (self.summary is not None)

    def tags_of(self, record: Segment) -> tuple[int, int]:
        """The opening and closing tag of a path or summary."""
        if record.kind == "summary":
            return self.summary or (self.opens_summary, self.joined)
        return self.path_tags[max(record.label - 1, 0)]

    def head(self, label: int, place: int, outline: str = "") -> tuple[int, ...]:
        """What the runtime writes to open the path at that place (from 1), whose outline is given."""
        heading = self.dialect.heading(place, outline)
        return (*self.path_gap, self.path_tags[max(label - 1, 0)][0], *(self.encode(heading) if heading else ()))


def _plan_ids(dialect: Dialect, tag_ids: dict[str, int]) -> PlanIds | None:
    if dialect.plan is None:
        return None
    opened, closed = dialect.plan.item
    return PlanIds(
        tag_ids[dialect.plan.open],
        tag_ids[dialect.plan.close],
        tag_ids[opened] if opened else None,
        tag_ids[closed] if closed else None,
    )
