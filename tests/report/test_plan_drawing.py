"""The plan of a block stands in the text before the fork, where the model writes it."""

from __future__ import annotations

from polythink.report.fork_drawing import Card, Fork, flow_of_trace
from polythink.trace.dialect import get_dialect
from polythink.trace.parse import parse

PLAN = "<guideline>Two ways:\n<plan>1: a</plan><plan>2: b</plan></guideline>"
STEPS = "<step>1: x</step><step>2: y</step><takeaway>both</takeaway>"


def test_a_plan_is_drawn_with_the_text_before_its_block():
    flow = flow_of_trace(parse(f"First. {PLAN}{STEPS} Done. {PLAN}{STEPS}{PLAN}{STEPS}", get_dialect("npr")))
    fork = Fork([[Card("path", "1: x", 1)], [Card("path", "2: y", 2)]], [Card("summary", "both")])
    plan = Card("plan", "Two ways:\n1: a\n2: b")
    assert flow == [
        Card("main", "First."), plan, fork, Card("main", "Done."), plan, fork, plan, fork,
    ]  # fmt: skip


def test_a_trace_without_plans_is_drawn_as_before():
    text = "a<Parallel><Path>p</Path><Path>q</Path></Parallel>\n<Summary>s</Summary>b"
    assert [type(node) for node in flow_of_trace(parse(text))] == [Card, Fork, Card]
