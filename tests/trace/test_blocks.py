"""Complete blocks counted in one pass, against the strict parser tried at every opening tag."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

from helpers.productions import tried_everywhere
from helpers.sweep import sweep
from polythink.trace.blocks import complete_blocks
from polythink.trace.detect import opening_tags
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, Dialect, with_inventory
from polythink.trace.parse import MAX_DEPTH, TraceError, first_block, nested_block, parse
from polythink.trace.production import PathTags
from polythink.trace.statistics import count_blocks
from polythink.trace.validity import RULES, check

# numbered and nesting at once, with and without tags of the block: no published format, the same rules
NESTED = with_inventory(replace(PARATHINKER, nests=True, misplaced_tags="keep"), "nested", 4)
NUMBERED = replace(
    PARALLEL_R1,
    name="numbered",
    block=(PARALLEL_R1.block[0], PathTags("<P{n}>", "</P{n}>", least=2, inventory=4), *PARALLEL_R1.block[2:]),
)
DIALECTS = (PARALLEL_R1, with_inventory(PARATHINKER, "parathinker", 4), NESTED, NUMBERED)


def random_text(rng: random.Random, dialect: Dialect) -> str:
    """Well-formed and malformed pieces in any order: blocks that are cut, mixed, nested, or have a tag too many."""

    def paths(depth: int) -> str:
        labels = [rng.randrange(1, 6) for _ in range(rng.randrange(1, 4))]
        return "".join(f"{a}{inside(depth)}{b}" for a, b in map(dialect.path_tags, labels))

    def inside(depth: int) -> str:
        return "".join(rng.choice(("x", "", block(depth - 1) if depth else "y")) for _ in range(rng.randrange(3)))

    def block(depth: int) -> str:
        d = dialect
        opened = d.opening.text if d.opening else ""
        joined = "".join(tag.text for tag in d.joining) + d.summary.gap
        text = f"{opened}{paths(depth)}{joined}{d.summary.open}{inside(depth)}{d.summary.close}"
        if rng.random() < 0.3:
            tags = [tag for tag in d.tags if tag in text]
            place = rng.randrange(len(text) + 1)
            text = rng.choice((text[:place], text[place:], text.replace(rng.choice(tags), "", 1)))
        return text + rng.choice(("", "", " ", "z", rng.choice(d.tags)))

    return "".join(block(rng.randrange(3)) for _ in range(rng.randrange(1, 5)))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("part", sweep(range(4), [0]))
def test_one_pass_counts_what_the_parser_reads(dialect: Dialect, part: int):
    rng = random.Random(part)
    counts = set()
    for _ in range(200):
        text = random_text(rng, dialect)
        count = tried_everywhere(text, dialect)
        assert complete_blocks(text, dialect) == count, text
        counts.add(count)
    assert {0, 1, 2} <= counts


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_random_tags_are_counted_as_the_parser_reads_them(dialect: Dialect):
    rng = random.Random(3)
    pieces = [tag for tag in dialect.tags if tag] + ["x", " ", "\n"]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 14)))
        assert complete_blocks(text, dialect) == tried_everywhere(text, dialect), text


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 7])
@pytest.mark.parametrize("beside", ["", "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary></Summary>"])
def test_the_limit_of_depth_is_that_of_the_parser(levels: int, beside: str):
    text = "x"
    for _ in range(levels):
        text = f"<Parallel><Path>{beside}{text}</Path><Path>b</Path></Parallel><Summary>s</Summary>"
    assert complete_blocks(text) == tried_everywhere(text, PARALLEL_R1)
    assert complete_blocks(text[:-3]) == tried_everywhere(text[:-3], PARALLEL_R1)


class Work:
    """Counts what is read of a text: how often a tag is looked at, whatever the machine's speed."""

    def __init__(self, monkeypatch) -> None:
        self.tokens = 0
        from polythink.trace import blocks

        fits = blocks._Counter.fits

        def counted(counter, token):
            self.tokens += 1
            return fits(counter, token)

        monkeypatch.setattr(blocks._Counter, "fits", counted)


DEGENERATE = [
    "<Parallel><Path>",
    "<Path>",
    "</Summary>",
    "<Parallel>",
    "<Parallel><Path>a</Path><Path>b</Path></Parallel>",
    "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>",
    "<Path>a</Path>",
    "<Summary>",
    "<think1>",
    "<think1></think1>",
    "<think1><think2>",
    "<think1></think1><think2></think2><summary>",
    "</think3>",
]


@pytest.mark.parametrize("piece", DEGENERATE)
def test_a_token_is_read_once_and_nothing_recurses(piece: str, monkeypatch):
    """A look at each tag; the other functions of the room end too, which a quadratic one of them would hardly do."""
    work, n = Work(monkeypatch), 1_100  # more than Python's recursion limit
    for text in (piece * n, "<Parallel><Path>" + piece * n, "<think1>" + piece * n):
        for dialect in (PARALLEL_R1, PARATHINKER):
            work.tokens = 0
            complete_blocks(text, dialect)
            assert work.tokens <= text.count("<") * 2
            count_blocks(text, dialect)
            first_block(text, dialect)
            nested_block(text, dialect)
            opening_tags(text)
            for rule in RULES if dialect.published_check else RULES[:2]:
                check(text, rule, dialect)
            with suppress(TraceError):
                parse(text, dialect)
