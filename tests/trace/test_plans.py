"""Dialects with plans: the published formats as entries, and what is said about each mistake in them."""

from __future__ import annotations

import re

import pytest

from polythink.errors import UserError
from polythink.trace.blocks import complete_blocks
from polythink.trace.dialect import get_dialect
from polythink.trace.parse import REASONS, TraceError, parse
from polythink.trace.production import Dialect, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.render import render
from polythink.trace.statistics import count_blocks, statistics
from polythink.trace.tree import Block, Plan, Trace
from polythink.trace.validity import check

MULTIVERSE, NPR, THREADWEAVER = map(get_dialect, ("multiverse", "npr", "threadweaver"))

# Each published form, with words of our own. Nested blocks number their outlines 1.1, 1.2, ..
MULTIVERSE_TEXT = """Two sums.
<Parallel>
<Goal>
<Outline>1: Add the tens.</Outline>
<Outline>2: Add the ones.</Outline>
</Goal>
<Path>
1: 20 and 30 are 50.
<Parallel>
<Goal>
<Outline>1.1: By counting.</Outline>
<Outline>1.2: By halves.</Outline>
</Goal>
<Path>
1.1: 5 tens.
</Path>
<Path>
1.2: half of 100.
</Path>
<Conclusion>
Both say 50.
</Conclusion>
</Parallel></Path>
<Path>
2: 4 and 3 are 7.
</Path>
<Conclusion>
50 and 7.
</Conclusion>
</Parallel>
So 57."""
NPR_TEXT = """<guideline>
<plan>1: Count the edges.</plan>
<plan>2: Use Euler's formula.</plan>
<plan>3: Look at a drawing.</plan>
</guideline>
<step>
1: Twelve.
</step>
<step>
2: 8 + 6 - 2 is 12.
</step>
<step>
3: Twelve again.
</step>
<takeaway>
All agree.
</takeaway>
The answer is 12."""
THREADWEAVER_TEXT = """Let us split it.
<Parallel>
<Outlines>
<Outline>1: Even n.</Outline>
<Outline>2: Odd n.</Outline>
</Outlines>
<Thread>
1: It holds.
</Thread>
<Thread>
2: It holds too.
</Thread>
</Parallel>
So it always holds."""


def test_multiverse_is_read_and_written_back():
    trace = parse(MULTIVERSE_TEXT, MULTIVERSE)
    assert render(trace, MULTIVERSE) == MULTIVERSE_TEXT
    block, inner = trace.walk()
    assert block.plan == Plan("", ("1: Add the tens.", "2: Add the ones."))
    assert inner.plan.outlines == ("1.1: By counting.", "1.2: By halves.")
    assert block.paths[1] == Trace(("\n2: 4 and 3 are 7.\n",))
    assert block.summary == Trace(("\n50 and 7.\n",))
    numbers = statistics(MULTIVERSE_TEXT, MULTIVERSE)
    assert (numbers.blocks, numbers.paths_per_block, numbers.depth) == (2, (2, 2), 2)
    assert numbers.first_block == len("Two sums.\n") / len(MULTIVERSE_TEXT)
    # outlines are written before the fork, by one chain: all of them count
    assert numbers.critical_words == 2 + 8 + (6 + 6 + 4 + 3) + 3 + 2
    assert numbers.words == numbers.critical_words + 3 + 6


def test_npr_begins_its_blocks_with_the_plan():
    trace = parse(NPR_TEXT, NPR)
    assert render(trace, NPR) == NPR_TEXT
    assert [len(block.plan.outlines) for block in trace.blocks] == [3]
    numbers = statistics(f"First. {NPR_TEXT}", NPR)
    assert (numbers.blocks, numbers.paths_per_block, numbers.depth) == (1, (3,), 1)
    assert numbers.first_block == len("First. ") / len(f"First. {NPR_TEXT}")
    assert count_blocks(NPR_TEXT * 2, NPR) == complete_blocks(NPR_TEXT * 2, NPR) == 2
    assert check(NPR_TEXT, "stack", NPR).valid


def test_threadweaver_has_no_summary():
    trace = parse(THREADWEAVER_TEXT, THREADWEAVER)
    assert render(trace, THREADWEAVER) == THREADWEAVER_TEXT
    assert trace.blocks[0].summary == Trace()
    assert trace.parts[2] == "\nSo it always holds."
    assert statistics(trace, THREADWEAVER).paths_per_block == (2,)
    assert complete_blocks(THREADWEAVER_TEXT, THREADWEAVER) == 1


def test_white_space_between_the_tags_of_a_plan_is_dropped_and_its_text_is_kept():
    goal = "<Goal> Two ways:\n\n <Outline> a\n</Outline><Outline></Outline> </Goal>"
    paths = "<Path></Path> <Path>p</Path>\n\n\n<Conclusion>c</Conclusion>"
    trace = parse(f"<Parallel>  {goal}{paths}   </Parallel>", MULTIVERSE)
    plan = Plan(" Two ways:", (" a\n", ""))
    assert trace == Trace((Block((Trace(), Trace(("p",))), Trace(("c",)), (), plan),))
    assert render(trace, MULTIVERSE) == (
        "<Parallel>\n<Goal> Two ways:\n<Outline> a\n</Outline>\n<Outline></Outline>\n</Goal>\n<Path></Path>"
        "\n<Path>p</Path>\n<Conclusion>c</Conclusion>\n</Parallel>"
    )


# several tags after the paths and after the summary, and a plan without outlines
LONG = Dialect(
    "long",
    (
        Tag("<B>"),
        PlanTags("<G>", "</G>"),
        PathTags("<P>", "</P>", least=2),
        Tag("</P1>", by="runtime"),
        Tag("</P2>", by="runtime"),
        SummaryTags("<S>", "</S>"),
        Tag("</B1>", by="runtime"),
        Tag("</B2>"),
    ),
)
GOAL = "<Goal><Outline>a</Outline><Outline>b</Outline></Goal>"
ONE, TWO = f"<Parallel>{GOAL}<Path>1</Path>", f"<Parallel>{GOAL}<Path>1</Path><Path>2</Path>"
STEPS = "<guideline><plan>a</plan><plan>b</plan></guideline><step>1</step>"
LONG_ONE = "<B><G>g</G><P>1</P><P>2</P>"
LONG_SUM = f"{LONG_ONE}</P1></P2><S>s</S>"

# dialect, text, reason, words of the message
CASES = [
    (MULTIVERSE, "<Goal>", "plan_outside_block", "<Goal> outside a block: expected text or <Parallel>"),
    (MULTIVERSE, "<Outline>", "outline_outside_block", "<Outline> outside a block"),
    (MULTIVERSE, "</Outline>", "outline_not_open", "</Outline> outside a block"),
    (NPR, "</guideline>", "plan_not_open", "expected text or <guideline>"),
    (
        MULTIVERSE,
        "<Parallel> so <Goal>",
        "text_before_plan",
        "text inside the block opened at line 1, column 1: expected <Goal>",
    ),
    (MULTIVERSE, "<Parallel>\n<Go", "cut_in_block", "expected <Goal>"),
    (
        MULTIVERSE,
        "<Parallel><Path>",
        "missing_plan",
        "<Path> inside the block opened at line 1, column 1: expected <Goal>",
    ),
    (
        MULTIVERSE,
        "<Parallel><Goal><Outline>a</Outline> so <Outline>",
        "text_between_outlines",
        "text inside the plan opened at line 1, column 11: expected </Goal>",
    ),
    (MULTIVERSE, "<Parallel><Goal>g<Path>", "path_in_plan", "<Path> inside the plan opened at line 1, column 11"),
    (MULTIVERSE, "<Parallel><Goal>g<Parallel>", "block_in_plan", "<Outline>, 0 of at least 1 outlines so far"),
    (
        MULTIVERSE,
        "<Parallel><Goal>g</Goal>",
        "too_few_outlines",
        "</Goal> inside the plan opened at line 1, column 11: expected <Outline>, 0 of at least 1 outlines so far",
    ),
    (MULTIVERSE, "<Parallel><Goal>g", "cut_in_plan", "the end of the text inside the plan"),
    (
        MULTIVERSE,
        "<Parallel><Goal><Outline>a",
        "cut_in_outline",
        "the end of the text inside outline 1 opened at line 1, column 17: expected </Outline>",
    ),
    (
        MULTIVERSE,
        "<Parallel><Goal><Outline>a</Outline><Outline>a</Goal>",
        "plan_close_in_outline",
        "</Goal> inside outline 2",
    ),
    (MULTIVERSE, "<Parallel><Goal><Outline>a<Outline>", "outline_in_outline", "expected </Outline>"),
    (
        MULTIVERSE,
        f"{ONE}<Conclusion>",
        "too_few_paths",
        "<Conclusion> inside the block opened at line 1, column 1: expected <Path>, 1 of 2 outlined paths so far",
    ),
    (MULTIVERSE, f"{ONE}</Parallel>", "block_close_in_block", "1 of 2 outlined paths so far"),
    (MULTIVERSE, f"{ONE} so <Path>", "text_between_paths", "text inside the block opened at"),
    (MULTIVERSE, f"{ONE}<Pa", "cut_in_block", "the end of the text inside the block"),
    (
        MULTIVERSE,
        f"{TWO}<Path>",
        "paths_not_outlined",
        "<Path> after the paths of the block opened at line 1, column 1: expected <Conclusion>",
    ),
    (MULTIVERSE, f"{TWO} so <Path>", "text_between_paths", "text after the paths of the block"),
    (MULTIVERSE, f"{TWO}</Path>", "path_closed_twice", "</Path> after the paths of the block"),
    (MULTIVERSE, f"{TWO}</Parallel>", "missing_summary", "</Parallel> after the paths of the block"),
    (
        MULTIVERSE,
        f"{TWO}<Conclusion>c</Conclusion> so",
        "text_before_close",
        "text after the summary of the block opened at line 1, column 1: expected </Parallel>",
    ),
    (
        MULTIVERSE,
        f"{TWO}<Conclusion>c</Conclusion>\n</Para",
        "cut_before_close",
        "the end of the text after the summary",
    ),
    (MULTIVERSE, f"{TWO}<Conclusion>c</Conclusion><Path>", "block_not_closed", "<Path> after the summary"),
    (
        NPR,
        f"{STEPS}<takeaway>",
        "too_few_paths",
        "<takeaway> inside the block opened at line 1, column 1: expected <step>, 1 of 2 outlined paths so far",
    ),
    (NPR, f"{STEPS}<step>a<guideline>", "plan_in_path", "<guideline> inside path 2"),
    (
        THREADWEAVER,
        "<Parallel><Outlines><Outline>a</Outline></Outlines><Thread>a</Thread><Thread>",
        "paths_not_outlined",
        "<Thread> inside the block opened at line 1, column 1: expected </Parallel>",
    ),
    (
        THREADWEAVER,
        "<Parallel><Outlines><Outline>a</Outline></Outlines></Parallel>",
        "too_few_paths",
        "expected <Thread>, 0 of 1 outlined paths so far",
    ),
    (LONG, "<B><G>g</G><P>1</P></P1>", "too_few_paths", "expected <P>, 1 of at least 2 paths so far"),
    (
        LONG,
        f"{LONG_ONE}</B2>",
        "block_close_in_block",
        "</B2> inside the block opened at line 1, column 1: expected <P> or </P1>",
    ),
    (
        LONG,
        f"{LONG_ONE}</P1> so",
        "text_before_close",
        "text after the paths of the block opened at line 1, column 1: expected </P2>",
    ),
    (LONG, f"{LONG_ONE}</P1>", "cut_before_close", "the end of the text after the paths of the block"),
    (LONG, f"{LONG_ONE}</P1></P1>", "block_not_closed", "</P1> after the paths of the block"),
    (LONG, f"{LONG_ONE}</P1></P2> so <S>", "text_before_summary", "expected <S>"),
    (
        LONG,
        f"{LONG_SUM}</B2>",
        "block_not_closed",
        "</B2> after the summary of the block opened at line 1, column 1: expected </B1>",
    ),
]
RULE = re.compile(
    r"(</?\w+>|text|the end of the text) (outside a block|(inside|after) (the block|the (paths|summary) of the block|"
    r"the plan|outline \d+|path \d+|the summary) opened at line \d+, column \d+): expected [^{}]+"
)


@pytest.mark.parametrize(("dialect", "text", "reason", "words"), CASES, ids=[f"{c[2]}-{c[0].name}" for c in CASES])
def test_each_mistake_has_its_reason_and_message(dialect: Dialect, text: str, reason: str, words: str):
    with pytest.raises(TraceError) as caught:
        parse(text, dialect)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert RULE.fullmatch(caught.value.message)
    assert complete_blocks(text, dialect) == 0


def test_every_reason_of_these_dialects_is_tested():
    places = ("begun", "plan", "outline", "joined", "summed")
    assert {reason for (where, _), reason in REASONS.items() if where in places} <= {case[2] for case in CASES}


def test_the_long_production_is_complete():
    text = f"{LONG_SUM}</B1></B2>"
    assert render(parse(text, LONG), LONG) == text
    assert check(text, "stack", LONG).valid
    assert check(text.replace("</B2>", ""), "stack", LONG).reason == "not_closed"


@pytest.mark.parametrize(
    ("dialect", "block", "words"),
    [
        (MULTIVERSE, Block((Trace(),)), "a block has no plan; in dialect multiverse blocks are written with one"),
        (get_dialect("parallel_r1"), Block((Trace(),) * 2, plan=Plan()), "a block has a plan; in dialect parallel_r1"),
        (NPR, Block((Trace(),) * 2, plan=Plan("", ("a",))), "1 outlines and 2 paths; in dialect npr each path has one"),
        (LONG, Block((Trace(),) * 2, plan=Plan("", ("a",))), "in dialect long a plan is one text"),
        (THREADWEAVER, Block((Trace(),), Trace(("s",)), (), Plan("", ("a",))), "blocks end without one"),
    ],
    ids=["no plan", "a plan", "outlines", "no outlines", "summary"],
)
def test_a_block_that_has_no_place_in_a_dialect_is_not_written(dialect: Dialect, block: Block, words: str):
    with pytest.raises(UserError, match=re.escape(words)):
        render(Trace((block,)), dialect)


@pytest.mark.parametrize("text", ["<Goal>", "see </Outline>"])
def test_a_tag_in_a_plan_is_refused(text: str):
    for plan in (Plan(text, ("a",)), Plan("", (text,))):
        with pytest.raises(UserError, match="holds the tag"):
            render(Trace((Block((Trace(),), Trace(), (), plan),)), MULTIVERSE)
