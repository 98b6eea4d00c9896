"""A row of samples.jsonl as the events of its trace: every word in its place, paths at once, totals as recorded."""

from __future__ import annotations

import contextlib
import json
import re
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny import lean_towards, requests, thinker, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Event, SamplingParams
from polythink.errors import UserError
from polythink.serve.replay import CUT, format_of, replay
from polythink.trace.dialect import DIALECTS, PARALLEL_R1, get_dialect
from polythink.trace.rollout import TRUNCATIONS
from polythink.trace.scan import scan
from polythink.trace.statistics import rollout_statistics


def segment(kind: str, block: int, path: int, text: str, **more) -> dict:
    return {"kind": kind, "block": block, "path": path, "label": 0, "text": text, "finish_reason": "tag", **more}


NESTED = [
    segment("main", -1, 0, "go <Parallel>"),
    segment("path", 0, 1, "<Path>one <Parallel>"),
    segment("path", 1, 1, "<Path>a b</Path>"),
    segment("path", 1, 2, "<Path>c</Path>"),
    segment("summary", 1, 0, "</Parallel><Summary>d</Summary>"),
    segment("path", 0, 1, " e</Path>", right=True),
    segment("path", 0, 2, "<Path>two words more of it", finish_reason="length", right=False),
    segment("summary", 0, 0, "</Parallel><Summary>f</Summary>"),
    segment("main", -1, 0, "end"),
]


def texts(drawn: dict) -> dict[tuple[int, int], str]:
    """The text of every place, with its tags."""
    found: dict[tuple[int, int], str] = {}
    for event in chain.from_iterable(drawn["steps"]):
        if event["event"] == "token":
            place = event["block"], event["path"]
            found[place] = found.get(place, "") + event["text"]
    return found


@pytest.mark.parametrize("mode", ["structured", "reread", "sequential"])
def test_a_drawn_trace_comes_back_word_for_word(mode: str) -> None:
    """The rows are those that a run writes; the events are held against the rollout itself."""
    lm = tiny()
    budgets = {"max_main_tokens": 12, "max_path_tokens": 9, "max_summary_tokens": 6, "max_trace_tokens": 90}
    params = SamplingParams(mode=mode, paths=3, fork_at=None if mode == "sequential" else 2, max_blocks=2, **budgets)
    for rollout in Engine(lm).generate(requests(lm, 4), params, seed=1):
        rows = [
            {"kind": s.kind, "block": s.block, "path": s.path, "label": s.label, "text": s.text,
             "finish_reason": s.finish_reason, "right": None, "tokens": len(s.tokens)}
            for s in rollout.segments
        ]  # fmt: skip
        drawn = replay({"question": "q", **rollout_statistics(rollout, lm.dialect), "segments": rows})
        wanted: dict[tuple[int, int], str] = {}
        for s in rollout.segments:
            if s.text:
                wanted[s.block, s.path] = wanted.get((s.block, s.path), "") + s.text
        assert texts(drawn) == wanted
        events = [*chain.from_iterable(drawn["steps"])]
        cut = [e["finish_reason"] for e in events if e["event"] == "cut"]
        assert sorted(cut) == sorted(s.finish_reason for s in rollout.segments if s.finish_reason in TRUNCATIONS)
        assert drawn["totals"] == {"tokens": rollout.tokens, "critical_path": rollout.critical_path}
        paths = {(s.block, s.path) for s in rollout.segments if s.kind == "path"}
        assert {(e["block"], e["path"]) for e in events if e["event"] == "fork"} == paths
        assert sum(e.get("reread", 0) for e in events) == sum(
            len(s.tokens) for s in rollout.segments if s.kind == "copy"
        )
        if len(paths) > 1:
            assert drawn["format"]["isolated"] == (mode != "sequential")


def test_paths_of_a_block_are_told_at_once() -> None:
    drawn = replay({"segments": NESTED, "tokens": 30, "critical_path": 20})
    kinds = ["".join(f"{e['block']}.{e['path']} " for e in step if e["event"] == "token") for step in drawn["steps"]]
    both = next(kind for kind in kinds if kind.startswith("0.1"))
    assert both == "0.1 0.2 "
    assert "1.1 1.2 0.2 " in kinds, "a nested block runs beside its uncles"
    forks = [e for step in drawn["steps"] for e in step if e["event"] == "fork"]
    assert [(e["block"], e["path"], e["parent"]) for e in forks] == [
        (0, 1, [-1, 0]), (0, 2, [-1, 0]), (1, 1, [0, 1]), (1, 2, [0, 1]),
    ]  # fmt: skip
    grades = {(e["block"], e["path"]): e["right"] for step in drawn["steps"] for e in step if e["event"] == "grade"}
    assert grades == {(0, 1): True, (0, 2): False}
    one_by_one = replay({"segments": NESTED, "tokens": 30, "critical_path": 30})
    assert all(
        len({(e["block"], e["path"]) for e in step if e["event"] == "token"}) <= 1 for step in one_by_one["steps"]
    )


@pytest.mark.parametrize("name", [*DIALECTS, "parathinker:20"])
def test_every_tag_has_a_kind(name: str) -> None:
    dialect = get_dialect(name)
    known = format_of(dialect)
    assert set(known["tags"]) == set(dialect.tags)
    for label in range(1, dialect.inventory + 1) or (0,):
        assert known["tags"][dialect.path_tags(label)[1]] == "path_close"
    assert set(known["reasons"]) == set(TRUNCATIONS)


PLANNED = (
    "a <Parallel>\n<Goal>g<Outline>1: x</Outline><Outline>2: y</Outline></Goal>\n<Path>\n1: p</Path>\n"
    "<Path>\n2: q</Path>\n<Conclusion>c</Conclusion>\n</Parallel> z"
)


def test_a_text_without_segments_is_parsed() -> None:
    drawn = replay({"question": "q", "trace": PLANNED})
    assert drawn["format"]["dialect"] == "multiverse"
    said = texts(drawn)
    plain = {
        place: " ".join(
            t.text.strip() for t in scan(text, DIALECTS["multiverse"]) if t.kind == "text" and t.text.strip()
        )
        for place, text in said.items()
    }
    assert plain == {(-1, 0): "a g 1: x 2: y z", (0, 1): "1: p", (0, 2): "2: q", (0, 0): "c"}
    assert drawn["note"] == "drawn from the column trace"
    assert drawn["totals"] is None
    assert drawn["format"]["unit"] == "words"


def test_a_text_that_is_not_well_formed_is_shown_as_it_is() -> None:
    drawn = replay({"response": "<Parallel><Path>a</Path> lost"})
    assert texts(drawn)[-1, 0] == "<Parallel><Path>a</Path> lost"
    assert re.match(r"not well formed: line 1, column \d+: ", drawn["note"])


def test_numbered_paths_keep_their_numbers() -> None:
    lm = thinker()
    params = SamplingParams(paths=3, labels="random", max_path_tokens=6, max_summary_tokens=6, max_trace_tokens=60)
    (rollout,) = Engine(lm).generate(requests(lm, 1), params, seed=2)
    drawn = replay({"segments": [vars(s) | {"right": None, "tokens": 0} for s in rollout.segments]})
    labels = {e["path"]: e["label"] for step in drawn["steps"] for e in step if e["event"] == "fork"}
    assert labels == {s.path: s.label for s in rollout.segments if s.kind == "path"}
    assert len(set(labels.values()) - {0}) == 3


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, "holds no text"),
        ({"text": 3, "id": None}, "its columns are text, id"),
        ({"segments": "x"}, 'segments is "x"; it must be a list'),
        ({"segments": [3]}, "segments.0"),
        ({"segments": [{"text": None}]}, "segments.0.text"),
        ({"segments": [{"block": "1"}]}, "segments.0.block"),
        ({"segments": [segment("path", i, 1, "x") for i in range(200)]}, "more than 50 levels"),
    ],
)
def test_what_is_no_row_is_refused_in_one_sentence(row: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        replay(row)
    assert "\n" not in str(caught.value)


def test_reasons_are_words() -> None:
    assert all(" " in reason and reason == reason.strip(".") for reason in CUT.values())


def test_a_block_belongs_to_the_text_that_wrote_last() -> None:
    """The rule by which the page draws blocks in blocks while they run: an event names no parent.

    Events number blocks as they open, a rollout in the order of the text: so what is compared are the numbers of the
    paths around each block, from the outermost in.
    """
    lm = lean_towards(tiny(), {"<Parallel>": 0.5})
    budgets = {"max_main_tokens": 12, "max_path_tokens": 14, "max_summary_tokens": 8, "max_trace_tokens": 220}
    params = SamplingParams(paths=3, max_blocks=3, max_depth=3, **budgets)
    writer: dict[int, tuple[int, int]] = {}
    drawn: list[dict[int, tuple[int, int]]] = [{} for _ in range(4)]  # of each request: parent of each block

    def follow(event: Event) -> None:
        if event.kind == "token":
            writer[event.request] = event.block, event.path
        elif event.kind == "fork":
            drawn[event.request].setdefault(event.block, writer.get(event.request, (-1, 0)))

    def around(parents: dict[int, tuple[int, int]]) -> list[tuple[int, ...]]:
        def chain(block: int) -> tuple[int, ...]:
            outer, path = parents[block]
            return () if outer < 0 else (*chain(outer), path)

        return sorted(map(chain, parents))

    rollouts = Engine(lm).generate(requests(lm, 4), params, seed=4, on_event=follow)
    for parents, rollout in zip(drawn, rollouts, strict=True):
        told, before = {}, (-1, 0)
        for segment in rollout.segments:  # in text order the first path of a block follows its parent
            if segment.kind == "path":
                told.setdefault(segment.block, before)
            before = segment.block, segment.path
        assert around(parents) == around(told)
    assert sum(len(chain) > 1 for parents in drawn for chain in around(parents)) >= 3


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
)
TAGGED = st.lists(st.sampled_from([*PARALLEL_R1.tags, "<think1>", "</think1>", "<summary>", "a b", " "])).map("".join)
SEGMENTS = st.fixed_dictionaries(
    {},
    optional={"kind": st.sampled_from(["main", "path", "copy", "summary"]) | SCALARS, "block": st.integers(-2, 4),
              "path": st.integers(-1, 3), "text": TAGGED, "finish_reason": st.text(max_size=8) | SCALARS,
              "right": st.none() | st.booleans(), "tokens": SCALARS},
)  # fmt: skip
NAMES = st.sampled_from(["text", "trace", "question", "verdict", "tokens", "critical_path", "read_again"])
PLAIN = st.dictionaries(NAMES, SCALARS | TAGGED)
ROWS = PLAIN | st.builds(lambda row, own: {**row, "segments": own}, PLAIN, st.lists(SEGMENTS | SCALARS, max_size=8))


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(ROWS)
def test_any_row_is_drawn_or_refused(row: dict) -> None:
    drawn = {"steps": []}
    with contextlib.suppress(UserError):  # in one sentence: the test above
        drawn = replay(row)
    json.dumps(drawn, allow_nan=False)
    assert {e["event"] for step in drawn["steps"] for e in step} <= {"fork", "token", "join", "cut", "grade"}
