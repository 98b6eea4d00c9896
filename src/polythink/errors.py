"""The exception for users' mistakes, and the hint at the nearest known name in its messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST_NAMES = 60  # that a message lists: all of ours, not the hundreds of another library
NEAR = 0.7  # difflib: a word with a letter too many, too few or another; below it words of other meanings look alike


class UserError(Exception):
    """A mistake of the user: one sentence that says what was given, what is allowed and what to do.

    The command line prints it and exits with status 2. Our own mistakes are assertions, never this.
    """


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """`; did you mean 'x'?` if a known name is close to `name`, otherwise `; known: ` and the list of names.

    `before` is shown before each, such as the folder that they are in; it makes no name closer to another.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=NEAR) or [one for one in known if _swapped(name, one)]
    return f"; did you mean {before + close[0]!r}?" if close else known_names(known, before)


def known_names(known: Iterable[str], before: str = "") -> str:
    """`; known: ` and the list of names, as far as a message can hold them."""
    known = sorted(known)
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"; known: {', '.join(before + name for name in known[:MOST_NAMES])}{more}"


def _swapped(one: str, other: str) -> bool:
    """Whether two neighbouring letters are swapped: in a short word much to difflib, and yet a slip of the fingers."""
    differs = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) != len(other) or len(differs) != 2:
        return False
    i, j = differs
    return j == i + 1 and (one[i], one[j]) == (other[j], other[i])


def install_extra(extra: str) -> str:
    """The command that installs an extra. The package is on no index: a bare name there would be a stranger's."""
    return f"`pip install -e '.[{extra}]'` in a clone of polythink"


def out_of_memory(error: RuntimeError) -> str | None:
    """What to do where torch found no memory for a tensor, as one sentence; None for other errors.

    torch has several classes of errors for it, some of which mean other things too: its words decide.
    """
    found = re.search(r"out of memory|can't allocate memory", str(error))
    if found is None:
        return None
    place = "the GPU" if "CUDA" in str(error) else "the machine"
    size = re.search(r"[Tt]ried to allocate ([\d.]+ ?[a-zA-Z]+)", str(error))
    return (
        f"{place} has no memory left{f' for {size[1]} more' if size else ''}; training needs less with a smaller "
        "micro_batch, drawing with a smaller max_num_seqs or kv_cache_memory_bytes, an experiment with fewer --jobs"
    )
