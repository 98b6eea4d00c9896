"""Which dialect texts are written in, by the opening tags of blocks and paths that they hold.

Tags of summaries are not looked at: `<summary>` is also an element of HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS, MOST_NUMBERS, PARALLEL_R1, Dialect, get_dialect
from polythink.trace.scan import scan

OPENING = ("block_open", "path_open")


def base_name(dialect: Dialect) -> str:
    """The name without the size of an inventory: `parathinker` of `parathinker:64`."""
    return dialect.name.partition(":")[0]


def opening_tags(text: str) -> Counter[str]:
    """How many opening tags of blocks and paths a text holds of each dialect, by its name without a size."""
    found: Counter[str] = Counter()
    for name, dialect in DIALECTS.items() if "<" in text else ():
        if count := sum(token.kind in OPENING for token in scan(text, dialect)):
            found[name] = count
    return found


def foreign_dialect(text: str, dialect: Dialect) -> str:
    """The dialect whose tags a text holds while it holds none of `dialect`; "" if there is none."""
    found = opening_tags(text)
    return "" if not found or found[base_name(dialect)] else found.most_common(1)[0][0]


def find_dialect(texts: Iterable[str], named: str | None, where: str) -> tuple[Dialect, int]:
    """The dialect of texts, and how many of them hold its opening tags.

    Without a name it is that which most texts hold (`parallel_r1` if none holds any), with an inventory that is large
    enough for them. `UserError` if no text holds tags of the dialect named and some hold those of another.
    """
    mostly: Counter[str] = Counter()  # texts by the dialect of which they hold most tags
    holding: Counter[str] = Counter()  # texts that hold any tag of a dialect
    largest = 0  # number of a path
    for text in texts:
        found = opening_tags(text)
        holding.update(found.keys())
        mostly.update(name for name, _ in found.most_common(1))
        numbered = (DIALECTS[name] for name in found if DIALECTS[name].inventory)
        largest = max(largest, *(token.label for dialect in numbered for token in scan(text, dialect)), 0)
    if named is None:
        dialect = get_dialect(mostly.most_common(1)[0][0] if mostly else PARALLEL_R1.name)
        if 0 < dialect.inventory < largest <= MOST_NUMBERS:
            dialect = get_dialect(f"{dialect.name}:{largest}")
        return dialect, holding[base_name(dialect)]
    dialect = get_dialect(named)
    if holding and not holding[base_name(dialect)]:
        other, count = holding.most_common(1)[0]
        raise UserError(f"no text of {where} holds a block of {named}, and {count:,} hold the tags of {other}: "
                        f"add --dialect {other}, or leave --dialect out")  # fmt: skip
    return dialect, holding[base_name(dialect)]
