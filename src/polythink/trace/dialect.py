"""The published formats, one entry each, and the dialect of a name or a file."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from functools import lru_cache

from polythink.errors import UserError, did_you_mean
from polythink.trace.dialect_file import is_file, read_dialect, to_plain
from polythink.trace.production import (
    MOST_NUMBERS,
    NUMBER,
    Dialect,
    PathTags,
    PlanTags,
    SummaryTags,
    Tag,
)

__all__ = [
    "DIALECTS",
    "MOST_NUMBERS",
    "NUMBER",
    "PARALLEL_R1",
    "PARATHINKER",
    "Dialect",
    "base_name",
    "dialect_facts",
    "get_dialect",
]

# Parallel-R1 (arXiv 2509.07980): <Parallel><Path>..</Path><Path>..</Path></Parallel>\n<Summary>..</Summary>
PARALLEL_R1 = Dialect(
    name="parallel_r1",
    block=(
        Tag("<Parallel>"),
        PathTags("<Path>", "</Path>", least=2),
        Tag("</Parallel>", by="runtime"),
        SummaryTags("<Summary>", "</Summary>", gap="\n"),
    ),
    published_check=True,
    source="Parallel-R1, arXiv 2509.07980",
)

# ParaThinker (arXiv 2509.04475): <think1>..</think1><think2>..</think2><summary>..</summary>, with the answer in the
# summary. The tags are those of the released tokenizer, which has 8 numbers; the paper writes <think i>.
PARATHINKER = Dialect(
    name="parathinker",
    block=(
        PathTags("<think{n}>", "</think{n}>", inventory=16),
        SummaryTags("<summary>", "</summary>", answers=True),
    ),
    nests=False,
    misplaced_tags="replace",
    source="ParaThinker, arXiv 2509.04475",
)

# Multiverse (arXiv 2506.09991): the model writes a goal with numbered outlines; its engine forks at </Goal>, begins
# each path with the number of its outline, and joins with <Conclusion>. Paths may hold blocks of their own, whose
# outlines are numbered 1.1, 1.2, .. The model writes </Parallel> after the conclusion.
MULTIVERSE = Dialect(
    name="multiverse",
    block=(
        Tag("<Parallel>"),
        PlanTags("<Goal>", "</Goal>", item=("<Outline>", "</Outline>"), gap="\n"),
        PathTags("<Path>", "</Path>", counted="outlines", heading="\n{id}:", gap="\n"),
        SummaryTags("<Conclusion>", "</Conclusion>", gap="\n"),
        Tag("</Parallel>", gap="\n"),
    ),
    source="Multiverse, arXiv 2506.09991",
)

# Native Parallel Reasoner (arXiv 2512.07461): a guideline of plans, one step for each, a takeaway; blocks do not nest.
NPR = Dialect(
    name="npr",
    block=(
        PlanTags("<guideline>", "</guideline>", item=("<plan>", "</plan>"), gap="\n"),
        PathTags("<step>", "</step>", counted="outlines", heading="\n{id}:", gap="\n"),
        SummaryTags("<takeaway>", "</takeaway>", gap="\n"),
    ),
    nests=False,
    source="Native Parallel Reasoner, arXiv 2512.07461",
)

# ThreadWeaver (arXiv 2512.07843): outlines and threads as above, and no summary: after the threads the text goes on.
# Its own runtime joins by reading the text again (mode `reread`).
THREADWEAVER = Dialect(
    name="threadweaver",
    block=(
        Tag("<Parallel>"),
        PlanTags("<Outlines>", "</Outlines>", item=("<Outline>", "</Outline>"), gap="\n"),
        PathTags("<Thread>", "</Thread>", counted="outlines", heading="\n{id}:", gap="\n"),
        Tag("</Parallel>", by="runtime", gap="\n"),
    ),
    nests=False,
    source="ThreadWeaver, arXiv 2512.07843",
)

DIALECTS = {d.name: d for d in (PARALLEL_R1, PARATHINKER, MULTIVERSE, NPR, THREADWEAVER)}


def get_dialect(name: str) -> Dialect:
    """The dialect of that name, or that a YAML file declares (`trace.dialect_file`).

    `NAME:SIZE` is one with another inventory of path numbers: `parathinker:64`. `UserError` for an unknown name, with
    the nearest one, and for a file that declares no dialect, or one with the name of a published format.
    """
    if not is_file(name):
        return _published(name)
    dialect = read_dialect(name)
    if dialect.name in DIALECTS:
        raise UserError(f"the dialect file {name!r} has the name of a published format, {dialect.name}; give it "
                        "another name, or write the published one in place of the file")  # fmt: skip
    return dialect


@lru_cache
def _published(name: str) -> Dialect:
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
    return with_inventory(dialect, name, int(size))


def with_inventory(dialect: Dialect, name: str, size: int) -> Dialect:
    """The same format with another number of path numbers."""
    sized = replace(dialect.paths, inventory=size)
    return replace(dialect, name=name, block=tuple(sized if e is dialect.paths else e for e in dialect.block))


def base_name(dialect: Dialect) -> str:
    """The name without the size of an inventory: `parathinker` of `parathinker:64`."""
    return dialect.name.partition(":")[0]


def dialect_facts(dialect: Dialect) -> dict[str, str]:
    """What the record of a run says of its dialect, so that a resumed one can tell whether it is the same.

    A published one is known by its name. Of one that a file declares the content counts too: the file may be edited.
    """
    facts = {"dialect": dialect.name}
    if base_name(dialect) in DIALECTS:
        return facts
    return facts | {"dialect_hash": hashlib.sha256(json.dumps(to_plain(dialect)).encode()).hexdigest()[:16]}
