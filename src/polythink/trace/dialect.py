"""A dialect: the tags and rules of one published trace format. Data, not code."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Literal

from polythink.errors import UserError, did_you_mean

TAG_KINDS = ("block_open", "block_close", "path_open", "path_close", "summary_open", "summary_close")
NUMBER = "{n}"  # the place of a path's number in its tags
MOST_NUMBERS = 1024  # the largest inventory


@dataclass(frozen=True)
class Dialect:
    """The tags of a format, and the rules around them. Without block tags there are blocks too: the runtime forks.

    With numbered paths, `path_open` and `path_close` hold `{n}`, and `inventory` is the number of numbers: the paths of
    a block carry any of them, each at most once.
    """

    name: str
    block_open: str  # "" where the runtime forks: a block then begins with its first path
    block_close: str
    path_open: str
    path_close: str
    summary_open: str
    summary_close: str
    gap: str  # what the runtime writes between a closed block and its summary
    min_paths: int
    inventory: int = 0  # numbers for paths; 0: paths are not numbered
    nests: bool = True  # paths and summaries may contain blocks
    answer: Literal["after", "summary"] = "after"  # the final answer is after the summary, or may be in it
    # What the runtime does with a tag that is not allowed where it was sampled. "replace": by the segment's own closing
    # or opening tag (the latter is text there), and by the end token in main text.
    misplaced_tags: Literal["keep", "replace"] = "keep"
    published_check: bool = False  # the published rewards come with a checker of their own: the rule `reference`

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag, opening and closing tags in turn."""
        pairs = [(self.block_open, self.block_close)] if self.block_open else []
        pairs += [self.path_tags(n) for n in (range(1, self.inventory + 1) if self.inventory else (0,))]
        return tuple(tag for pair in (*pairs, (self.summary_open, self.summary_close)) for tag in pair)

    @property
    def opens_block(self) -> str:
        """The kind of the tag that a block begins with."""
        return "block_open" if self.block_open else "path_open"

    def path_tags(self, label: int = 0) -> tuple[str, str]:
        """The two tags of the path with that number (of every path, where paths have no numbers)."""
        return self.path_open.replace(NUMBER, str(label)), self.path_close.replace(NUMBER, str(label))

    def draw_labels(self, paths: int, rng: Random | None) -> tuple[int, ...]:
        """The numbers of a block's paths: 1..P, or with `rng` any P of the inventory; none where paths have none."""
        if not self.inventory:
            return ()
        if paths > self.inventory:
            raise UserError(
                f"{paths} paths are more than the {self.inventory} numbers of dialect {self.name}; use fewer paths, or "
                f"train with a larger inventory (dialect: {self.name.partition(':')[0]}:{paths})"
            )
        return tuple(rng.sample(range(1, self.inventory + 1), paths) if rng else range(1, paths + 1))


# Parallel-R1 (arXiv 2509.07980): <Parallel><Path>..</Path><Path>..</Path></Parallel>\n<Summary>..</Summary>
PARALLEL_R1 = Dialect(
    name="parallel_r1",
    block_open="<Parallel>",
    block_close="</Parallel>",
    path_open="<Path>",
    path_close="</Path>",
    summary_open="<Summary>",
    summary_close="</Summary>",
    gap="\n",
    min_paths=2,
    published_check=True,
)

# ParaThinker (arXiv 2509.04475): <think1>..</think1><think2>..</think2><summary>..</summary>, with the answer in the
# summary. The tags are those of the released tokenizer, which has 8 numbers; the paper writes <think i>.
PARATHINKER = Dialect(
    name="parathinker",
    block_open="",
    block_close="",
    path_open="<think{n}>",
    path_close="</think{n}>",
    summary_open="<summary>",
    summary_close="</summary>",
    gap="",
    min_paths=1,
    inventory=16,
    nests=False,
    answer="summary",
    misplaced_tags="replace",
)

DIALECTS = {d.name: d for d in (PARALLEL_R1, PARATHINKER)}


@lru_cache
def get_dialect(name: str) -> Dialect:
    """The dialect of that name. `NAME:SIZE` is one with another inventory of path numbers: `parathinker:64`.

    `UserError` for an unknown name, with the nearest one.
    """
    base, colon, size = name.partition(":")
    if base not in DIALECTS:
        raise UserError(f"no dialect {base!r}{did_you_mean(base, DIALECTS)}")
    dialect = DIALECTS[base]
    if not colon:
        return dialect
    if not dialect.inventory:
        raise UserError(
            f"dialect {name!r}: the paths of {base} have no numbers, so it has no inventory; write {base!r}"
        )
    if not re.fullmatch(r"[1-9]\d{0,3}", size) or int(size) > MOST_NUMBERS:
        raise UserError(f"dialect {name!r}: the inventory is a number of paths from 1 to {MOST_NUMBERS}, not {size!r}")
    return replace(dialect, name=name, inventory=int(size))
