"""The life of a request: add, step, abort, parameters of its own, and the model between steps."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from helpers.device import tensor
from helpers.sweep import sweep
from helpers.tiny import drawn, family, gaps, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError

PARAMS = SamplingParams(
    paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=110
)


def run(engine: Engine) -> dict[int, object]:
    """Step until nothing is left; the rollouts by id."""
    found = {}
    while engine.unfinished:
        found |= {event.request: event.rollout for event in engine.step() if event.kind == "done"}
    return found


def change(**changes) -> SamplingParams:
    return PARAMS.model_copy(update=changes)


def test_add_and_step_give_what_generate_gives():
    lm = tiny()
    wanted = requests(lm, 7)
    whole = Engine(lm, max_num_seqs=3).generate(wanted, PARAMS, seed=3)
    engine = Engine(lm, max_num_seqs=3)
    assert engine.step() == []
    ids = [engine.add(request, PARAMS, seed=3) for request in wanted[:4]]
    found = {}
    for request in wanted[4:]:  # later ones join a batch under way
        found |= {e.request: e.rollout for e in engine.step() if e.rollout}
        ids.append(engine.add(request, PARAMS, seed=3))
    found |= run(engine)
    assert [drawn(found[id]) for id in ids] == [drawn(r) for r in whole]
    assert [found[id].text for id in ids] == [r.text for r in whole]
    assert len(set(ids)) == 7
    assert engine.add(wanted[0], PARAMS) not in ids


def test_drawing_is_without_dropout_also_in_the_middle_of_training():
    """gpt2 and others have dropout in their configuration."""
    lm = family("gpt2", n_positions=256, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    wanted = requests(lm, 3)
    expected = [drawn(r) for r in reference_generate(lm, wanted, PARAMS, seed=4)]
    lm.model.train()
    rollouts = Engine(lm).generate(wanted, PARAMS, seed=4)
    assert [drawn(r) for r in rollouts] == expected
    assert [drawn(r) for r in reference_generate(lm, wanted, PARAMS, seed=4)] == expected
    assert lm.model.training
    lm.model.eval()
    assert max(gaps(lm, rollouts)) < 1e-4


def test_waiting_requests_hold_little_beside_their_prompts():
    """Prompts are the caller's; what the engine adds for each while it waits does not grow with them."""
    engine, held = Engine(tiny(), max_num_seqs=1), {}
    for size in (10, 2000):
        prompt = tuple(range(3, 8)) * (size // 5)
        tracemalloc.start()
        for i in range(50):
            engine.add(Request(prompt, "p", i), PARAMS)
        held[size] = tracemalloc.get_traced_memory()[0] / 50
        tracemalloc.stop()
    assert held[2000] - held[10] < 500  # bytes a request, so less than a quarter of a byte a token


@pytest.mark.parametrize("chunk", sweep([1, 2, 3, 512], [1, 3]))
def test_prompts_read_in_chunks_give_the_same(chunk):
    lm = tiny()
    wanted = requests(lm, 4)
    whole = Engine(lm, max_num_seqs=2).generate(wanted, PARAMS, seed=2)
    parts = Engine(lm, max_num_seqs=2, prefill_chunk=chunk).generate(wanted, PARAMS, seed=2)
    assert [drawn(r) for r in parts] == [drawn(r) for r in whole]


@pytest.mark.slow
def test_parameters_belong_to_the_request():
    """Temperature, truncation, budgets, mode, seeds of paths: all of them differ within one batch."""
    lm = tiny(seed=2)
    each = [
        PARAMS,
        change(temperature=0.0),
        change(top_p=0.7),
        change(top_k=2, path_temperature=1.5),
        change(mode="sequential"),
        change(paths=1, max_path_tokens=3, max_trace_tokens=60),
        change(paths=8, join_when="half", summary_prefix="a b"),
        change(mode="sequential", temperature=0.6, top_p=0.9, top_k=5),
        change(fork_at=2, path_position_stride="auto"),
    ]
    wanted = requests(lm, len(each))
    together = Engine(lm, max_num_seqs=5).generate(wanted, each, seed=4)
    assert [drawn(r) for r in together] == [drawn(r) for r in reference_generate(lm, wanted, each, seed=4)]
    one = Engine(lm)
    for request, params, rollout in zip(wanted, each, together, strict=True):
        (alone,) = one.generate([request], params, seed=4)
        assert drawn(alone) == drawn(rollout)
    with pytest.raises(UserError, match="9 requests and 2 SamplingParams"):
        Engine(lm).generate(wanted, each[:2])


def test_an_aborted_request_frees_its_row_and_leaves_the_others_alone():
    lm = tiny()
    wanted = requests(lm, 5)
    alone = [drawn(r) for r in Engine(lm).generate(wanted, PARAMS, seed=3)]
    engine = Engine(lm, max_num_seqs=2)
    ids = [engine.add(request, PARAMS, seed=3) for request in wanted]
    for _ in range(4):
        engine.step()
    assert engine.unfinished == 5
    used = set()
    step = engine.backend.step
    engine.backend.step = lambda batch: (used.update(batch.row.tolist()), step(batch))[1]
    engine.abort(ids[1])  # live
    engine.abort(ids[3])  # queued
    engine.abort(ids[1])  # once more, and one that was never given: nothing happens
    engine.abort(99)
    assert engine.unfinished == 3
    found = run(engine)
    assert {id: drawn(rollout) for id, rollout in found.items()} == {ids[i]: alone[i] for i in (0, 2, 4)}
    assert used == {0, 1}  # the freed row was used again
    assert engine.backend.cache.rows == 0


def test_the_cache_is_freed_when_the_last_request_is_aborted():
    lm = tiny()
    engine = Engine(lm)
    first, second = (engine.add(request, PARAMS, stream=True) for request in requests(lm, 2))
    engine.step()
    assert engine.backend.cache.rows == 2
    engine.abort(first)
    engine.abort(second)
    assert (engine.unfinished, engine.backend.cache.rows, engine.step()) == (0, 0, [])


def test_only_a_streamed_request_has_events_before_its_end():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=2)
    wanted = requests(lm, 3)
    quiet, streamed, aborted = (engine.add(r, PARAMS, seed=3, stream=i > 0) for i, r in enumerate(wanted))
    events = []
    while engine.unfinished:
        events += engine.step()
        engine.abort(aborted)
    assert [e.kind for e in events if e.request == quiet] == ["done"]
    mine = [e for e in events if e.request == streamed]
    assert {e.kind for e in mine} >= {"token", "fork", "join", "done"}
    assert len([e for e in mine if e.kind == "token"]) == mine[-1].rollout.tokens
    assert {e.request for e in events} == {quiet, streamed}


def test_generate_leaves_the_events_of_added_requests_to_step():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=4)
    wanted = requests(lm, 4)
    alone = [drawn(r) for r in engine.generate(wanted, PARAMS, seed=3)]
    id = engine.add(wanted[0], PARAMS, seed=3, stream=True)
    seen = []
    assert [drawn(r) for r in engine.generate(wanted[1:], PARAMS, seed=3, on_event=seen.append)] == alone[1:]
    assert {event.request for event in seen} == {0, 1, 2}
    events = engine.step()
    while engine.unfinished:
        events += engine.step()
    assert {event.request for event in events} == {id}
    assert sum(event.kind == "token" for event in events) == events[-1].rollout.tokens
    assert drawn(events[-1].rollout) == alone[0]


def test_a_refused_request_leaves_nothing_behind():
    """Its prefix is too long for the second path, after the events of the first."""
    lm = tiny()
    engine = Engine(lm)
    a = lm.encode("a")
    bad = Request(tuple(a), path_prefixes=((), tuple(a * 20)))
    with pytest.raises(UserError, match="force 20 tokens on a path"):
        engine.add(bad, change(fork_at=0), stream=True)
    with pytest.raises(UserError, match="force 20 tokens on a path"):
        engine.generate([*requests(lm, 2), bad], change(fork_at=0))
    assert (engine.unfinished, engine.step()) == (0, [])


@pytest.mark.parametrize("backend", ["lean", "flat", "padded"])
def test_the_model_can_be_trained_between_steps(backend):
    lm = tiny()
    lm.model.train()
    engine = Engine(lm, backend=backend)
    id = engine.add(requests(lm, 3)[2], PARAMS, seed=3)
    ids = tensor([lm.encode("a b c")])
    for _ in range(3):
        engine.step()
        assert lm.model.training
        assert lm.model.config._attn_implementation == "sdpa"
        lm.model(input_ids=ids, labels=ids).loss.backward()  # no inference mode
    assert all(p.grad is not None for p in lm.model.parameters())
    assert drawn(run(engine)[id]) == drawn(Engine(lm).generate([requests(lm, 3)[2]], PARAMS, seed=3)[0])


def test_an_error_of_the_model_drops_what_was_live_and_nothing_else():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=1)
    wanted = requests(lm, 2)
    live, queued = (engine.add(request, PARAMS, seed=3) for request in wanted)
    engine.step()
    with torch.no_grad():
        weight = lm.model.model.norm.weight
        kept = weight[0].item()
        weight[0] = float("nan")
        with pytest.raises(UserError, match="not finite"):
            engine.step()
        weight[0] = kept
    assert lm.model.config._attn_implementation == "sdpa"
    found = run(engine)
    assert live not in found
    assert drawn(found[queued]) == drawn(Engine(lm).generate(wanted[1:], PARAMS, seed=3)[0])


def test_the_backend_gets_arrays_and_returns_arrays():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=3)
    step, seen = engine.backend.step, []

    def watched(batch):
        found = step(batch)
        seen.append((batch, *found))
        return found

    engine.backend.step = watched
    engine.generate(requests(lm, 5), [PARAMS, change(top_k=3), PARAMS, PARAMS, PARAMS], seed=3)
    for batch, tokens, logprobs in seen:
        kinds = {name: column.dtype.name for name, column in vars(batch).items()}
        assert {kinds[name] for name in ("token", "segment", "position", "slot", "row", "wanted", "label")} == {"int64"}
        assert (kinds["key"], kinds["count"], kinds["scale"]) == ("uint64", "uint64", "float32")
        assert (batch.row[1:] >= batch.row[:-1]).all()
        assert len(tokens) == len(logprobs) == len(batch.wanted) == len(batch.top_k)
    assert any(set(batch.top_k.tolist()) == {0, 3} for batch, *_ in seen)


def test_masks_are_packed_once_per_step(monkeypatch):
    """And not per layer: three layers share them."""
    from polythink.engine.groups import Group

    lm = tiny(num_hidden_layers=3)
    engine = Engine(lm, backend="flat")
    made, packed = [], Group.packed_mask

    def watched(group, *which):
        found = packed(group, *which)
        made.append((id(group), found.data_ptr()))
        return found

    monkeypatch.setattr(Group, "packed_mask", watched)
    engine.add(requests(lm, 1)[0], PARAMS)
    engine.step()
    assert len(made) == 3
    assert len(set(made)) == 1
