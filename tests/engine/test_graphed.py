"""The backend of graphs on a CPU, with look-ahead: as it is, and with graphs that are recorded and replayed.

Float32. Tokens equal those of the flat backend and of the slow twin; log-probabilities agree to 1e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.replay import RecordedGraph, opaque
from helpers.sweep import sweep
from helpers.tiny import drawn, family, gaps, lean_towards, requests, thinker, tiny
from polythink.engine import lockstep
from polythink.engine.backends import paged as backends
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.backends.graphs import MOST_GRAPHS, Graphs
from polythink.engine.backends.paged import padded
from polythink.engine.engine import Engine
from polythink.engine.lean.paged_ops import PagedOps
from polythink.engine.paged import cache as paged
from polythink.engine.paged.arena import OutOfPages
from polythink.engine.params import SamplingParams
from polythink.engine.reference import reference_generate
from polythink.engine.selfcheck import check
from polythink.engine.step import StepBatch
from polythink.errors import UserError

TOLERANCE = 1e-4
BUDGETS = {"max_main_tokens": 16, "max_path_tokens": 9, "max_summary_tokens": 6, "max_trace_tokens": 110}


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """What runs as a Triton kernel on a GPU is one operation of a recorded graph."""
    monkeypatch.setattr(paged, "attend_pages_twin", opaque(paged.attend_pages_twin))
    monkeypatch.setattr(backends, "sample", opaque(backends.sample))


def backend_of(lm, recorded: bool = True, look_ahead: bool = True) -> GraphedBackend:
    return GraphedBackend(lm, PagedOps, Graphs((lambda: RecordedGraph) if recorded else None), look_ahead)


SOME, MOST = [(True, True, mode) for mode in ("structured", "reread", "sequential")], [(True, False, "structured")]
MOST += [  # each of their parts is in one of the others; the random traces have the last of them
    pytest.param(recorded, look_ahead, mode, marks=pytest.mark.long)
    for recorded, look_ahead in ((True, False), (False, False), (False, True))
    for mode in ("structured", "reread", "sequential")
    if (recorded, mode) != (True, "structured")
]


@pytest.mark.parametrize(("recorded", "look_ahead", "mode"), SOME + MOST)
def test_tokens_equal_the_flat_backend(mode, recorded, look_ahead):
    lm, wanted = tiny(seed=2), requests(tiny(), 5)
    params = SamplingParams(mode=mode, paths=3, max_blocks=3, **BUDGETS)
    flat = Engine(lm, max_num_seqs=4, backend="flat").generate(wanted, params, seed=5)
    backend = backend_of(lm, recorded, look_ahead)
    found = Engine(lm, max_num_seqs=4, backend=backend).generate(wanted, params, seed=5)
    assert [drawn(r) for r in found] == [drawn(r) for r in flat]
    assert max(gaps(lm, found)) < TOLERANCE
    graphs = backend.graphs
    assert (graphs.replayed > graphs.ran > graphs.captured > 0) if recorded else graphs.replayed == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    sweep(
        [{"temperature": 0.0}, {"top_p": 0.7}, {"top_k": 3}, {"paths": 1}, {"paths": 8}],
        [{"temperature": 0.0}, {"top_p": 0.7}, {"paths": 8}],
    ),
)
def test_tokens_equal_the_slow_twin(changes):
    lm, wanted = tiny(seed=4), requests(tiny(), 2)
    params = SamplingParams(**{"paths": 3, "max_blocks": 2, **BUDGETS, **changes})
    found = Engine(lm, max_num_seqs=3, backend=backend_of(lm)).generate(wanted, params, seed=1)
    assert [drawn(r) for r in found] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=1)]
    assert max(gaps(lm, found)) < TOLERANCE


GEMMA3 = {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(
    ("name", "changes"),
    sweep(
        [
            ("llama", {}),
            ("qwen2", {}),
            ("mistral", {"sliding_window": 6}),
            ("gemma", {"head_dim": 8}),
            ("gemma3_text", GEMMA3),
        ],
        [("qwen2", {}), ("gemma3_text", GEMMA3)],  # biases; windows, other norms and scales
    ),
)
def test_other_families_are_read_alike(name, changes):
    lm = family(name, **changes)
    backend = backend_of(lm)
    check(backend)
    params = SamplingParams(paths=3, max_blocks=1, **{**BUDGETS, "max_trace_tokens": 60})
    found, flat = (
        Engine(lm, max_num_seqs=3, backend=x).generate(requests(lm, 3), params, seed=5) for x in (backend, "flat")
    )
    assert [drawn(r) for r in found] == [drawn(r) for r in flat]
    assert backend.graphs.replayed


@pytest.mark.parametrize("hooked", [False, True])
def test_thought_embeddings_and_scaled_joins(hooked):
    lm = thinker()
    if not hooked:
        lm.model.get_output_embeddings()._forward_hooks.clear()
    backend = backend_of(lm)
    params = SamplingParams(paths=3, length_scaling_above=1, **BUDGETS)
    found = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 5), params, seed=5)
    assert max(gaps(lm, found)) < TOLERANCE
    assert bool(backend.graphs.replayed) != hooked  # a hooked head is the host's affair


def test_a_trainers_update_is_seen():
    """In place without a new recording; after a parameter has moved, everything is recorded anew."""
    lm, params = tiny(seed=2), SamplingParams(paths=2, max_blocks=2, **BUDGETS)
    backend = backend_of(lm)
    engine = Engine(lm, max_num_seqs=3, backend=backend)
    engine.generate(requests(lm, 3), params, seed=5)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(1.1)
    assert max(gaps(lm, engine.generate(requests(lm, 3), params, seed=6))) < TOLERANCE
    moved = lm.model.model.layers[0].mlp.up_proj
    with backend.hold():
        backend.graphs._known["of old addresses"] = None
    moved.weight = torch.nn.Parameter(moved.weight.detach() * 0.5)
    with backend.hold():
        assert not backend.graphs._known
    assert max(gaps(lm, engine.generate(requests(lm, 3), params, seed=7))) < TOLERANCE


def test_autocast_has_no_say():
    """Graphs would go on reading casts of weights that it frees when it ends."""
    lm = tiny(seed=2)
    engine = Engine(lm, max_num_seqs=3, backend=backend_of(lm))
    for seed in (5, 6):
        with torch.autocast(lm.device.type, dtype=torch.bfloat16):
            found = engine.generate(requests(lm, 5), SamplingParams(paths=2, max_blocks=2, **BUDGETS), seed=seed)
        assert max(gaps(lm, found)) < TOLERANCE
    assert engine.backend.graphs.replayed


def test_a_model_that_does_not_fit_any_more_is_refused():
    lm = tiny()
    engine = Engine(lm, backend=backend_of(lm))
    lm.model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(UserError, match=r"has changed since the engine was made.*a hook"):
        engine.generate(requests(lm, 1), SamplingParams(**BUDGETS))


@pytest.mark.parametrize("look_ahead", [False, True])
def test_logits_that_are_not_finite_are_told(look_ahead):
    lm = tiny()
    with torch.no_grad():
        lm.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        Engine(lm, backend=backend_of(lm, look_ahead=look_ahead)).generate(requests(lm, 2), SamplingParams(**BUDGETS))


def test_steps_are_padded_to_few_sizes():
    sizes = [padded(n) for n in range(1, 2000)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes)
    assert sorted(set(sizes))[:12] == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384]
    assert all(size - n < 64 for n, size in enumerate(sizes, start=1) if n > 256)


def test_the_graph_used_least_lately_goes_first():
    graphs = Graphs(lambda: RecordedGraph)
    x = torch.zeros(3)
    for key in range(MOST_GRAPHS):
        graphs.run(key, lambda: x + 1)
    graphs.run(0, lambda: x + 1)
    graphs.run("one more", lambda: x + 1)
    assert len(graphs._known) == MOST_GRAPHS
    assert 1 not in graphs._known
    x += 4
    assert graphs.run(0, lambda: x + 1).tolist() == [5, 5, 5]
    assert graphs.captured == 1


def test_a_token_may_be_one_that_the_step_before_samples():
    """Launched before that step is read, and with three numbers of tokens; as if the host had sent the token."""
    lm = tiny(seed=2)
    backend, other = backend_of(lm), backend_of(lm, recorded=False)
    draws = dict(key=np.arange(2, dtype=np.uint64), count=np.zeros(2, np.uint64), wanted=np.array([2, 1]))
    draws |= dict(temperature=np.ones(2, np.float32), top_p=np.ones(2, np.float32), top_k=np.zeros(2, np.int64))

    def batch(tokens, slot):
        every = StepBatch.every(tokens, np.zeros(len(tokens)), np.arange(slot, slot + len(tokens)), first_slot=slot)
        return StepBatch(**{**vars(every), **draws})

    for x in (backend, other):
        x.open(0, 0, ())
    with backend.hold(), other.hold():
        slot, first = 3, [5, 6, 7]
        before = backend.launch(batch(first, 0))
        tokens, _ = other.step(batch(first, 0))
        for source in ([1, -1, 0], [0, 1, 0, -1], [-1, 0, 1]):
            given = [tokens[s] if s >= 0 else 9 for s in source]
            flight = backend.launch(batch([0 if s >= 0 else 9 for s in source], slot), np.array(source))
            assert before.result()[0].tolist() == tokens.tolist()
            tokens, logprobs = other.step(batch(given, slot))
            assert flight.result()[1] == pytest.approx(logprobs, abs=1e-5)
            before, slot = flight, slot + len(source)


@pytest.mark.parametrize("worth", [1, 1 << 30])
def test_a_guess_that_finds_no_room_is_not_made(worth, monkeypatch):
    """Each third step that holds guesses does not fit; what is drawn stays the same. With lock step and without."""
    monkeypatch.setattr(lockstep, "WORTH", worth)
    lm, params, wanted = tiny(seed=2), SamplingParams(paths=3, max_blocks=2, **BUDGETS), requests(tiny(), 6)
    free = Engine(lm, max_num_seqs=3, backend="flat").generate(wanted, params, seed=5)
    backend = backend_of(lm)
    launch, calls = backend.launch, []

    def crowded(batch, source=None):
        calls.append(source is not None)
        if source is not None and sum(calls) % 3 == 0:
            raise OutOfPages
        return launch(batch, source)

    monkeypatch.setattr(backend, "launch", crowded)
    found = Engine(lm, max_num_seqs=3, backend=backend).generate(wanted, params, seed=5)
    assert [drawn(r) for r in found] == [drawn(r) for r in free]
    assert sum(calls) > 30


def test_a_hook_on_the_head_is_heeded():
    lm = lean_towards(tiny(seed=2), {"<Parallel>": 3.0})
    backend, params = backend_of(lm), SamplingParams(paths=2, **BUDGETS)
    found = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 3), params, seed=5)
    assert max(gaps(lm, found)) < TOLERANCE
    assert backend.graphs.ran == backend.graphs.replayed == 0
