"""What is drawn is what is trained, for every dialect and mode, without a model: pieces, positions, who sees whom."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from helpers.simulated import bytes_of, simulate
from helpers.sweep import sweep
from polythink.engine.params import SamplingParams
from polythink.trace.dialect import DIALECTS, get_dialect
from polythink.trace.layout import Layout, closure
from polythink.trace.modes import MODES
from polythink.trace.parse import TraceError, parse
from polythink.trace.scan import scan
from polythink.trace.tokens import pieces_of

EXACT = [name for name, mode in MODES.items() if mode.exact]
NESTED = [name for name, dialect in DIALECTS.items() if dialect.nests]


def same_tree(state, layout: Layout) -> None:
    """The table by which the engine ran the trace is the layout of the finished trace."""
    texts = {id(record): segment for segment, record in enumerate(state.records)}
    order = [0, *(texts[id(s)] for s in state.rollout().segments if s.tokens)]
    assert [state.records[i].kind for i in order] == list(layout.kinds)
    assert closure(state.follows)[np.ix_(order, order)].tolist() == layout.sees.tolist()
    ends = {int(segment): int(position) for segment, position in zip(layout.segment, layout.position, strict=True)}
    assert [state.ends[i] for i in order] == [ends[i] for i in range(len(order))]
    assert [state.scales[i] for i in order] == pytest.approx(layout.scales)


def first(segment, dialect: str) -> bool:
    """Does the path begin here, and not go on after a block in it?"""
    return segment.text.lstrip().startswith(get_dialect(dialect).path_tags(segment.label)[0])


def depth_of(text: str, dialect: str) -> int:
    """How deep blocks lie in one another, by the tags of paths alone."""
    depth = deepest = 0
    for token in scan(text, get_dialect(dialect)):
        depth += (token.kind == "path_open") - (token.kind == "path_close")
        deepest = max(deepest, depth)
    return deepest


def check_pieces(state, dialect: str) -> int:
    """The pieces of the parsed text are those that were drawn; returns how many blocks they hold, 0 if malformed."""
    codec, _, end = bytes_of(get_dialect(dialect))
    rollout, drawn = state.rollout(), [piece for piece in state.rollout().pieces() if piece.kind != "copy"]
    try:
        trace = parse(rollout.text, get_dialect(dialect))
    except TraceError:
        return 0
    ended = [end] if rollout.finish_reason == "eos" else []
    pieces = pieces_of(rollout.prompt, trace, get_dialect(dialect), codec.encode, rollout.mode, ended)
    if not rollout.rules.isolated:
        assert [t for p in pieces for t in p.tokens] == [t for p in drawn for t in p.tokens]
        return len(list(trace.walk()))
    assert [(p.kind, p.chain, p.label, p.tokens) for p in pieces] == [
        (p.kind, p.chain, p.label, p.tokens) for p in drawn
    ]
    for piece, own in zip(pieces, drawn, strict=True):
        assert piece.sampled[:-1] == own.sampled[:-1]
        assert own.sampled[-1] <= piece.sampled[-1]  # whether a closing tag was forced, no text says
    return len(list(trace.walk()))


@pytest.mark.parametrize("paths", sweep([1, 2, 3, 8], [1, 2, 8]))
@pytest.mark.parametrize("mode", EXACT)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_pieces_positions_and_table_are_those_of_the_finished_trace(dialect, mode, paths):
    most = paths if MODES[mode].isolated else 1000  # a model that writes more ends the trace
    longest = 9000 if MODES[mode].isolated else 3000  # a flat text is read again for every token
    params = SamplingParams(mode=mode, paths=paths, max_paths=most, max_depth=2 + (paths < 8), max_blocks=6,
                            max_trace_tokens=longest, length_scaling_above=1)  # fmt: skip
    seen: Counter[str] = Counter()
    for seed in range(4):
        state = simulate(dialect, params, seed, blocks=0.2 / (paths + 2), trained_paths=1)
        rollout = state.rollout()
        layout = rollout.layout()
        same_tree(state, layout)
        seen["in well-formed traces"] += check_pieces(state, dialect)
        of_block = Counter(s.block for s in rollout.segments if s.kind == "path" and first(s, dialect))
        seen["blocks"] += len(of_block)
        seen["of P"] += list(of_block.values()).count(paths)
        seen["in blocks"] += depth_of(rollout.text, dialect) > 1
        read_again = [p.tokens for p in rollout.pieces() if p.kind == "copy"]
        assert len(read_again) == len(of_block) * MODES[mode].rereads
        kept = [layout.tokens[layout.segment == i].tolist() for i, k in enumerate(layout.kinds) if k == "copy"]
        assert [list(tokens) for tokens in read_again] == kept
    assert seen["blocks"] >= 3, seen
    assert seen["of P"] >= 1 or mode == "sequential", seen
    assert seen["in blocks"] >= 1 or not get_dialect(dialect).nests, seen
    assert seen["in well-formed traces"] >= 1 or paths < get_dialect(dialect).paths.least, seen
