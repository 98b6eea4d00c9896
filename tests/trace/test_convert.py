"""Conversion between formats that have plans, headings or summaries and those that have none."""

from __future__ import annotations

import random

import pyarrow.parquet
import pytest

from helpers.productions import random_trace
from polythink.errors import UserError
from polythink.trace.convert import ConversionError, convert
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.parse import TraceError, parse
from polythink.trace.render import render
from polythink.trace.tree import Block, Plan, Trace

MULTIVERSE, NPR, THREADWEAVER = map(get_dialect, ("multiverse", "npr", "threadweaver"))
PLAIN = (
    "Hm.<Parallel><Path>Add the tens. 50\nyes</Path><Path>\nOnes: 7</Path></Parallel>\n<Summary>50, 7</Summary> So 57"
)
WITH_PLAN = (
    "Hm.\n<Parallel>\n<Goal>Two sums:\n<Outline>1: tens</Outline>\n<Outline>2: ones</Outline>\n</Goal>\n"
    "<Path>\n1: 50</Path>\n<Path>\n2: 7</Path>\n<Conclusion>both</Conclusion>\n</Parallel>So 57"
)


def converted(text: str, source, target, plans: str = "refuse") -> str:
    return render(convert(parse(text, source), target, source=source, plans=plans), target)


def test_plans_go_to_plans_and_headings_stay_as_they_are():
    there = converted(WITH_PLAN, MULTIVERSE, NPR)
    assert there == (
        "Hm.\n<guideline>Two sums:\n<plan>1: tens</plan>\n<plan>2: ones</plan>\n</guideline>\n"
        "<step>\n1: 50</step>\n<step>\n2: 7</step>\n<takeaway>both</takeaway>So 57"
    )
    # the one character of white space that Multiverse writes before its opening tag is text
    assert converted(there, NPR, MULTIVERSE) == WITH_PLAN


def test_a_summary_without_a_place_is_the_text_after_the_block():
    there = converted(WITH_PLAN, MULTIVERSE, THREADWEAVER)
    assert there.endswith("\n2: 7</Thread>\n</Parallel>\nboth\nSo 57")
    with pytest.raises(ConversionError, match="a block without a summary") as caught:
        converted(there, THREADWEAVER, MULTIVERSE)
    assert caught.value.reason == "no_summary"
    again = "<think1>a</think1><summary>s</summary>"
    assert converted(again, PARATHINKER, THREADWEAVER, "write").endswith("<Thread>\n1: a</Thread>\n</Parallel>\ns")


def test_a_plan_without_a_place_is_refused_dropped_or_written_before_the_block():
    with pytest.raises(ConversionError, match="plans: drop, write") as caught:
        converted(WITH_PLAN, MULTIVERSE, PARALLEL_R1)
    assert caught.value.reason == "plan_lost"
    block = "<Parallel><Path>50</Path><Path>7</Path></Parallel>\n<Summary>both</Summary>So 57"
    assert converted(WITH_PLAN, MULTIVERSE, PARALLEL_R1, "drop") == f"Hm.\n{block}"
    assert converted(WITH_PLAN, MULTIVERSE, PARALLEL_R1, "write") == f"Hm.\nTwo sums:\n1: tens\n2: ones\n{block}"


def test_outlines_that_are_not_there_are_refused_or_written_from_the_paths():
    for plans in ("refuse", "drop"):
        with pytest.raises(ConversionError, match="plans: write") as caught:
            converted(PLAIN, PARALLEL_R1, MULTIVERSE, plans)
        assert caught.value.reason == "no_plan"
    there = converted(PLAIN, PARALLEL_R1, MULTIVERSE, "write")
    assert parse(there, MULTIVERSE).blocks[0].plan == Plan("", ("1: Add the tens. 50", "2: Ones: 7"))
    assert "<Path>\n1: Add the tens. 50\nyes</Path>\n<Path>\n2:\nOnes: 7</Path>" in there
    assert converted(there, MULTIVERSE, PARALLEL_R1, "drop") == PLAIN


def test_an_outline_is_a_line_or_a_sentence_or_some_words():
    def outline(path: str) -> str:
        block = Block((Trace((path,)), Trace(("b",))), Trace())
        return convert(Trace((block,)), NPR, plans="write").blocks[0].plan.outlines[0]

    assert outline("\n\n  One line here. And more\nnext") == "1: One line here. And more"
    assert outline("Short. " + "word " * 30) == "1: Short."
    assert outline("word " * 30) == "1: " + " ".join(["word"] * 16)
    assert outline("3: first") == "1: first"
    for empty in (" \n", "7:"):
        with pytest.raises(ConversionError, match="path 1, which begins with no text") as caught:
            outline(empty)
        assert caught.value.reason == "no_plan"


def test_the_outlines_of_nested_blocks_are_numbered_after_their_path():
    inner = "<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary></Summary>"
    text = f"<Parallel><Path>p</Path><Path>q{inner}</Path></Parallel>\n<Summary></Summary>"
    trace = convert(parse(text), MULTIVERSE, source=PARALLEL_R1, plans="write")
    _, nested = trace.walk()
    assert nested.plan.outlines == ("2.1: a", "2.2: b")
    assert nested.paths[1] == Trace(("\n2.2: b",))
    assert render(convert(trace, PARALLEL_R1, source=MULTIVERSE, plans="drop")) == text
    with pytest.raises(ConversionError) as caught:
        convert(trace, NPR, source=MULTIVERSE)
    assert caught.value.reason == "nested"


def test_what_is_a_tag_in_the_target_is_refused_in_plans_too():
    plan = "<guideline>{}<plan>{}</plan></guideline><step>s</step><takeaway></takeaway>"
    for goal, outline in (("<Goal>", "x"), ("x", "</Path>")):
        with pytest.raises(ConversionError, match="it is a tag there") as caught:
            converted(plan.format(goal, outline), NPR, MULTIVERSE)
        assert caught.value.reason == "tag_in_text"
    with pytest.raises(ConversionError):
        converted(plan.format("<Path>", "x"), NPR, PARALLEL_R1, "write")


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="did you mean 'write'"):
        convert(Trace(), NPR, plans="wirte")


@pytest.mark.parametrize("dialect", [MULTIVERSE, NPR, THREADWEAVER], ids=lambda dialect: dialect.name)
def test_a_trace_converted_to_its_own_dialect_is_that_trace_with_headings(dialect):
    rng = random.Random(2)
    for _ in range(200):
        trace = random_trace(rng, dialect)
        headed = convert(trace, dialect, source=dialect)
        assert [block.plan for block in headed.walk()] == [block.plan for block in trace.walk()]
        assert convert(headed, dialect, source=dialect) == headed


@pytest.mark.parametrize("dialect", [MULTIVERSE, NPR], ids=lambda dialect: dialect.name)
def test_the_real_traces_come_back(shared_data, dialect):
    rows = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet").to_pylist()
    back = 0
    for row in rows:
        for column in ("trace", "trace_compact"):
            try:
                trace = parse(row[column])
            except TraceError:
                continue
            there = convert(trace, dialect, source=PARALLEL_R1, plans="write")
            assert parse(render(there, dialect), dialect) == there
            assert all(block.plan.outlines for block in there.walk())
            assert convert(there, PARALLEL_R1, source=dialect, plans="drop") == trace
            back += 1
    assert back > 450
