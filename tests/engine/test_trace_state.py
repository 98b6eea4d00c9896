"""What both modes share: which tokens run next, in which slots and positions, and how much a branch may still write."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.states import END, A, B, C, Fed
from polythink.engine.params import Request, SamplingParams
from polythink.engine.sequential import SequentialState
from polythink.engine.step import gather
from polythink.engine.structured import StructuredState
from polythink.errors import UserError

MODES = [StructuredState, SequentialState]


@pytest.mark.parametrize("kind", MODES)
def test_the_prompt_runs_first_and_its_last_token_is_wanted(kind):
    fed = Fed(kind, prompt=4)
    assert fed.inputs.tokens == [60, 61, 62, 63]
    assert fed.inputs.positions == [0, 1, 2, 3]
    assert fed.inputs.segments == [0] * 4
    assert [index for index, _ in fed.inputs.wanted] == [3]
    fed.feed(A)
    assert (fed.inputs.slot, fed.inputs.tokens, fed.inputs.positions, fed.inputs.segments) == (4, [A], [4], [1])
    fed.feed(B, END)
    assert fed.segments == ["main: a b end (eos)"]
    assert fed.state.done
    assert fed.kinds == []  # the engine reports the end, with the rollout
    rollout = fed.state.rollout()
    assert (rollout.tokens, rollout.finish_reason, rollout.prompt) == (3, "eos", (60, 61, 62, 63))
    assert rollout.segments[0].logprobs == [-0.5] * 3


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 100])
def test_a_prompt_in_chunks_keeps_slots_and_what_is_wanted(most):
    """A forced fork makes tokens wait after the prompt: they come whole, together with its last chunk."""
    state = Fed(StructuredState, prompt=1, fork_at=0).state
    tags, params = state.tags, SamplingParams(paths=3, fork_at=0)
    whole = StructuredState(Request(tuple(range(60, 65))), params, tags, 1000).take(1000)
    state = StructuredState(Request(tuple(range(60, 65))), params, tags, 1000)
    chunks = []
    while not chunks or not chunks[-1].wanted:
        chunks.append(state.take(most))
    assert [len(chunk.tokens) for chunk in chunks[:-1]] == [most] * (len(chunks) - 1)
    assert not any(chunk.wanted for chunk in chunks[:-1])
    assert [token for chunk in chunks for token in chunk.tokens] == whole.tokens
    assert [position for chunk in chunks for position in chunk.positions] == whole.positions
    assert [c.slot for c in chunks] == list(np.cumsum([0] + [len(c.tokens) for c in chunks[:-1]]))
    wanted = [(chunks[-1].slot + index, branch.segment) for index, branch in chunks[-1].wanted]
    assert wanted == [(index, branch.segment) for index, branch in whole.wanted]
    assert len(wanted) == 3


@pytest.mark.parametrize("kind", MODES)
def test_main_text_ends_at_its_budget_at_that_of_the_trace_and_at_the_context(kind):
    for limits, reason in (
        ({"max_main_tokens": 3}, "length"),
        ({"max_trace_tokens": 3}, "trace_length"),
        ({"context": 6}, "context"),
    ):
        fed = Fed(kind, prompt=3, **limits).feed(A, B, C)
        assert fed.segments == [f"main: a b c ({reason})"]
        assert fed.state.done
        assert fed.kinds == ["cut"]


@pytest.mark.parametrize("kind", MODES)
def test_prompts_without_room_are_refused(kind):
    with pytest.raises(UserError, match="at least one token"):
        Fed(kind, prompt=0)
    with pytest.raises(UserError, match="prompt has 12 tokens and the model's context holds 12"):
        Fed(kind, prompt=12, context=12)


@pytest.mark.parametrize("kind", MODES)
def test_the_bound_on_slots_holds(kind):
    fed = Fed(kind, prompt=3, paths=2, max_main_tokens=4, max_path_tokens=3, max_summary_tokens=2, max_blocks=1)
    if kind is StructuredState:
        fed.feed(A, A, A, "<Parallel>", (A, A), (A, A), (A, A), A, A, A, A, A, A)
        used = fed.inputs.slot + len(fed.inputs.tokens)
        assert fed.segments[-1] == "main: a a a a (length)"
        assert used <= fed.state.most_slots <= used + 2
    else:
        assert fed.state.most_slots == 1000  # a flat text ends at the context


def test_a_step_is_gathered_from_all_rows():
    first, second = (Fed(StructuredState, prompt=n, fork_at=0, labels="ordered", top_k=n).state for n in (2, 3))
    states = [
        StructuredState(Request((60,) * n, "p", n), state.params, state.tags, 1000, seed=n)
        for n, state in ((2, first), (3, second))
    ]
    batch, owners = gather([(0, states[0]), (4, states[1])], 512)
    opened = 1 + 2  # `<Parallel>` and two times `<Path>`
    assert batch.row.tolist() == [0] * (2 + opened) + [4] * (3 + opened)
    assert batch.slot.tolist() == [*range(2 + opened), *range(3 + opened)]
    assert batch.wanted.tolist() == [3, 4, 9, 10]
    assert [state for state, _ in owners] == [states[0]] * 2 + [states[1]] * 2
    assert batch.top_k.tolist() == [2, 2, 3, 3]
    assert len(set(batch.key.tolist())) == 4
    assert batch.count.tolist() == [0] * 4
    batch, _ = gather([(0, states[0]), (4, states[1])], 512)
    assert len(batch.token) == 0  # nothing is pending until tokens are accepted
