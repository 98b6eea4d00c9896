"""The dialect `parathinker`: grammar, numbers, layout, conversion, and what the other rooms read from such texts."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from polythink.errors import UserError
from polythink.models.tokenizers import byte_tokenizer
from polythink.problems.answers import Grader
from polythink.problems.extract import extract
from polythink.problems.problem import Problem
from polythink.trace.convert import convert
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.finish import truncate_paths
from polythink.trace.layout import Piece, lay_out
from polythink.trace.parse import TraceError, complete_blocks, first_block, parse
from polythink.trace.render import render
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import count_blocks, rollout_statistics, statistics
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Block, Trace
from polythink.trace.validity import check

TWO = "<think1>a</think1><think4>b</think4>"
TRACE = f"{TWO}<summary>so 4</summary>"

CASES = [
    ("<summary>s</summary>", "summary_without_block", 1, "<summary> outside a block: expected text or <think1>"),
    ("<think1>a<think2>", "path_in_path", 10, "<think2> inside path 1 opened at line 1, column 1: expected </think1>"),
    ("<think3>a</think2>", "wrong_number", 10, "expected </think3>"),
    (
        "<think3>a</think3><think3>",
        "number_twice",
        19,
        "<think3> inside the block opened at line 1, column 1: expected a number that no other",
    ),
    ("<think17>a</think17>", "unknown_number", 1, "expected a number from 1 to 16"),
    ("<think0>a</think0>", "unknown_number", 1, "expected a number from 1 to 16"),
    ("<think5>a</summary>", "summary_close_in_path", 10, "inside path 5"),
    ("<think5>a", "cut_in_path", 10, "the end of the text inside path 5"),
    (f"{TWO} so <summary>", "text_before_summary", 38, "text after the paths of the block"),
    (f"{TWO} so <think2>", "text_between_paths", 38, "text after the paths of the block"),
    (f"{TWO}</think4>", "path_closed_twice", 37, "</think4> after the paths of the block opened at line 1, column 1"),
    (f"{TWO} so", "missing_summary", 38, "expected <summary>"),
    (TWO, "cut_before_summary", 37, "the end of the text after the paths"),
    (f"{TWO}<summary><think5>", "path_in_summary", 46, "<think5> inside the summary"),
    (f"{TWO}<summary></think1>", "path_close_in_summary", 46, "expected </summary>"),
    (f"{TWO}<summary>s", "cut_in_summary", 47, "the end of the text inside the summary"),
    ("</think1>", "path_not_open", 1, "</think1> outside a block"),
]


def encode(text: str) -> list[int]:
    """One number a character: enough to see what goes where."""
    return [ord(c) for c in text]


def test_a_trace_is_read_and_written_back():
    trace = parse(f"x {TRACE} y", PARATHINKER)
    assert trace == Trace(("x ", Block((Trace(("a",)), Trace(("b",))), Trace(("so 4",)), (1, 4)), " y"))
    assert render(trace, PARATHINKER) == f"x {TRACE} y"
    assert parse(f" {TWO}\n<summary>so 4</summary>", PARATHINKER).blocks == trace.blocks


@pytest.mark.parametrize(("text", "reason", "column", "words"), CASES, ids=[case[1] for case in CASES])
def test_each_mistake_has_its_reason_place_and_message(text, reason, column, words):
    with pytest.raises(TraceError) as caught:
        parse(text, PARATHINKER)
    assert (caught.value.reason, caught.value.column) == (reason, column)
    assert words in caught.value.message
    assert "{" not in caught.value.message
    assert "<>" not in caught.value.message


@pytest.mark.parametrize("number", ["01", "1" * 5, "1" * 5000, "", "-1", "1.0"], ids=lambda number: number[:5])
def test_what_is_no_number_makes_no_tag(number):
    text = f"<think{number}> a </think{number}>"
    assert parse(text, PARATHINKER) == Trace((text,))
    assert check(text, "strict", PARATHINKER).valid
    assert extract(rf"{TRACE} <think{number}> \boxed{{5}}", PARATHINKER) == "5"
    byte_tokens = byte_tokenizer(PARATHINKER)(text)["input_ids"]
    assert len(byte_tokens) == len(text)


def test_an_own_tag_that_stands_for_a_misplaced_tag_is_text():
    text = "<think1>a<think1>b<think1></think1><think2>c</think2><summary><summary>s</summary>"
    block = Block((Trace(("a<think1>b<think1>",)), Trace(("c",))), Trace(("<summary>s",)), (1, 2))
    assert parse(text, PARATHINKER) == Trace((block,))
    assert render(Trace((block,)), PARATHINKER) == text
    assert check("<think1>a<think2>b<think1>c</think1>", "strict", PARATHINKER).reason == "path_in_path"
    assert complete_blocks(f"<think1>a<think2>b{TRACE}{TRACE}", PARATHINKER) == 2
    with pytest.raises(UserError, match="holds the tag <think2>"):
        render(Trace((Block((Trace(("<think2>",)),), Trace(), (1,)),)), PARATHINKER)
    with Grader(dialect=PARATHINKER) as grader:
        problem = Problem("key", "q", "2")
        path = "<think3> or <think3> Final Answer: 2 <think3></think3>"
        assert grader.path_answer(path, problem) == "2"


def test_random_traces_survive_rendering():
    rng = random.Random(1)
    for _ in range(500):
        parts: list[str | Block] = []
        for _ in range(rng.randrange(4)):
            labels = tuple(rng.sample(range(1, 17), rng.randrange(1, 6)))
            paths = tuple(Trace(("t<think",)) if rng.random() < 0.7 else Trace() for _ in labels)
            parts.append(Block(paths, Trace(("s",)), labels))
            parts += ["between"] * (rng.random() < 0.5)
        trace = Trace(tuple(parts))
        text = render(trace, PARATHINKER)
        assert parse(text, PARATHINKER) == trace
        assert check(text, "stack", PARATHINKER).valid
        assert complete_blocks(text, PARATHINKER) == count_blocks(text, PARATHINKER) == len(trace.blocks)


def test_rules_know_the_dialect():
    assert check(TRACE, "strict", PARATHINKER).valid
    crossed = "<think1>a</think2><summary>s</summary>"
    assert check(crossed, "stack", PARATHINKER).reason == "wrong_close"
    with pytest.raises(UserError, match="dialect parathinker has none"):
        check(TRACE, "reference", PARATHINKER)


def test_the_inventory_is_part_of_the_name():
    assert get_dialect("parathinker:64").inventory == 64
    assert get_dialect("parathinker:8").tags[-4:] == ("<think8>", "</think8>", "<summary>", "</summary>")
    assert len(get_dialect("parathinker").tags) == 2 * 16 + 2
    for name, words in [
        ("parathinker:0", "from 1 to 1024"),
        ("parathinker:x", "from 1 to 1024"),
        ("parallel_r1:8", "no inventory"),
        ("paratinker:8", "did you mean 'parathinker'"),
    ]:
        with pytest.raises(UserError, match=words):
            get_dialect(name)


def test_numbers_outside_the_inventory_and_missing_ones_are_not_written():
    for labels in ((), (17,)):
        with pytest.raises(UserError, match="numbers go from 1 to 16"):
            render(Trace((Block((Trace(("a",)),), Trace(), labels),)), PARATHINKER)


def test_the_answer_is_in_the_summary():
    assert extract(r"<think1>\boxed{1}</think1><summary>so \boxed{2}</summary>", PARATHINKER) == "2"
    assert extract(r"<think1>\boxed{1}</think1><summary>so \boxed{2}</summary> or \boxed{3}", PARATHINKER) == "3"
    assert extract(r"<think1>\boxed{1}</think1><summary>none</summary>", PARATHINKER) is None
    assert extract(r"<think1>\boxed{1}</think1><summary>cut \boxed{2}", PARATHINKER) is None
    assert extract("<think1>x</think1><summary>Final Answer: 7</summary>", PARATHINKER) == "7"
    assert extract(r"<Parallel><Path>\boxed{1}</Path></Parallel><Summary>\boxed{2}</Summary>", PARALLEL_R1) is None


def test_statistics_count_blocks_without_tags_of_their_own():
    numbers = statistics(f"ab {TRACE}{TRACE}", PARATHINKER)
    assert (numbers.blocks, numbers.paths_per_block, numbers.depth) == (2, (2, 2), 1)
    assert numbers.first_block == 3 / len(f"ab {TRACE}{TRACE}")


def test_a_reasoning_models_tags_begin_no_block():
    text = r"<think> a </think>\boxed{1}"
    assert first_block(text, PARATHINKER) is None
    assert first_block(f"{text}{TRACE}", PARATHINKER).start == len(text)
    assert statistics(f"{text}{TRACE}", PARATHINKER).first_block == len(text) / len(text + TRACE)
    segments = [
        Segment("main", -1, 0, [1] * 3, [True] * 3, text=text),
        Segment("path", 0, 1, [1] * 3, [True] * 3, text="<think4>b</think4>", label=4),
        Segment("summary", 0, 0, [1] * 2, [True] * 2, text="<summary></summary>"),
    ]
    rollout = Rollout("problem", 0, "structured", (9,), segments)
    assert rollout_statistics(rollout, PARATHINKER)["first_block"] == 3 / 8


# ---- layout ----


def piece(kind: str, n: int, block: int = -1, path: int = 0, label: int = 0) -> Piece:
    return Piece(kind, tuple(range(n)), (kind != "prompt",) * n, block, path, label)


def test_pieces_of_a_trace():
    pieces = pieces_of(encode("q"), parse(TRACE + "!", PARATHINKER), PARATHINKER, encode, "structured", (9,), "so")
    assert [(p.kind, p.chain, p.label) for p in pieces] == [
        ("prompt", (-1, 0), 0),
        ("path", (0, 1), 1),
        ("path", (0, 2), 4),
        ("summary", (0, 0), 0),
        ("main", (-1, 0), 0),
    ]
    shown = ["".join(chr(t) if s else "." for t, s in zip(p.tokens, p.sampled, strict=True)) for p in pieces]
    assert shown[1:4] == ["........a</think1>", "........b</think4>", "........... 4</summary>"]


def test_paths_start_together_and_the_summary_after_the_longest():
    pieces = [piece("prompt", 5), piece("path", 3, 0, 1, 7), piece("path", 6, 0, 2, 2), piece("summary", 2, 0)]
    layout = lay_out(pieces, "structured")
    assert layout.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9, 10, 11, 12]
    assert layout.labels == (0, 7, 2, 0)
    segment = np.repeat([0, 1, 2, 9], [5, 3, 6, 2])  # ParaThinker's rule, written down again
    u, v = np.ogrid[:16, :16]
    expected = (v <= u) & ((segment[v] == 0) | (segment[v] == segment[u]) | (segment[u] == 9))
    assert np.array_equal(layout.may_attend(), expected)


def test_flattened_positions_set_the_paths_apart():
    pieces = [piece("prompt", 5), piece("path", 3, 0, 1), piece("path", 6, 0, 2), piece("summary", 2, 0)]
    layout = lay_out(pieces, "structured", path_position_stride=10)
    assert layout.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18, 19, 20, 21, 22]
    assert lay_out(pieces, "sequential", path_position_stride=10).position.tolist() == list(range(16))


def test_a_path_that_goes_on_after_a_nested_block_is_not_moved_again():
    pieces = [
        piece("main", 2), piece("path", 2, 0, 1), piece("path", 3, 0, 2), piece("path", 2, 1, 1),
        piece("path", 2, 1, 2), piece("summary", 1, 1), piece("path", 2, 0, 2), piece("summary", 1, 0),
    ]  # fmt: skip
    layout = lay_out(pieces, "structured", path_position_stride=20)
    first = [int(layout.position[layout.segment == s][0]) for s in range(8)]
    assert first == [0, 2, 22, 25, 45, 47, 48, 50]


def test_attention_is_scaled_after_a_join_of_more_paths_than_in_training():
    def pieces(paths: int) -> list[Piece]:
        inside = [piece("path", 14, 0, i + 1) for i in range(paths)]
        return [piece("prompt", 10), *inside, piece("summary", 3, 0), piece("main", 2)]

    for paths in (4, 8, 16):
        scales = lay_out(pieces(paths), "structured", trained_paths=4).scales
        expected = math.log(10 + 14 * paths) / math.log(10 + 14 * 4)
        assert scales == pytest.approx((1.0,) * (paths + 1) + (expected,) * 2)
        assert set(lay_out(pieces(paths), "structured").scales) == {1.0}
    assert expected == pytest.approx(1.30, abs=0.01)  # the value that helped in a trial


def test_paths_are_truncated_to_the_one_that_ended_the_block():
    lengths = (6, 4, 9)
    paths = [Piece("path", tuple(range(n)), (False,) + (True,) * (n - 1), 0, i) for i, n in enumerate(lengths, 1)]
    pieces = [piece("prompt", 2), *paths, piece("summary", 2, 0)]
    for join_when, kept in (("first", (5, 4, 5)), ("half", (6, 4, 7)), ("all", lengths)):
        cut = truncate_paths(pieces, join_when, close=lambda label: 99)
        assert tuple(len(p.tokens) for p in cut[1:4]) == kept
        for before, after, n in zip(pieces[1:4], cut[1:4], lengths, strict=True):
            assert (after == before) == (len(after.tokens) == n)
            if after != before:
                assert (after.tokens[-1], after.sampled[-1]) == (99, False)
                assert after.tokens[:-1] == before.tokens[: len(after.tokens) - 1]
        assert cut[0] == pieces[0]
        assert cut[4] == pieces[4]


# ---- conversion ----


def test_conversion_between_the_dialects():
    text = "x<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>y"
    numbered = convert(parse(text), PARATHINKER)
    assert render(numbered, PARATHINKER) == "x<think1>a</think1><think2>b</think2><summary>s</summary>y"
    assert render(convert(numbered, PARALLEL_R1), PARALLEL_R1) == text
    drawn = convert(parse(text), PARATHINKER, random.Random(3)).blocks[0].labels
    assert len(set(drawn)) == 2
    assert drawn == convert(parse(text), PARATHINKER, random.Random(3)).blocks[0].labels


def test_what_cannot_be_written_in_a_dialect_is_refused():
    nested = "<Parallel><Path><Parallel><Path>a</Path><Path>b</Path></Parallel><Summary></Summary></Path><Path>c</Path>"
    with pytest.raises(UserError, match="blocks do not nest"):
        convert(parse(nested + "</Parallel><Summary></Summary>"), PARATHINKER)
    with pytest.raises(UserError, match="at least 2"):
        convert(parse("<think1>a</think1><summary>s</summary>", PARATHINKER), PARALLEL_R1)
    wide = "<Parallel>" + "<Path>a</Path>" * 9 + "</Parallel><Summary></Summary>"
    with pytest.raises(UserError, match=r"9 paths.*8 numbers"):
        convert(parse(wide), get_dialect("parathinker:8"))
