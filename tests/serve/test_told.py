"""A trace told as one text while it is drawn, and its finished rollout: the same text, tokens and log-probabilities."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from pydantic import ValidationError

from helpers.followed import random_traces
from helpers.productions import PUBLISHED, random_dialect
from helpers.random_cases import MODELS
from helpers.simulated import bytes_of, simulate
from polythink.engine.params import Event, SamplingParams
from polythink.errors import UserError
from polythink.serve.generation import Update
from polythink.serve.told import TextOrder
from polythink.trace.rollout import Rollout


def agree(updates: Iterable[Update]) -> tuple[Rollout, str]:
    """The rollout, and what was told before its end."""
    order, text, ids, logprobs, early = TextOrder(), "", [], [], ""
    for update in updates:
        early = text
        piece = order.add(update)
        text += piece.text
        ids += [token.id for token in piece.tokens]
        logprobs += [token.logprob for token in piece.tokens]
    rollout = order.rollout
    shown = [s for s in rollout.segments if s.kind != "copy"]
    assert text == rollout.text == order.told.text
    drawn = [each for s in shown for each in zip(s.tokens, s.sampled, s.logprobs, strict=True)]
    if rollout.finish_reason == "stop":  # what the same step wrote into the segment after the stop is not told
        drawn = drawn[: len(ids)]
    assert ids == [token for token, _, _ in drawn]
    assert logprobs == [logprob if sampled else None for _, sampled, logprob in drawn]
    return rollout, early


def nested(rollout: Rollout) -> bool:
    """Does a block stand in a path?"""
    return any(s.kind == "path" and s.finish_reason == "fork" for s in rollout.segments)


def check_drawn(model: str, seed: int, n: int) -> None:
    for _, updates in random_traces(random.Random(seed), model, n):
        agree(updates)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_told_concatenates_to_the_finished_trace(model):
    """Some are stopped or aborted."""
    check_drawn(model, 2, 6)


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_what_is_told_concatenates_to_many_finished_traces(model):
    for seed in range(3, 13):
        check_drawn(model, seed, 40)


def simulated(seed: int) -> list[Update]:
    """A trace with blocks in blocks, in a dialect that may be made up; [] where it has none. Its log-probabilities are
    all different, so that segments of equal tokens can be told apart."""
    rng = random.Random(seed)
    d = rng.choice([d for d in PUBLISHED if d.nests]) if rng.random() < 0.5 else random_dialect(rng)
    codec, ids, _ = bytes_of(d)
    if not d.nests or any(codec.decode([id]) != tag for tag, id in ids.items()) or (d.plan and not d.plan.item[0]):
        return []  # a byte tokenizer does not spell it; the simulation writes plans with outlines only
    events: list[Event] = []
    try:
        params = SamplingParams(
            mode=rng.choice(("structured", "reread")),
            paths=rng.randint(1, 3),
            max_depth=3,
            max_blocks=rng.randint(1, 3),
            max_path_tokens=rng.choice((6, 30)),
            max_summary_tokens=rng.choice((4, 20)),
            max_trace_tokens=rng.choice((150, 600)),
        )
        state = simulate(d, params, seed, noise=rng.choice((0, 0.1)), blocks=0.3, emit=events.append)
    except (UserError, ValidationError):  # no room for a block
        return []
    told = [Update(0, event, codec.decode([event.token]) if event.kind == "token" else "") for event in events]
    return [*told, Update(0, state.event("done", state.last, rollout=state.rollout()), "")]


def check_simulated(seeds: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        if updates := simulated(seed):
            rollout, early = agree(updates)
            found["nested"] += nested(rollout)
            found["told early"] += nested(rollout) and bool(early)
    return found


def test_blocks_in_blocks_are_told_in_text_order():
    found = check_simulated(range(100))
    assert found["nested"] > 10
    assert found["told early"] > 10


@pytest.mark.long
def test_blocks_in_blocks_are_told_in_text_order_many_times():
    assert check_simulated(range(100, 5000))["nested"] > 500
