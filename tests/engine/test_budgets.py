"""Which budget truncated a response, and the value that would do."""

from __future__ import annotations

import pytest

from helpers.states import END, A, Fed
from polythink.engine.budgets import check_block_fits, check_sampled, trace_tokens, what_truncated
from polythink.engine.params import SamplingParams
from polythink.engine.sequential import SequentialState
from polythink.engine.structured import StructuredState
from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS, PARALLEL_R1, PARATHINKER
from polythink.trace.rollout import Rollout, Segment


def rollout(*segments: tuple[str, str, int]) -> Rollout:
    """A response of segments (kind, finish_reason, sampled tokens)."""
    found = [
        Segment(kind, -1 if kind == "main" else 0, i if kind == "path" else 0, [5] * n, [True] * n, [0.0] * n, 1.0, why)
        for i, (kind, why, n) in enumerate(segments)
    ]
    return Rollout("p", 0, "structured", (1, 2), found)


def test_nothing_is_said_where_nothing_was_truncated():
    whole = rollout(
        ("main", "fork", 1), ("path", "tag", 3), ("path", "eos", 3), ("summary", "tag", 2), ("main", "eos", 1)
    )
    assert what_truncated([whole], SamplingParams(), PARALLEL_R1, 100) is None


def test_every_budget_is_named_with_a_value_that_would_do():
    params = SamplingParams(paths=8, max_path_tokens=16, max_summary_tokens=8, max_main_tokens=24, max_trace_tokens=96)
    cut = rollout(("main", "fork", 1), ("path", "trace_length", 3), ("path", "length", 16), ("summary", "length", 8))
    said = what_truncated([cut, cut], params, PARALLEL_R1, 500)
    most = 8 * (16 + 2) + 8 + 2 * 24 + 5  # paths with tags, summary, main text before and after, the block's own tags
    assert f"2 by max_trace_tokens=96 (8 paths of up to 16 tokens and a summary take up to {most}: set " in said
    assert f"max_trace_tokens={most}, or take fewer paths" in said
    assert "2 by max_path_tokens=16 (max_path_tokens=32 allows more)" in said
    assert "2 by max_summary_tokens=8 (max_summary_tokens=16 allows more)" in said
    assert "context" not in said


def test_the_context_and_the_number_of_blocks_are_budgets_too():
    params = SamplingParams(max_blocks=1)
    assert "1 by the model's context of 32 positions" in what_truncated(
        [rollout(("main", "context", 30))], params, PARALLEL_R1, 32
    )
    assert "1 by max_blocks=1 (max_blocks=2 allows more)" in what_truncated(
        [rollout(("main", "max_blocks", 3))], params, PARALLEL_R1, 500
    )


@pytest.mark.parametrize("mode", ["structured", "reread"])
def test_paths_that_the_context_truncates_are_no_fault_of_the_budgets(mode):
    budgets = {"mode": mode, "paths": 3, "max_path_tokens": 200, "max_summary_tokens": 100}

    def said(context: int, **changes) -> str:
        it = Fed(StructuredState, "parathinker", context=context, **budgets, **changes)
        while len(it.inputs.wanted) == 3:
            it.feed((A, A, A))
        it.feed(A, "</summary>", END)
        return what_truncated([it.state.rollout()], it.state.params, it.dialect, context)

    assert said(100) == "truncated segments: 3 by the model's context of 100 positions"
    nested = {"paths": 1, "max_depth": 2, "mode": mode, "max_path_tokens": 200, "max_summary_tokens": 100}
    it = Fed(StructuredState, context=60, **nested).feed("<Parallel>", "<Parallel>")
    while it.state.blocks == 2 and it.inputs.wanted[0][1].record.kind == "path":
        it.feed(A)
    it.feed("</Summary>", "</Path>", "</Summary>", END)
    said_of_it = what_truncated([it.state.rollout()], it.state.params, it.dialect, 60)
    assert said_of_it == "truncated segments: 1 by the model's context of 60 positions"
    assert "3 by max_trace_tokens=150 (3 paths" in said(1000, max_trace_tokens=150)


def test_a_trace_that_ends_between_the_paths_of_a_block_was_truncated_too():
    for budget in ({"max_trace_tokens": 8}, {"max_main_tokens": 4}):
        it = Fed(SequentialState, max_path_tokens=20, **budget)
        it.feed("<Parallel>", "<Path>", A, A, "</Path>", A, A, A)
        it.state.done or it.feed(A)
        rollout, ((name, value),) = it.state.rollout(), budget.items()
        assert rollout.stop
        expected = f"truncated segments: 1 by {name}={value} ({name}={2 * value} allows more)"
        assert what_truncated([rollout], it.state.params, PARALLEL_R1, 1000) == expected


@pytest.mark.parametrize("dialect", [PARALLEL_R1, PARATHINKER], ids=lambda dialect: dialect.name)
def test_a_block_that_cannot_be_opened_is_refused_and_the_value_said_is_enough(dialect):
    params = SamplingParams(paths=12, max_path_tokens=10, max_summary_tokens=10, max_trace_tokens=30)
    with pytest.raises(UserError, match=r"a block of 12 paths takes \d+ tokens .* set max_trace_tokens=(\d+)") as error:
        check_block_fits(params, dialect)
    enough = int(str(error.value).partition("set max_trace_tokens=")[2].partition(",")[0])
    check_block_fits(params.model_copy(update={"max_trace_tokens": enough}), dialect)
    check_block_fits(params.model_copy(update={"mode": "sequential"}), dialect)
    check_block_fits(params.model_copy(update={"max_blocks": 0}), dialect)


def test_responses_of_one_token_are_refused_and_others_are_not():
    params, nothing = SamplingParams(max_trace_tokens=1), rollout(("main", "trace_length", 1))
    with pytest.raises(UserError, match="nothing could be sampled; truncated segments: 1 by max_trace_tokens=1"):
        check_sampled([nothing], params, PARALLEL_R1, 500)
    check_sampled([nothing, rollout(("main", "eos", 1))], params, PARALLEL_R1, 500)
    check_sampled([], params, PARALLEL_R1, 500)


def test_what_a_join_reads_again_counts_twice():
    flat = {"paths": 3, "max_path_tokens": 10, "max_summary_tokens": 5, "max_main_tokens": 4, "max_trace_tokens": 20}
    structured, reread = (SamplingParams(mode=mode, **flat) for mode in ("structured", "reread"))
    once, twice = (trace_tokens(params, PARALLEL_R1, 10, 5) for params in (structured, reread))
    assert twice - once == 3 * (10 + 2)
    with pytest.raises(UserError, match=r"which count twice in mode reread .* the paths twice since") as error:
        check_block_fits(reread, PARALLEL_R1)
    enough = int(str(error.value).partition("set max_trace_tokens=")[2].partition(",")[0])
    check_block_fits(reread.model_copy(update={"max_trace_tokens": enough}), PARALLEL_R1)


def test_declared_paths_are_bounded_by_max_paths_and_one_of_them_must_fit():
    multiverse = DIALECTS["multiverse"]
    params = SamplingParams(max_paths=4, max_trace_tokens=30)
    # <Parallel>, the plan's two tags, </Parallel>, <Conclusion> (all but the first with a gap), </Conclusion>, a word;
    # and for each path an outline of a word with its tags and a gap, and a path with tags, gap and heading
    assert trace_tokens(params, multiverse, 1, 1, paths=1) == 1 + 4 + 2 + 2 + 1 + 1 + 4 + 5
    assert trace_tokens(params, multiverse, 1, 1) - trace_tokens(params, multiverse, 1, 1, paths=1) == 3 * (4 + 5)
    check_block_fits(params, multiverse)
    with pytest.raises(UserError, match=r"a block of 1 paths takes 20 tokens .* or take fewer max_paths"):
        check_block_fits(params.model_copy(update={"max_trace_tokens": 19}), multiverse)
    bounded = rollout(("main", "fork", 4), ("path", "tag", 3), ("summary", "tag", 2), ("main", "eos", 1))
    bounded.segments[0].bounded = True
    assert "1 by max_paths=4 (max_paths=8 allows more)" in what_truncated([bounded], params, multiverse, 500)
