"""The rules of `sequential` mode, fed by hand: walking between segments, budgets, closing by force."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from helpers.states import END, OTHER_END, A, B, Fed
from helpers.tiny import drawn, lean_towards, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.reference import reference_generate
from polythink.engine.sequential import SequentialState
from polythink.errors import UserError
from polythink.trace.dialect import get_dialect

BLOCK = ("<Parallel>", "<Path>", A, "</Path>", "<Path>", B, "</Path>", "</Parallel>", "<Summary>", A, "</Summary>")


def fed(*args, **params) -> Fed:
    return Fed(SequentialState, *args, **params)


def test_one_branch_walks_from_segment_to_segment():
    it = fed(prompt=3).feed(A, *BLOCK, B, END)
    assert it.segments == [
        "main: a <Parallel> (fork)",
        "path: <Path> a </Path> (tag)",
        "path: <Path> b </Path> (tag)",
        "summary: </Parallel> <Summary> a </Summary> (tag)",
        "main: b end (eos)",
    ]
    assert it.state.follows == [(), (0,), (1,), (2,), (3,), (4,)]
    assert [s.path for s in it.state.records] == [0, 0, 1, 2, 0, 0]
    assert it.state.done
    assert it.state.ends[-1] == 3 + 14 - 1  # positions run on
    assert it.state.records[1].sampled == [True, True]  # nothing is forced


def test_it_is_one_random_stream():
    it = fed()
    (branch,) = (branch for _, branch in it.inputs.wanted)
    key = branch.key
    it.feed(*BLOCK)
    assert branch.key == key
    assert branch.drawn == len(BLOCK)
    assert branch.segment == 5


def test_a_dialect_without_block_tags_begins_a_block_with_its_first_path():
    it = fed("parathinker").feed(A, "<think1>", B, "</think1>", "<think4>", "</think4>", "<summary>", A, "</summary>")
    assert it.segments == [
        "main: a (fork)",
        "path: <think1> b </think1> (tag)",
        "path: <think4> </think4> (tag)",
        "summary: <summary> a </summary> (tag)",
        "main:  ()",
    ]
    assert it.state.labels == [0, 0, 1, 4, 0, 0]
    assert it.state.blocks == 1


def test_a_paths_tag_that_begins_a_block_opens_no_block_in_its_own_path():
    """Where blocks nest, the next one in the path does: as the twin reads it."""
    it = fed(replace(get_dialect("parathinker"), nests=True, misplaced_tags="keep"), max_depth=2, max_path_tokens=3)
    it.feed("<think1>", B, "<think2>", A, B, A, "<summary>", "</summary>", A, "<think3>", "</think3>")
    assert it.segments == [
        "main:  (fork)",
        "path: <think1> b (fork)",
        "path: <think2> a b a [</think2>] (length)",
        "summary: <summary> </summary> (tag)",
        "path: a [</think1>] (length)",
        "path: <think3> </think3> (tag)",
    ]
    assert it.kinds.count("cut") == 2


def test_paths_and_summaries_are_closed_by_force_at_their_budget():
    it = fed(max_path_tokens=2, max_summary_tokens=1).feed("<Parallel>", "<Path>", A, B, "</Parallel>", A)
    assert it.segments == [
        "main: <Parallel> (fork)",
        "path: <Path> a b [</Path>] (length)",
        "summary: </Parallel> a [</Summary>] (length)",
        "main:  ()",
    ]
    assert it.kinds == ["cut", "cut"]


def test_a_forced_close_needs_room_in_the_trace():
    it = fed(max_trace_tokens=4).feed("<Parallel>", "<Path>", A)
    assert it.segments[-1] == "path: <Path> a [</Path>] (trace_length)"
    assert it.state.done
    assert it.state.written == 4


def test_text_between_the_segments_of_a_block_has_the_budget_of_main_text():
    it = fed(max_main_tokens=2).feed("<Parallel>", A, A)
    assert it.segments == ["main: <Parallel> a a (length)"]
    assert it.state.done


def test_the_twin_counts_paths_as_well():
    lm, wanted = lean_towards(tiny(seed=2, num_hidden_layers=1), {"<Parallel>": 2.0, "<Path>": 1.5, "</Path>": 1.0}), 4
    params = SamplingParams(mode="sequential", max_paths=1, max_path_tokens=4, max_trace_tokens=30)
    fast = Engine(lm).generate(requests(lm, wanted), params, seed=1)
    assert [drawn(r) for r in fast] == [drawn(r) for r in reference_generate(lm, requests(lm, wanted), params, seed=1)]
    assert "max_paths" in {r.finish_reason for r in fast}
    assert max(s.path for r in fast for s in r.segments) == 1


def test_one_block_or_path_too_many_ends_the_trace():
    it = fed(max_paths=2).feed("<Parallel>", *("<Path>", A, "</Path>") * 2, "<Path>")
    assert (len(it.segments), it.state.stop, it.state.rollout().truncated) == (3, "max_paths", 1)
    it = fed(max_blocks=1).feed(*BLOCK, "<Parallel>")
    assert it.segments[-1] == "main: <Parallel> (max_blocks)"
    assert it.state.done
    it = fed("parathinker", max_blocks=0).feed(A, "<think1>")
    assert it.segments == ["main: a <think1> (max_blocks)"]


def test_the_end_token_ends_the_trace_wherever_it_is():
    for before in ((), ("<Parallel>",), ("<Parallel>", "<Path>", A)):
        it = fed().feed(*before, END)
        assert it.state.done
        assert it.state.rollout().finish_reason == "eos"


def test_tags_that_open_nothing_here_are_text():
    it = fed().feed("</Path>", "<Summary>", "<Path>", A)
    assert it.segments == ["main: </Path> <Summary> <Path> a ()"]


def test_any_of_several_end_tokens_ends_it():
    it = fed().feed(*BLOCK, A, OTHER_END)
    assert it.segments[-1] == "main: a end2 (eos)"
    assert it.state.done


@pytest.mark.parametrize("end", [END, OTHER_END])
def test_the_end_between_paths_leaves_their_stops_alone(end):
    """A path that was cut stays cut, one that was closed stays closed; the trace has its own stop."""
    cut = fed(max_path_tokens=1).feed("<Parallel>", "<Path>", A, end)
    assert cut.segments[-1].startswith("path: <Path> a [</Path>] end")
    assert cut.segments[-1].endswith("(length)")
    closed = fed().feed("<Parallel>", "<Path>", A, "</Path>", end)
    assert closed.segments[-1].endswith("(tag)")
    for it, truncated in ((cut, 1), (closed, 0)):
        rollout = it.state.rollout()
        assert (rollout.finish_reason, rollout.truncated) == ("eos", truncated)
        assert it.kinds.count("cut") == truncated


@pytest.mark.parametrize(
    ("budgets", "fed_tokens", "stop", "truncated"),
    [
        ({"max_trace_tokens": 4}, ("<Parallel>", "<Path>", A), "trace_length", 1),  # closed by the trace's last token
        ({"context": 7}, ("<Parallel>", "<Path>", A), "context", 1),
        ({"context": 7}, ("<Parallel>", "<Path>", A, "</Path>"), "context", 1),
        ({"max_path_tokens": 1, "max_trace_tokens": 4}, ("<Parallel>", "<Path>", A), "trace_length", 1),
        ({"max_trace_tokens": 4}, ("<Parallel>", "<Path>", A, "</Path>"), "trace_length", 1),
        ({"max_main_tokens": 1}, ("<Parallel>", "<Path>", "</Path>", B), "length", 1),
        ({"max_path_tokens": 1, "max_main_tokens": 1}, ("<Parallel>", "<Path>", A, B), "length", 1),
        ({"max_main_tokens": 2}, ("<Parallel>", A, B), "length", 1),
    ],
)
def test_a_cut_is_counted_and_announced_once(budgets, fed_tokens, stop, truncated):
    it = fed(**budgets).feed(*fed_tokens)
    assert it.state.done
    rollout = it.state.rollout()
    assert (rollout.finish_reason, rollout.truncated) == (stop, truncated)
    assert it.kinds == ["cut"] * truncated


def test_path_prefixes_are_refused():
    with pytest.raises(UserError, match=r"path_prefixes .* sequential"):
        fed(prefixes=((A,),))


def test_cuts_are_counted_as_often_as_they_are_announced():
    lm = lean_towards(tiny(seed=4), {"<Parallel>": 2.0, "<Path>": 2.0, "</Path>": 1.0, "<Summary>": 1.0})
    params = SamplingParams(
        mode="sequential", max_main_tokens=6, max_path_tokens=2, max_summary_tokens=2, max_trace_tokens=24
    )
    wanted, announced = requests(lm, 20), Counter()
    rollouts = Engine(lm).generate(
        wanted, params, seed=2, on_event=lambda event: announced.update({event.request: event.kind == "cut"})
    )
    assert [announced[i] for i in range(20)] == [r.truncated for r in rollouts]
    assert {r.stop for r in rollouts} == {"", "eos", "length", "trace_length"}  # between segments too
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=2)]
