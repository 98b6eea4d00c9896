"""Any production: what was rendered parses to the same tree, what is broken never crashes, and the readings agree.

The dialects are the published ones and hundreds that are made up at random: nothing in the room knows one by its name.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from helpers.productions import PUBLISHED, mutated, random_block, random_dialect, random_trace, tried_everywhere
from polythink.problems.extract import final_part
from polythink.trace.blocks import complete_blocks
from polythink.trace.parse import TraceError, first_block, nested_block, parse
from polythink.trace.production import Dialect
from polythink.trace.render import render
from polythink.trace.statistics import count_blocks, statistics
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Trace
from polythink.trace.validity import check

MADE_UP = 240


def check_round_trip(trace: Trace, dialect: Dialect) -> str:
    text = render(trace, dialect)
    assert parse(text, dialect) == trace, text
    assert check(text, "strict", dialect).valid
    assert check(text, "stack", dialect).valid, text
    assert complete_blocks(text, dialect) == len(trace.blocks)
    assert count_blocks(text, dialect) == sum(1 for _ in trace.walk())
    assert (first_block(text, dialect) is None) == (not trace.blocks)
    numbers = statistics(trace, dialect)
    assert numbers == statistics(text, dialect)
    assert numbers.paths_per_block == tuple(len(block.paths) for block in trace.walk())
    inside = any(inner.blocks for block in trace.walk() for inner in block.paths)
    assert (nested_block(text, dialect) is not None) == inside
    check_pieces(trace, text, dialect)
    return text


def check_pieces(trace: Trace, text: str, dialect: Dialect) -> None:
    """The pieces of every mode spell the text, token by token; what is forced is what the production says."""
    for mode in ("structured", "sequential"):
        pieces = pieces_of([ord("q")], trace, dialect, lambda part: [ord(c) for c in part], mode)
        assert "".join(chr(token) for piece in pieces[1:] for token in piece.tokens) == text
        assert mode == "structured" or all(all(piece.sampled) for piece in pieces[1:])
        chains = {piece.chain for piece in pieces if piece.kind == "path"}
        assert len(chains) == sum(len(block.paths) for block in trace.walk())


def check_mutated(text: str, dialect: Dialect) -> str:
    """The reason of the strict rule. Nothing raises but `TraceError`; what parses is written in the same way again."""
    assert complete_blocks(text, dialect) == tried_everywhere(text, dialect), text
    check(text, "stack", dialect)
    final_part(text, dialect)
    verdict = check(text, "strict", dialect)
    with suppress(TraceError):
        trace = parse(text, dialect)
        assert parse(render(trace, dialect), dialect) == trace
        assert verdict.valid
        assert complete_blocks(text, dialect) == len(trace.blocks)
    return verdict.reason


@pytest.mark.parametrize("dialect", PUBLISHED, ids=lambda dialect: dialect.name)
def test_published_dialects_on_random_traces_and_their_mutations(dialect: Dialect):
    rng = random.Random(5)
    blocks, reasons = 0, set()
    for _ in range(120):
        trace = random_trace(rng, dialect)
        text = check_round_trip(trace, dialect)
        blocks += sum(1 for _ in trace.walk())
        for _ in range(4):
            reasons.add(check_mutated(mutated(rng, text, dialect), dialect))
    assert blocks > 30
    assert len(reasons) > 12
    assert "ok" in reasons


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2))])
def test_dialects_made_up_at_random(part: int):
    rng = random.Random(part)
    seen: set[tuple] = set()
    reasons = set()
    for _ in range(MADE_UP // 3):
        dialect = random_dialect(rng)
        seen.add((dialect.opens_block, bool(dialect.summary), dialect.declares_paths, bool(dialect.spelled.shared)))
        for _ in range(4):
            trace = Trace((random_block(rng, dialect, 2), *random_trace(rng, dialect, 2).parts))
            text = check_round_trip(trace, dialect)
            for _ in range(3):
                reasons.add(check_mutated(mutated(rng, text, dialect), dialect))
    assert len(seen) >= 10
    assert len(reasons) > 40
