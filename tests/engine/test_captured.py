"""The own forward of models outside the Llama family over pages, recorded and replayed like a CUDA graph.

Float32. Tokens equal those of the flat backend; log-probabilities agree with one masked forward to 1e-4.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from helpers.device import DEVICE, OTHER
from helpers.replay import RecordedGraph, opaque
from helpers.tiny import drawn, family, gaps, requests, thinker
from polythink.engine import selfcheck
from polythink.engine.backends import paged as backends
from polythink.engine.backends.captured import CapturedBackend
from polythink.engine.backends.graphs import Graphs
from polythink.engine.engine import Engine
from polythink.engine.lean.family import Unfit, describe
from polythink.engine.paged import cache as paged
from polythink.engine.params import SamplingParams
from polythink.engine.selfcheck import check
from polythink.errors import UserError

TOLERANCE = 1e-4
PARAMS = SamplingParams(paths=2, max_main_tokens=6, max_path_tokens=5, max_summary_tokens=4, max_trace_tokens=60)
LONG = pytest.mark.long
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "phi": ("phi", {}),  # rotated in part, layer norms, attention and feed-forward side by side
    "phi3": ("phi3", {}),  # one product for queries, keys and values
    "olmo3": ("olmo3", WINDOW),  # norms after the blocks
    "gpt_neox": ("gpt_neox", {}),
    "gpt2": ("gpt2", {"n_positions": 256}),  # learned positions
    "cohere2": ("cohere2", WINDOW),  # no rotation in full layers
    "glm4": ("glm4", {"head_dim": 8}),
}


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """What runs as a Triton kernel on a GPU is one operation of a recorded graph."""
    monkeypatch.setattr(paged, "attend_pages_twin", opaque(paged.attend_pages_twin))
    monkeypatch.setattr(backends, "sample", opaque(backends.sample))


def of(name: str):
    model_type, changes = FAMILIES[name]
    return family(model_type, **changes)  # two layers: the kinds of `WINDOW`


def backend_of(lm, look_ahead: bool = True) -> CapturedBackend:
    return CapturedBackend(lm, Graphs(lambda: RecordedGraph), look_ahead, attention="torch")


def drawn_by(lm, backend, seed: int = 5) -> list:
    return Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 3), PARAMS, seed)


@pytest.mark.parametrize("name", [x if x == "olmo3" else pytest.param(x, marks=LONG) for x in FAMILIES])
def test_a_captured_forward_draws_what_the_flat_backend_draws(name):
    lm = of(name)
    with pytest.raises(Unfit):
        describe(lm.model)
    backend = backend_of(lm, look_ahead=name != "phi3")
    check(backend)
    assert backend.graphs.captured  # by the check itself: what cannot be captured is found there
    found = drawn_by(lm, backend)
    assert [drawn(r) for r in found] == [drawn(r) for r in drawn_by(lm, "flat")]
    assert any(s.kind == "summary" for r in found for s in r.segments)
    assert max(gaps(lm, found)) < TOLERANCE
    assert backend.graphs.replayed > backend.graphs.ran
    assert lm.model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs that are no recordings need a GPU")
@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_of_cuda_draw_what_the_flat_backend_draws(name):
    lm = of(name)
    backend = CapturedBackend(lm)
    check(backend)
    found = drawn_by(lm, backend)
    assert [drawn(r) for r in found] == [drawn(r) for r in drawn_by(lm, "flat")]
    assert max(gaps(lm, found)) < TOLERANCE
    assert backend.graphs.replayed > backend.graphs.captured > 0


def test_graphs_that_draw_keep_no_logits(monkeypatch):
    """They would hold them as long as they live: 150 MB for 512 branches and a large vocabulary in bfloat16."""
    lm = of("phi")
    backend = backend_of(lm)
    kept, run = [], backend.graphs.run
    monkeypatch.setattr(backend.graphs, "run", lambda key, function: (kept.append(run(key, function)), kept[-1])[1])
    drawn_by(lm, backend)
    assert len(kept) > 5
    assert {x.dim() for x in kept} == {1}
    Engine(lm, backend=backend).generate(requests(lm, 1), PARAMS.model_copy(update={"top_k": 3}), seed=5)
    assert kept[-1].shape[1] == lm.model.config.vocab_size  # top-k is the host's affair


def overwrite(lm) -> None:
    for parameter in lm.model.parameters():
        parameter.data.mul_(1.3)


def assign(lm) -> None:
    lm.model.load_state_dict({k: v * 1.3 for k, v in lm.model.state_dict().items()}, assign=True)


def replace(lm) -> None:
    """A module with the very tensors of the one before, which computes something else."""
    mlp = lm.model.model.layers[0].mlp
    mlp.activation_fn = nn.SiLU()


def hook(lm) -> None:
    lm.model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: 2 * out)


@pytest.mark.parametrize("change", [replace, hook, *(pytest.param(x, marks=LONG) for x in (overwrite, assign))])
def test_what_a_trainer_does_between_two_calls_is_seen(change):
    """Hooks are the host's affair: the forward is run as it is."""
    lm = of("phi")
    backend = backend_of(lm)
    before, ran = drawn_by(lm, backend), backend.graphs.replayed
    change(lm)
    after = drawn_by(lm, backend)
    assert [drawn(r) for r in after] == [drawn(r) for r in drawn_by(lm, "flat")]
    assert [s.logprobs for r in after for s in r.segments] != [s.logprobs for r in before for s in r.segments]
    assert max(gaps(lm, after)) < TOLERANCE
    assert (backend.graphs.replayed > ran) == (change is not hook)


def test_scaled_joins_stay_captured():
    lm = family("olmo2")  # thought hooks that change nothing come with a scale
    backend = backend_of(lm)
    params = PARAMS.model_copy(update={"length_scaling_above": 1})
    found = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 3), params, seed=5)
    assert any(max(r.layout().scales) > 1 for r in found)
    assert max(gaps(lm, found)) < TOLERANCE
    assert backend.graphs.replayed


# ---- what is refused ----


class Sometimes(nn.SiLU):
    """Another launch for other values."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


Sometimes.__module__ = "transformers.made_up"


class Choosing(nn.SiLU):
    def forward(self, x):
        return torch.zeros_like(x).index_put((x > 0,), x[x > 0])


Choosing.__module__ = "transformers.made_up"


class Stranger(nn.SiLU):
    pass


@pytest.mark.parametrize(
    ("activation", "why"),
    [
        (Sometimes, r"an operation \(aten._local_scalar_dense.default\) whose result decides what comes next"),
        (Choosing, r"an operation \(aten.index.Tensor\) whose result decides"),
        (Stranger, "a Stranger, which may compute something else in each call"),
    ],
)
def test_a_forward_that_looks_at_its_values_is_refused(activation, why):
    lm = of("phi")
    lm.model.model.layers[1].mlp.activation_fn = activation()
    with pytest.raises(UserError, match=f"takes models whose forward launches the same in each call, .* has {why}"):
        Engine(lm, backend="captured")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("gemma2", {"head_dim": 8}, "attention with softcap"),
        ("deepseek_v3", {}, "keys and values of different sizes"),
        ("falcon", {}, "2 layers, of which 0 have the engine's attention"),
    ],
)
def test_other_attention_is_refused(name, changes, why):
    with pytest.raises(UserError, match=why):
        Engine(family(name, **changes), backend="captured")


def test_thought_embeddings_are_left_to_others():
    lm = thinker()
    with pytest.raises(UserError, match="has thought embeddings"):
        Engine(lm, backend="captured")


def test_a_model_that_does_not_fit_any_more_is_refused():
    lm = of("phi")
    engine = Engine(lm, backend=backend_of(lm))
    lm.model.model.layers[1].mlp.activation_fn = Stranger()
    with pytest.raises(UserError, match=r"has changed since the engine was made.*Stranger"):
        engine.generate(requests(lm, 1), PARAMS)


def test_auto_goes_on_to_the_flat_backend_where_nothing_can_be_captured(monkeypatch):
    """As on CUDA: the check fails, and says so in a warning."""

    class Failing(CapturedBackend):
        def __init__(self, lm) -> None:
            def fail(function):
                raise RuntimeError("operation not permitted when stream is capturing")

            super().__init__(lm, Graphs(lambda: fail))

    choosy = {"captured": (Failing, ""), "lean": selfcheck.CHOOSY["lean"]}
    monkeypatch.setattr(selfcheck, "CHOOSY", choosy)
    monkeypatch.setattr(selfcheck, "SHARED", ("captured", "lean", "flat"))
    monkeypatch.setattr(selfcheck, "graphs_pay", lambda lm: True)
    with pytest.warns(UserWarning, match=r"with the flat backend \(captured: operation not permitted"):
        assert Engine(of("phi")).backend.kind == "flat"


def test_auto_captures_on_cuda_alone():
    """There with graphs of its own."""
    lm = of("phi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = Engine(lm, max_num_seqs=3)
    assert engine.backend.kind == OTHER
    assert max(gaps(lm, engine.generate(requests(lm, 3), PARAMS, seed=5))) < TOLERANCE
