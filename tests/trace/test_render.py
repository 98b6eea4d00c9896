"""Rendering: the canonical text, and `parse(render(t)) == t` over random nested traces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polythink.run.errors import UserError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.tree import Block, Trace

BRACES = Dialect("braces", "{fork*}", "{/fork*}", "{way+}", "{/way+}", "{join?}", "{/join?}", gap="", min_paths=1)


def traces(texts: st.SearchStrategy[str], min_paths: int) -> st.SearchStrategy[Trace]:
    """Random traces, nested in paths and in summaries; text parts are never empty and never adjacent."""

    def joined(parts: list[str | Block]) -> Trace:
        kept: list[str | Block] = []
        for part in parts:
            if not (isinstance(part, str) and kept and isinstance(kept[-1], str)):
                kept.append(part)
        return Trace(tuple(kept))

    def nest(inner: st.SearchStrategy[Trace]) -> st.SearchStrategy[Trace]:
        paths = st.lists(inner, min_size=min_paths, max_size=4).map(tuple)
        return st.lists(texts | st.builds(Block, paths, inner), max_size=4).map(joined)

    return st.recursive(st.builds(joined, st.lists(texts, max_size=1)), nest, max_leaves=20)


def untagged(dialect) -> st.SearchStrategy[str]:
    pieces = st.sampled_from(
        ["<", ">", "</", "<Par", "Path>", "\n", "  ", "x", "Final Answer: 4", "é", "<path>", "{fork", "+}"]
    )
    return st.lists(pieces, min_size=1, max_size=5).map("".join).filter(lambda s: not any(t in s for t in dialect.tags))


@settings(max_examples=400, deadline=None)
@given(traces(untagged(PARALLEL_R1), min_paths=2))
def test_parsing_what_was_rendered_gives_the_trace_back(trace):
    assert parse(render(trace)) == trace


@settings(max_examples=200, deadline=None)
@given(traces(untagged(BRACES), min_paths=1))
def test_so_it_does_in_another_dialect_with_single_paths(trace):
    assert parse(render(trace, BRACES), BRACES) == trace


def test_the_canonical_form_has_no_space_between_tags_but_the_gap():
    spaced = "x\n<Parallel>\n<Path>a</Path>\n<Path>b</Path>\n</Parallel>\n\n<Summary>s</Summary>\ny"
    assert render(parse(spaced)) == "x\n<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>\ny"


@pytest.mark.parametrize("tag", PARALLEL_R1.tags)
def test_text_that_holds_a_tag_is_refused(tag):
    block = Block((Trace(("a",)), Trace((f"see {tag} here",))), Trace(("s",)))
    with pytest.raises(UserError, match="holds the tag"):
        render(Trace(("fine", block)))
