"""A dialect's tags as token ids: what a trace state compares sampled tokens with, and what it forces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Segment


@dataclass(frozen=True)
class TagIds:
    """The token ids that steer decoding: the tags, the end tokens, and what the runtime writes at a join."""

    block_open: int | None  # None: the runtime forks
    path_tags: tuple[tuple[int, int], ...]  # (open, close) of each path number from 1; one pair where paths have none
    label_of: dict[int, int]  # path number by opening tag; 0 where paths have none
    summary_open: int
    summary_close: int
    end: int  # the end token that the runtime writes
    ends: frozenset[int]  # every token that ends a trace
    join: tuple[int, ...]  # `</Parallel>`, the gap, `<Summary>`, the summary's forced prefix
    opens_summary: int  # the first tag after the paths
    dialect: Dialect
    misplaced_tags: frozenset[int]  # tags that the runtime replaces where they do not belong
    closing: frozenset[int]  # tags that close an element

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        tag_ids: dict[str, int],
        ends: Sequence[int],
        encode: Callable[[str], Sequence[int]],
        prefix: str,
    ) -> TagIds:
        """`ends`: the end tokens, the one that the runtime writes first. `prefix` is the forced text of every summary.

        `encode` turns text into token ids.
        """
        d, block = dialect, bool(dialect.block_open)
        labels = range(1, d.inventory + 1) if d.inventory else (0,)
        head = (tag_ids[d.block_close],) if block else ()
        summary = tag_ids[d.summary_open]
        return cls(
            block_open=tag_ids[d.block_open] if block else None,
            path_tags=tuple((tag_ids[opened], tag_ids[closed]) for opened, closed in map(d.path_tags, labels)),
            label_of={tag_ids[d.path_tags(n)[0]]: n for n in labels},
            summary_open=summary,
            summary_close=tag_ids[d.summary_close],
            end=ends[0],
            ends=frozenset(ends),
            join=(*head, *encode(d.gap), summary, *encode(prefix)),
            opens_summary=head[0] if block else summary,
            dialect=d,
            misplaced_tags=frozenset(tag_ids.values()) if d.misplaced_tags == "replace" else frozenset(),
            closing=frozenset(tag_ids[tag] for tag in d.tags[1::2]),
        )

    def tags_of(self, record: Segment) -> tuple[int, int]:
        """The opening and closing tag of a path or summary."""
        if record.kind == "summary":
            return self.summary_open, self.summary_close
        return self.path_tags[max(record.label - 1, 0)]
