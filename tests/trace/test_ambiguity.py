"""What is refused when a dialect is declared: each sentence, and the productions that are only nearly ambiguous."""

from __future__ import annotations

import re

import pytest

from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS, get_dialect
from polythink.trace.parse import parse
from polythink.trace.production import Dialect, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.render import render
from polythink.trace.tree import Block, Trace

A, END, SUM = Tag("<A>"), Tag("</A>", by="runtime"), SummaryTags("<S>", "</S>")
P = PathTags("<P>", "</P>")
PLAN = PlanTags("<G>", "</G>", item=("<O>", "</O>"))

# elements, further fields of the dialect, words of the sentence
REFUSED = [
    ((A, END), {}, "one element for its paths, and this one has 0"),
    ((A, P, P, END), {}, "one element for its paths, and this one has 2"),
    ((PLAN, PLAN, P, END), {}, "at most one plan and one summary"),
    ((P, SUM, SUM), {}, "at most one plan and one summary"),
    ((A, A, P, END), {}, "before its paths a block has a tag, a plan, or a tag and then a plan, not tag, tag"),
    ((PLAN, A, P, END), {}, "not plan, tag"),
    ((SUM, P, END), {}, "its summary comes before its paths"),
    ((A, P, PLAN, END), {}, "its plan comes after its paths"),
    ((A, P), {}, "nothing follows its paths"),
    (
        (A, P, Tag("</A>"), SUM),
        {},
        "a tag between its paths and its summary (or after the paths, without one) is",
    ),
    ((A, P, Tag("</A>")), {}, "is written by the runtime"),
    ((P, SUM, Tag("</X>"), END), {}, "those that the runtime writes come before those that the model writes"),
    ((Tag("<A>", by="runtime"), PLAN, P, SUM), {}, "the model writes the plan, so it also writes the tag before it"),
    ((P, Tag("</A>", by="me"), SUM), {}, "by is one of model, runtime, not 'me'"),
    ((P, SUM), {"misplaced_tags": "drop"}, "misplaced_tags is one of keep, replace, not 'drop'"),
    ((A, PathTags("<P>", "</P>", counted="outline"), SUM), {}, "counted is one of request, outlines, not 'outline'"),
    ((A, PathTags("<P>", "</P>", counted="outlines"), SUM), {}, "so it needs a plan with tags for each outline"),
    (
        (PlanTags("<G>", "</G>"), PathTags("<P>", "</P>", counted="outlines"), SUM),
        {},
        "a plan with tags for each outline",
    ),
    ((P, SummaryTags("<S>", "</S>", gap=" - ")), {}, "a gap is white space before a tag, not ' - '"),
    ((Tag("<A>", gap="\n"), P, SUM), {}, "the element that a block begins with has no gap"),
    ((PathTags("<P>", "</P>", gap="\n"), SUM), {}, "the element that a block begins with has no gap"),
    ((PathTags("<P{n}>", "</P>"), SUM), {}, "paths with an inventory of numbers hold {n} in their opening tag"),
    ((PathTags("<P>", "</P>", inventory=4), SUM), {}, "paths with an inventory of numbers hold {n}"),
    ((PathTags("<P>", "</P{n}>"), SUM), {}, "and only they do"),
    ((PathTags("<P{n}>", "</P>", inventory=5000), SUM), {}, "from 0 to 1024, not 5000"),
    ((PathTags("<P>", "</P>", least=0), SUM), {}, "a block has at least one path, not 0"),
    ((PathTags("<P{n}>", "</P>", inventory=2, least=3), SUM), {}, "at least 3 paths, more than the 2 numbers"),
    ((P, SummaryTags("<S{n}>", "</S>")), {}, "only the tags of paths hold {n}"),
    ((PathTags("<P{n}-{n}>", "</P>", inventory=4), SUM), {}, "holds {n} twice or at an end"),
    ((PathTags("P{n}", "</P>", inventory=4), SUM), {}, "'P{n}' holds {n} twice or at an end"),
    ((PathTags("<P{n}>", "{n}/", inventory=4), SUM), {}, "'{n}/' holds {n} twice or at an end"),
    ((PlanTags("<G>", "</G>", item=("<O>", "")), P, SUM), {}, "an outline has an opening and a closing tag, or none"),
    ((P, SummaryTags("", "</S>")), {}, "the tag '' is empty"),
    ((P, SummaryTags("<S> ", "</S>")), {}, "white space that is not one space between words"),
    ((P, SummaryTags("<S  x>", "</S>")), {}, "white space that is not one space between words"),
    ((P, SummaryTags("<S\nx>", "</S>")), {}, "white space that is not one space between words"),
    ((P, SummaryTags("<P>", "</S>")), {}, "two of its elements cannot be told apart: both have the tag <P>"),
    ((A, P, Tag("<A>", by="runtime")), {}, "both have the tag <A>"),
    ((A, P, Tag("</P>", by="runtime")), {}, "both have the tag </P>"),
    ((P, SummaryTags("<S>", "<P>")), {}, "both have the tag <P>"),
    ((PathTags("<P>", "<P>"), SUM), {}, "both have the tag <P>"),
    (
        (PathTags("<P{n}>", "</P>", inventory=4), SummaryTags("<P3>", "</S>")),
        {},
        "told apart: <P{n}> and <P3>",
    ),
    ((PathTags("<P{n}>", "</P{n}>", inventory=4), SummaryTags("<S>", "</P22>")), {}, "</P{n}> and </P22>"),
    ((PathTags("<P{n}>", "<P{n}>", inventory=4), SUM), {}, "both have the tag <P{n}>"),
    ((P, SummaryTags("<P>>", "</S>")), {}, "the tag <P> is a part of the tag <P>>"),
    ((PathTags("P>", "</P>"), SUM), {}, "the tag P> is a part of the tag </P>"),
    ((PathTags("step", "</P>"), SummaryTags("steps", "</S>")), {}, "the tag step is a part of the tag steps"),
    ((PathTags("[P]", "]/P["), SUM), {}, "the tag ]/P[ begins with ']', as [P] ends"),
    ((PathTags("**P**", "</P>"), SUM), {}, "the tag **P** begins with '*', as **P** ends"),
    ((PathTags("a b", "</P>"), SummaryTags("b c", "</S>")), {}, "the tag b c begins with 'b', as a b ends"),
    ((PathTags("<P{n}>", "</P>", inventory=4), SummaryTags("x<P12", "</S>")), {}, "as x<P12 ends"),
    ((P, SUM), {"misplaced_tags": "replace"}, "misplaced tags are replaced where blocks do not nest"),
    ((PathTags("<P>", "</P>", heading="<S>"), SUM), {}, "the heading '<S>' of a path holds a tag"),
    ((P, SUM), {"published_check": True}, "the published checker reads blocks with an opening and a closing tag"),
]


@pytest.mark.parametrize(("block", "more", "words"), REFUSED, ids=range(len(REFUSED)))
def test_each_ambiguity_is_refused_in_one_sentence(block, more, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        Dialect("made", block, **more)
    assert str(caught.value).startswith("dialect 'made': ")


NEARLY = [
    (PathTags("<P{n}>", "</P>", inventory=4), SummaryTags("<P>", "</S>")),  # a number is never empty
    (PathTags("<P{n}>", "</P{n}>", inventory=4), SummaryTags("<P-1>", "</S>")),  # nor negative
    (PathTags("<P{n}>", "</P>", inventory=4), SummaryTags("<S>", "</P>")),  # one closing tag for all
    (A, P, Tag("</B>", by="runtime"), SUM, Tag("</A>")),  # told apart by their text
    (PathTags("(.*)", "[^x]"), SummaryTags("\\d+", "$^")),  # what other patterns would match is only text here
    (PathTags("way A", "way B"), SummaryTags("sum C", "sum D")),
    (PathTags("🧭", "🏁"), SummaryTags("🤝", "✅")),
]


@pytest.mark.parametrize("block", NEARLY, ids=range(len(NEARLY)))
def test_what_is_only_nearly_ambiguous_is_read(block):
    dialect = Dialect("nearly", block)
    inside = Trace(("x 1 ",))
    labels = (2, 4) if dialect.inventory else ()
    trace = Trace(("a ", Block((inside, inside), inside, labels), " b"))
    assert parse(render(trace, dialect), dialect) == trace


def test_the_published_entries_pass_with_every_inventory():
    assert len(DIALECTS) == 5
    for size in (1, 9, 10, 1024):
        assert len(get_dialect(f"parathinker:{size}").tags) == 2 * size + 2
