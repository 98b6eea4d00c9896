"""Rendering: the canonical text, and `parse(render(t)) == t` over random nested traces."""

from __future__ import annotations

import random

import pytest

from polythink.errors import UserError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import parse
from polythink.trace.production import PathTags, SummaryTags, Tag
from polythink.trace.render import render
from polythink.trace.statistics import statistics
from polythink.trace.tree import Block, Trace

BRACES = Dialect(
    "braces",
    (Tag("{fork*}"), PathTags("{way+}", "{/way+}"), Tag("{/fork*}", by="runtime"), SummaryTags("{join?}", "{/join?}")),
)

# parts of tags and what looks like them, so that many a text is a tag but for one character
SCRAPS = ["<", ">", "</", "<Par", "Path>", "\n", "  ", "x", "Final Answer: 4", "é", "<path>", "{fork", "+}", "way"]


def random_text(rng: random.Random, dialect: Dialect) -> str:
    while True:
        text = "".join(rng.choices(SCRAPS, k=rng.randrange(1, 6)))
        if not any(tag in text for tag in dialect.tags):
            return text


def random_trace(rng: random.Random, dialect: Dialect, depth: int = 3) -> Trace:
    """Nested in paths and in summaries, empty here and there; text parts are never empty and never adjacent."""
    parts: list[str | Block] = []
    for _ in range(rng.randrange(4)):
        if depth and rng.random() < 0.4:
            inside = [random_trace(rng, dialect, depth - 1) for _ in range(rng.randrange(dialect.paths.least, 5) + 1)]
            parts.append(Block(tuple(inside[1:]), inside[0]))
        elif not (parts and isinstance(parts[-1], str)):
            parts.append(random_text(rng, dialect))
    return Trace(tuple(parts))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PARALLEL_R1, BRACES], ids=lambda dialect: dialect.name)
def test_parsing_what_was_rendered_gives_the_trace_back(dialect):
    rng = random.Random(0)
    blocks = 0
    for _ in range(2000):
        trace = random_trace(rng, dialect)
        assert parse(render(trace, dialect), dialect) == trace
        blocks += sum(1 for _ in trace.walk())
    assert blocks > 4000


def test_the_canonical_form_has_no_space_between_tags_but_the_gap():
    spaced = "x\n<Parallel>\n<Path>a</Path>\n<Path>b</Path>\n</Parallel>\n\n<Summary>s</Summary>\ny"
    assert render(parse(spaced)) == "x\n<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>\ny"


@pytest.mark.parametrize("tag", PARALLEL_R1.tags)
def test_text_that_holds_a_tag_is_refused(tag):
    block = Block((Trace(("a",)), Trace((f"see {tag} here",))), Trace(("s",)))
    with pytest.raises(UserError, match="holds the tag"):
        render(Trace(("fine", block)))


def test_a_tree_of_any_depth_is_walked_and_too_deep_a_one_is_not_written():
    trace, levels = Trace(("x",)), 3000
    for _ in range(levels):
        trace = Trace((Block((trace, Trace()), Trace()),))
    assert sum(1 for _ in trace.walk()) == levels
    with pytest.raises(UserError, match="more than 50 levels deep"):
        render(trace)
    with pytest.raises(UserError, match="more than 50 levels deep"):
        statistics(trace)
