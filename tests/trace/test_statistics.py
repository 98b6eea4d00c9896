"""Statistics of traces and of rollouts, against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet
import pytest

from polythink.trace.parse import TraceError, parse
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import rollout_statistics, statistics
from polythink.trace.validity import check

BLOCK = "<Parallel><Path>one two</Path><Path>three</Path></Parallel>\n<Summary>so four</Summary>"


def test_a_trace_without_a_block():
    s = statistics("three plain words")
    assert (s.blocks, s.paths_per_block, s.depth, s.words, s.critical_words) == (0, (), 0, 3, 3)
    assert math.isnan(s.first_block)
    assert math.isnan(statistics("").first_block)


def test_a_trace_with_two_blocks():
    text = f"ab c {BLOCK} middle {BLOCK.replace('</Parallel>', '<Path>x y z</Path></Parallel>')}"
    s = statistics(text)
    assert (s.blocks, s.paths_per_block, s.depth) == (2, (2, 3), 1)
    assert s.first_block == len("ab c ") / len(text)
    assert s.words == 2 + (2 + 1 + 2) + 1 + (2 + 1 + 3 + 2)
    assert s.critical_words == 2 + (2 + 2) + 1 + (3 + 2)
    assert statistics(parse(text)) == s


def test_nested_blocks_count_and_lengthen_the_critical_path():
    text = f"<Parallel><Path>a {BLOCK}</Path><Path>p q r s</Path></Parallel><Summary>{BLOCK} t</Summary>"
    s = statistics(text)
    assert (s.blocks, s.paths_per_block, s.depth, s.first_block) == (3, (2, 2, 2), 2, 0.0)
    assert s.words == (1 + 5) + 4 + (5 + 1)
    assert s.critical_words == max(1 + 2 + 2, 4) + (2 + 2 + 1)


def test_white_space_that_the_parser_drops_does_not_move_the_first_block():
    spaced = "ab c " + BLOCK.replace("><", ">\n\n<")
    assert statistics(spaced) == statistics(f"ab c {BLOCK}")


def test_a_malformed_text_is_an_error():
    with pytest.raises(TraceError, match="outside a block"):
        statistics("a</Path>")


def test_the_published_numbers_of_the_real_traces(shared_data):
    rows = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet")["trace_compact"].to_pylist()
    all_of_them = [statistics(t) for t in rows if check(t).valid]
    # 0, 1, 2, 3, 4 blocks in 2, 187, 42, 6, 4 traces; the two that are not well formed have one and two blocks
    blocks = [rows[i].count("<Parallel>") for i in range(len(rows))]
    assert np.bincount(blocks).tolist() == [2, 187, 42, 6, 4]
    assert sum(s.blocks for s in all_of_them) == sum(n for n, t in zip(blocks, rows, strict=True) if check(t).valid)
    assert {s.depth for s in all_of_them} == {0, 1}
    assert 0.25 < np.nanmean([s.first_block for s in all_of_them]) < 0.35
    assert all(s.critical_words < s.words for s in all_of_them if s.blocks)


def segment(kind: str, block: int, path: int, text: str, forced: int = 0, finish_reason: str = "tag") -> Segment:
    """A segment with one token a word or tag; the first `forced` of them are not sampled."""
    n = len(text.replace("<", " <").replace(">", "> ").split())
    sampled = [i >= forced for i in range(n)]
    return Segment(kind, block, path, list(range(1, n + 1)), sampled, [0.0] * n, finish_reason=finish_reason, text=text)


def drawn(*, mode: str = "structured", second: str = "<Path> b </Path>", finish_reason: str = "eos") -> Rollout:
    segments = [
        segment("main", -1, 0, "x y z <Parallel>", finish_reason="fork"),
        segment("path", 0, 1, "<Path> a a a a </Path>", forced=1),
        segment("path", 0, 2, second, forced=1, finish_reason="tag" if "</" in second else "length"),
        segment("summary", 0, 0, "</Parallel> <Summary> s </Summary>", forced=2),
        segment("main", -1, 0, " the end", finish_reason=finish_reason),
    ]
    return Rollout("problem", 0, mode, prompt=(7, 7, 7), segments=segments)


def test_a_rollout_that_was_drawn_in_parallel():
    assert rollout_statistics(drawn()) == {
        "blocks": 1,
        "complete_blocks": 1,
        "paths": 2,
        "first_block": 3 / 19,
        "tokens": 4 + 6 + 3 + 4 + 2,
        "sampled_tokens": 19 - 1 - 1 - 2,
        "critical_path": 4 + 6 + 4 + 2,
        "truncated": 0,
        "joined": 0,
        "agreed": 0,
        "pruned": 0,
        "misplaced_tags": 0,
        "bounded": 0,
        "empty_plans": 0,
        "read_again": 0,
        "finish_reason": "eos",
        "well_formed": True,
        "reason": "ok",
    }


def test_the_critical_path_of_a_sequential_rollout_is_its_length():
    s = rollout_statistics(drawn(mode="sequential"))
    assert s["critical_path"] == s["tokens"] == 19


def test_a_cut_and_malformed_rollout():
    s = rollout_statistics(drawn(second="<Path> b b", finish_reason="trace_length"))
    assert (s["well_formed"], s["reason"]) == (False, "path_not_closed")
    assert (s["blocks"], s["complete_blocks"], s["paths"], s["truncated"], s["finish_reason"]) == (
        1,
        0,
        2,
        2,
        "trace_length",
    )


def test_a_well_formed_block_counts_though_the_rest_is_cut():
    rollout = drawn()
    rollout.segments[-1] = segment("main", -1, 0, "more <Parallel>", finish_reason="max_blocks")
    s = rollout_statistics(rollout)
    assert (s["well_formed"], s["reason"], s["blocks"], s["complete_blocks"], s["truncated"]) == (
        False,
        "cut_in_block",
        2,
        1,
        1,
    )


def test_a_rollout_without_a_block_and_one_without_tokens():
    plain = Rollout("problem", 0, "structured", (7,), [segment("main", -1, 0, "just text", finish_reason="eos")])
    s = rollout_statistics(plain)
    assert (s["first_block"], s["blocks"], s["critical_path"], s["well_formed"]) == (None, 0, 2, True)
    s = rollout_statistics(Rollout("problem", 0, "structured", (7,), []))
    assert (s["first_block"], s["tokens"], s["critical_path"], s["finish_reason"]) == (None, 0, 0, "trace_length")


def test_a_sequential_rollout_in_one_segment_is_measured_by_its_text():
    text = "x y z w <Parallel><Path> a </Path><Path> b </Path></Parallel><Summary> s </Summary>"
    one = Rollout("problem", 0, "sequential", (7,), [segment("main", -1, 0, text, finish_reason="eos")])
    s = rollout_statistics(one)
    assert (s["blocks"], s["complete_blocks"], s["paths"]) == (1, 1, 2)
    assert s["first_block"] == pytest.approx(len("x y z w ") / len(text))
