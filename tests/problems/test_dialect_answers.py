"""Where the answer stands: after the last block, or in its summary, whatever tags the dialect has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polythink.problems.extract import extract, final_part, with_boxed_answer
from polythink.trace.dialect import get_dialect
from polythink.trace.production import Dialect, PathTags, SummaryTags, Tag

MULTIVERSE, NPR, THREADWEAVER = map(get_dialect, ("multiverse", "npr", "threadweaver"))
SUMMED = replace(  # answers in its summary, and its blocks are closed after it
    MULTIVERSE,
    name="summed",
    block=tuple(replace(e, answers=True) if isinstance(e, SummaryTags) else e for e in MULTIVERSE.block),
)
MANY = Dialect(
    "many",
    (
        Tag("<A>"),
        PathTags("<P>", "</P>"),
        Tag("</P1>", by="runtime"),
        SummaryTags("<S>", "</S>", answers=True),
        Tag("</B1>", by="runtime"),
        Tag("</B2>"),
    ),
)
ALONE = Dialect("alone", (Tag("<A>"), PathTags("<P>", "</P>"), SummaryTags("<S>", "</S>", answers=True)))
GOAL = r"<Parallel><Goal>find \boxed{1}<Outline>1: \boxed{2}</Outline></Goal>"
MULTI = rf"{GOAL}<Path>\boxed{{3}}</Path><Conclusion>\boxed{{4}}</Conclusion></Parallel>"
STEPS = r"<guideline><plan>\boxed{1}</plan></guideline><step>\boxed{2}</step><takeaway>\boxed{3}</takeaway>"
THREADS = r"<Parallel><Outlines><Outline>\boxed{1}</Outline></Outlines><Thread>\boxed{2}</Thread></Parallel>"


@pytest.mark.parametrize(
    ("dialect", "text", "answer"),
    [
        (MULTIVERSE, rf"{MULTI} so \boxed{{5}}", "5"),
        (MULTIVERSE, MULTI, None),
        (MULTIVERSE, rf"\boxed{{0}} {GOAL}", None),
        (MULTIVERSE, rf"{MULTI} \boxed{{5}} {GOAL}<Path>\boxed{{6}}", None),
        (NPR, rf"{STEPS} so \boxed{{5}}", "5"),
        (NPR, STEPS, None),
        (NPR, rf"{STEPS}{STEPS}\boxed{{6}}", "6"),
        (THREADWEAVER, rf"{THREADS}\boxed{{5}}", "5"),
        (THREADWEAVER, THREADS, None),
        (SUMMED, MULTI, "4"),
        (SUMMED, MULTI.removesuffix("</Parallel>"), None),
        (SUMMED, rf"{MULTI} so \boxed{{5}}", "5"),
        (SUMMED, rf"{GOAL}<Path>\boxed{{3}}</Path><Conclusion>cut \boxed{{4}}", None),
        (SUMMED, rf"{GOAL}<Path>\boxed{{3}}</Path><Conclusion>cut \boxed{{4}}</Parallel> no answer", None),
        (SUMMED, f"{GOAL}<Path></Path><Conclusion>so {MULTI} t</Conclusion></Parallel>", "4"),  # nested
        (SUMMED, f"{GOAL}<Path>{MULTI}</Path><Conclusion>none</Conclusion></Parallel>", None),
        (MANY, r"<A><P>\boxed{1}</P></P1><S>\boxed{2}</S></B1></B2>", "2"),
        (MANY, r"<A><P>\boxed{1}</P></P1>", None),
        (ALONE, r"<A><P>\boxed{1}</P><S>\boxed{2}</S>", "2"),
        (ALONE, r"<A><P>\boxed{1}</P>", None),
        (ALONE, r"<A><P>\boxed{1}", None),
    ],
)
def test_the_answer_is_read_after_the_last_join(dialect: Dialect, text: str, answer: str | None):
    assert extract(text, dialect) == answer


def test_the_final_part_of_a_summary_holds_no_tags():
    assert "Parallel" not in final_part(MULTI, SUMMED)
    assert "Conclusion" not in final_part(MULTI, SUMMED)


def test_an_answer_from_a_summary_is_written_after_the_block():
    assert with_boxed_answer(MULTI, "4", SUMMED) == MULTI
    assert extract(with_boxed_answer(MULTI, "4", MULTIVERSE), MULTIVERSE) == "4"
