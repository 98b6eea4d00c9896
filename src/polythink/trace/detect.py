"""Which dialect texts are written in, by the tags that they hold.

The opening tags of blocks and paths say which dialects a text may be of; where several share these, it is the one of
which the text holds most tags of any kind. Tags of summaries alone say nothing (`<summary>` is also an element of
HTML), nor do those of paths where blocks begin with a plan (`<step>` is common).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache

from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS, MOST_NUMBERS, PARALLEL_R1, Dialect, base_name, get_dialect
from polythink.trace.production import tag_pattern


class _Table:
    """The tags of several dialects, found in one pass."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        self.opening: dict[str, set[str]] = {}  # dialect -> its opening tags
        self.known: dict[str, set[str]] = {}  # dialect -> all of its tags
        for dialect in dialects:
            kinds = {"plan_open"} if dialect.opens_block == "plan_open" else {"block_open", "path_open"}
            self.opening[base_name(dialect)] = {tag for kind, tag in dialect.spellings if kind in kinds}
            self.known[base_name(dialect)] = {tag for _, tag in dialect.spellings}
        self.pattern, self.numbered = tag_pattern(set().union(*self.known.values()))

    def read(self, text: str) -> tuple[Counter[str], dict[str, int]]:
        """How often a text holds each tag, and the largest number in those that are numbered."""
        count: Counter[str] = Counter()
        largest: dict[str, int] = {}
        for match in self.pattern.finditer(text):
            tag = match[0]
            if match.lastindex:
                tag = self.numbered[match.lastindex - 1]
                largest[tag] = max(largest.get(tag, 0), int(match[match.lastindex]))
            count[tag] += 1
        return count, largest

    def opened(self, count: Counter[str]) -> Counter[str]:
        """How many opening tags there are of each dialect, for those that have any."""
        if not count:
            return count
        found = Counter({name: sum(count[tag] for tag in tags) for name, tags in self.opening.items()})
        return +found

    def best(self, count: Counter[str], found: Counter[str]) -> str:
        """Of the dialects that were found, that with most tags of any kind, then of opening ones; then the first."""
        return max(found, key=lambda name: (sum(count[tag] for tag in self.known[name]), found[name]))


@cache
def _published() -> _Table:
    return _Table(DIALECTS.values())


def opening_tags(text: str) -> Counter[str]:
    """How many opening tags of blocks and paths a text holds of each published dialect, by its name without a size."""
    table = _published()
    return table.opened(table.read(text)[0])


def foreign_dialect(text: str, dialect: Dialect) -> str:
    """The dialect whose tags a text holds while it holds none of `dialect`; "" if there is none."""
    table = _table(dialect)
    count = table.read(text)[0]
    found = table.opened(count)
    return "" if not found or found[base_name(dialect)] else table.best(count, found)


def _table(dialect: Dialect) -> _Table:
    return _published() if base_name(dialect) in DIALECTS else _with(dialect)


@lru_cache
def _with(dialect: Dialect) -> _Table:
    return _Table((dialect, *DIALECTS.values()))


def find_dialect(texts: Iterable[str], named: str | None, where: str) -> tuple[Dialect, int]:
    """The dialect of texts, and how many of them hold its opening tags.

    Without a name it is that which most texts hold (`parallel_r1` if none holds any), with an inventory that is large
    enough for them. `UserError` if no text holds tags of the dialect named and some hold those of another.
    """
    wanted = get_dialect(named) if named else PARALLEL_R1
    table = _table(wanted)
    mostly: Counter[str] = Counter()  # texts by the dialect of which they hold most tags
    holding: Counter[str] = Counter()  # texts that hold any opening tag of a dialect
    largest: dict[str, int] = {}  # number of a path in each numbered tag
    for text in texts:
        count, numbers = table.read(text)
        if found := table.opened(count):
            holding.update(found.keys())
            mostly[table.best(count, found)] += 1
            for tag, number in numbers.items():
                largest[tag] = max(largest.get(tag, 0), number)
    if named is None:
        dialect = get_dialect(mostly.most_common(1)[0][0]) if mostly else wanted
        most = max((largest.get(tag, 0) for tag in table.known[dialect.name]), default=0)
        if 0 < dialect.inventory < most <= MOST_NUMBERS:
            dialect = get_dialect(f"{dialect.name}:{most}")
        return dialect, holding[base_name(dialect)]
    if mostly and not holding[base_name(wanted)]:
        other, count = mostly.most_common(1)[0]
        raise UserError(f"no text of {where} holds a block of {named}, and {count:,} hold the tags of {other}: "
                        f"add --dialect {other}, or leave --dialect out")  # fmt: skip
    return wanted, holding[base_name(wanted)]
