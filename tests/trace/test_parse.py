"""The strict parser: what it builds, and what it says about each mistake."""

from __future__ import annotations

import pickle
import re

import pyarrow.parquet
import pytest

from polythink.errors import UserError
from polythink.trace.blocks import complete_blocks
from polythink.trace.parse import MAX_DEPTH, REASONS, TraceError, parse
from polythink.trace.tree import Block, Trace

TWO = "<Path>a</Path><Path>b</Path>"
BLOCK = f"<Parallel>{TWO}</Parallel>\n<Summary>s</Summary>"
A_B_S = Block((Trace(("a",)), Trace(("b",))), Trace(("s",)))


def test_text_without_tags_is_one_part():
    assert parse("x = 1 < 2\n<path>") == Trace(("x = 1 < 2\n<path>",))
    assert parse("") == Trace()


def test_blocks_and_text_alternate():
    assert parse(f"one {BLOCK}{BLOCK} two\n") == Trace(("one ", A_B_S, A_B_S, " two\n"))


def test_space_between_structural_tags_is_dropped_and_kept_elsewhere():
    spaced = "<Parallel>\n<Path>\n a\n</Path>\n\n<Path></Path>\t</Parallel>  \n<Summary> s </Summary>"
    assert parse(spaced) == Trace((Block((Trace(("\n a\n",)), Trace()), Trace((" s ",))),))


def test_blocks_nest_in_paths_and_in_summaries():
    text = f"<Parallel><Path>{BLOCK}</Path><Path>b{BLOCK}c</Path></Parallel><Summary>{BLOCK} s</Summary>"
    paths = (Trace((A_B_S,)), Trace(("b", A_B_S, "c")))
    assert parse(text) == Trace((Block(paths, Trace((A_B_S, " s"))),))


# The one rule of all messages: TAG inside ELEMENT opened at PLACE: expected X.
RULE = re.compile(
    r"(</?\w+>|text|the end of the text) "
    r"(outside a block|(inside|after) (the block|the paths of the block|path \d+|the summary) opened at "
    r"line \d+, column \d+)"
    r": expected .+"
)
# Met only in dialects with numbered paths, or without block tags: tests/trace/test_parathinker.py.
NUMBERED = {("block", "repeated_number"), ("block", "number"), ("path", "number"), ("join", "between"),
            ("join", "path_close")}  # fmt: skip
# Met only in dialects with plans, or with other tags that close a block: tests/trace/test_plans.py.
PLANNED = {(where, met) for where, met in REASONS if where in ("begun", "plan", "joined", "summed") or met == "more"}
PLANNED |= {("text", "plan_open"), ("text", "outline_open"), ("block", "closed")}

# text, reason, line, column, words of the message
CASES = [
    ("a\nb</Parallel>", "block_not_open", 2, 2, "</Parallel> outside a block: expected text or <Parallel>"),
    ("<Path>a</Path>", "path_outside_block", 1, 1, "<Path> outside a block: expected"),
    ("a</Path>", "path_not_open", 1, 2, "</Path> outside a block: expected"),
    ("\n\n <Summary>s</Summary>", "summary_without_block", 3, 2, "<Summary> outside a block: expected"),
    (f"{BLOCK}<Summary>again</Summary>", "summary_without_block", 2, 21, "<Summary> outside a block: expected"),
    ("a</Summary>", "summary_not_open", 1, 2, "</Summary> outside a block: expected"),
    ("<Parallel>\n Hm <Path>", "text_between_paths", 2, 2, "text inside the block opened at line 1, column 1"),
    (f"<Parallel>{TWO} so</Parallel>", "text_between_paths", 1, 40, "text inside the block opened at line 1, column 1"),
    (" <Parallel>\n<Parallel>", "block_between_paths", 2, 1, "<Parallel> inside the block opened at line 1, col"),
    (f"<Parallel>{TWO}</Path>", "path_closed_twice", 1, 39, "</Path> inside the block opened"),
    (f"<Parallel>{TWO}<Summary>s", "summary_in_block", 1, 39, "expected <Path> or </Parallel>"),
    (f"<Parallel>{TWO}</Summary>", "summary_close_in_block", 1, 39, "</Summary> inside the block"),
    ("<Parallel></Parallel>", "too_few_paths", 1, 11, "expected <Path>, 0 of at least 2 paths so far"),
    ("\n<Parallel><Path>a</Path></Parallel>", "too_few_paths", 2, 25, "expected <Path>, 1 of at least 2 paths so far"),
    ("x <Parallel>", "cut_in_block", 1, 13, "the end of the text inside the block opened at"),
    (f"<Parallel>{TWO}\n", "cut_in_block", 2, 1, "expected <Path> or </Parallel>"),
    (f"<Parallel>{TWO}</Para", "cut_in_block", 1, 45, "expected <Path> or </Parallel>"),
    ("<Parallel><Path>a<Path>", "path_in_path", 1, 18, "<Path> inside path 1 opened at line 1, column 11"),
    ("<Parallel><Path>a</Path><Path>b</Parallel>", "path_not_closed", 1, 32, "path 2 opened at line 1, column 25"),
    ("<Parallel><Path>a<Summary>", "summary_in_path", 1, 18, "<Summary> inside path 1"),
    ("<Parallel><Path>a</Summary>", "summary_close_in_path", 1, 18, "</Summary> inside path 1"),
    ("<Parallel><Path>a", "cut_in_path", 1, 18, "the end of the text inside path 1 opened at"),
    (f"<Parallel>{TWO}</Parallel>\n so\n<Summary>s</Summary>", "text_before_summary", 2, 2, "text after the paths"),
    (f"<Parallel>{TWO}</Parallel> 4", "missing_summary", 1, 51, "text after the paths of the block"),
    (f"<Parallel>{TWO}</Parallel>{BLOCK}", "missing_summary", 1, 50, "<Parallel> after the paths of the block opened"),
    (f"<Parallel>{TWO}</Parallel></Parallel>", "missing_summary", 1, 50, "</Parallel> after the paths of the block"),
    (f"<Parallel>{TWO}</Parallel>", "cut_before_summary", 1, 50, "the end of the text after the paths"),
    (f"<Parallel>{TWO}</Parallel>\n<Summ", "cut_before_summary", 2, 6, "expected <Summary>"),
    (f"<Parallel>{TWO}</Parallel><Summary><Path>", "path_in_summary", 1, 59, "<Path> inside the summary opened"),
    (f"<Parallel>{TWO}</Parallel><Summary></Path>", "path_close_in_summary", 1, 59, "expected </Summary>"),
    (f"<Parallel>{TWO}</Parallel><Summary></Parallel>", "block_close_in_summary", 1, 59, "expected </Summary>"),
    (f"<Parallel>{TWO}</Parallel><Summary>s<Summary>", "summary_in_summary", 1, 60, "<Summary> inside the summary"),
    (f"<Parallel>{TWO}</Parallel><Summary>s", "cut_in_summary", 1, 60, "the end of the text inside the summary opened"),
    ("<Parallel><Path>" * (MAX_DEPTH + 1), "too_deep", 1, 16 * MAX_DEPTH + 1, f"more than {MAX_DEPTH} levels deep"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason", "line", "column", "words"), CASES, ids=[f"{c[1]}-{c[3]}" for c in CASES])
def test_each_mistake_has_its_reason_place_and_message(text, reason, line, column, words):
    with pytest.raises(TraceError) as caught:
        parse(text)
    error = caught.value
    assert (error.reason, error.line, error.column) == (reason, line, column)
    assert words in error.message
    assert RULE.fullmatch(error.message)
    assert error.offset == sum(len(row) + 1 for row in text.split("\n")[: line - 1]) + column - 1
    head, source, caret = str(error).split("\n")
    assert head == f"line {line}, column {column}: {error.message}"
    below = source[len(caret) - 1 :]  # what stands above the caret is what the error is about
    assert below.rstrip("…") == text[error.offset :].split("\n")[0][: len(below.rstrip("…"))]


def test_every_reason_with_a_name_of_its_own_is_tested():
    own = {reason for (where, met), reason in REASONS.items() if (where, met) not in NUMBERED | PLANNED}
    assert own <= {case[1] for case in CASES}


def test_the_deepest_allowed_nesting_parses():
    text = "x"
    for _ in range(MAX_DEPTH):
        text = f"<Parallel><Path>{text}</Path><Path></Path></Parallel><Summary></Summary>"
    assert sum(1 for _ in parse(text).walk()) == MAX_DEPTH
    with pytest.raises(TraceError, match="levels deep"):
        parse(f"<Parallel><Path>{text}</Path><Path></Path></Parallel><Summary></Summary>")


def test_a_long_line_is_shown_as_a_window_around_the_caret():
    with pytest.raises(TraceError) as caught:
        parse("l" * 500 + "</Path>" + "r" * 500)
    _, source, caret = str(caught.value).split("\n")
    assert source.startswith("  …l")
    assert source.endswith("r…")
    assert len(source) < 110
    assert source[len(caret) - 1 :].startswith("</Path>")


def test_the_caret_stands_under_the_place_after_wide_and_control_characters():
    with pytest.raises(TraceError) as caught:
        parse("中\t\x1b</Path>")
    _, source, caret = str(caught.value).split("\n")
    assert source == "  中  </Path>"
    assert caret == "  " + " " * 4 + "^"  # a wide character takes two columns


def test_the_error_is_a_user_error_and_survives_pickling():
    with pytest.raises(UserError) as caught:
        parse("</Path>")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason, again.column) == (str(caught.value), "path_not_open", 1)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("no block", 0),
        (f"{BLOCK} x {BLOCK}", 2),
        (f"</Path>{BLOCK}<Parallel>", 1),
        (f"<Parallel>{BLOCK}", 1),
        (f"<Parallel><Path>{BLOCK}</Path></Parallel>{BLOCK}", 2),
        (f"<Parallel><Path>{BLOCK}</Path><Path>b</Path></Parallel><Summary></Summary>", 1),
        (f"<Parallel>{TWO}</Parallel>", 0),
    ],
)
def test_complete_blocks_counts_what_is_well_formed(text, count):
    assert complete_blocks(text) == count


def test_the_real_traces_parse_and_their_two_spellings_agree(shared_data):
    rows = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet").to_pylist()
    bad, blocks, same = {}, 0, 0
    for number, row in enumerate(rows):
        try:
            trace = parse(row["trace_compact"])
        except TraceError as error:
            bad[number] = error.reason
            continue
        blocks += len(trace.blocks)
        same += trace == parse(row["trace"])
    # one trace has text between its paths, one a paragraph before its summary
    assert sorted(bad.values()) == ["text_before_summary", "text_between_paths"]
    assert bad[125] == "text_before_summary"
    assert blocks == 305 - sum(rows[n]["trace"].count("<Parallel>") for n in bad)
    assert same == len(rows) - len(bad) - 31  # the final answer was cleaned in 31 rows
