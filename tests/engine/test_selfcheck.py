"""Models that cannot fork and join are refused when they are loaded, with a sentence that says why."""

from __future__ import annotations

import pytest
import torch

from helpers.device import DEVICE, FAST
from helpers.scribe import scribe
from helpers.sweep import sweep
from helpers.tiny import family, gaps, requests, tiny
from polythink.engine import selfcheck
from polythink.engine.backends.lean import LeanBackend
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.selfcheck import SelfCheckFailed, check
from polythink.errors import UserError


@pytest.fixture(autouse=True)
def each_time(monkeypatch):
    """Elsewhere models that are alike are checked once (`helpers.checked`)."""
    monkeypatch.setattr(selfcheck, "check", check)


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("bloom", {"n_head": 4, "n_layer": 2}, "ALiBi"),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
    ],
)
def test_refused_by_name(model_type, changes, why):
    with pytest.raises(UserError, match=why):
        Engine(family(model_type, **changes))


def test_an_unknown_model_that_ignores_positions_is_refused():
    """Not by name: a rotary model whose rotary embedding is fed the order of tokens instead of their positions."""
    lm = tiny()
    rotary = lm.model.model.rotary_emb
    plain = rotary.forward
    rotary.forward = lambda x, position_ids: plain(x, torch.arange(x.shape[1])[None].expand(x.shape[0], -1))
    with pytest.raises(UserError, match="fails the fork/join self-check"):
        Engine(lm)


def test_nan_fails_the_check():
    lm = tiny()
    with torch.no_grad():
        lm.model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="fails the fork/join self-check"):
        Engine(lm)


@pytest.mark.parametrize("kind", ["lean", "flat", "padded"])
def test_a_leak_between_siblings_fails_the_check(kind):
    lm = tiny()
    backend = LeanBackend(lm) if kind == "lean" else TransformersBackend(lm, kind)
    check(backend)
    entered = backend.open
    # the second path (segment 2) is told that it follows the first
    backend.open = lambda row, segment, follows: entered(row, segment, (1,) if segment == 2 else follows)
    with pytest.raises(SelfCheckFailed, match="masked forward"):
        check(backend)


def test_eager_attention_gets_a_float_mask(monkeypatch):
    """An eager kernel adds its mask: a bool one would be added as 0 and 1, without an error."""
    lm = tiny()
    lm.model.set_attn_implementation("eager")
    backend = TransformersBackend(lm, "padded")
    check(backend)
    monkeypatch.setattr("polythink.engine.backends.transformers.rendered", lambda model, mask: mask)
    with pytest.raises((SelfCheckFailed, RuntimeError)):
        check(backend)


def test_attention_extras_are_never_dropped():
    """Soft caps and sinks would be lost in silence by an attention function that ignores its keywords."""
    for model_type in ("gemma2", "gpt_oss"):
        changes = {"num_local_experts": 4} if model_type == "gpt_oss" else {"head_dim": 8}
        lm = family(model_type, **changes)
        with pytest.raises(UserError, match=r"attention with (softcap|s_aux)"):
            Engine(lm, backend="flat")
        with pytest.warns(UserWarning, match=r"padded backend \(flat: attention with"):
            assert Engine(lm).backend.kind == "padded"


def test_a_window_that_the_attention_is_not_told_of_is_not_lost():
    """The engine's masks take the place of the model's, in which a family may have kept its window to itself."""
    lm = family("gemma3_text", sliding_window=64, head_dim=8)  # wider than the self-check's tree: it would pass
    assert Engine(lm, backend="flat").backend.window == 64
    for layer in lm.model.model.layers:
        layer.self_attn.sliding_window = None
    with pytest.raises(UserError, match="a sliding window that it is not told of"):
        Engine(lm, backend="flat")


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4, "long_factor": [8.0] * 4,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}


@pytest.mark.parametrize(
    ("model_type", "scaling", "why"),
    [
        ("phi3", LONGROPE, "kind 'longrope': from 64 positions on"),
        ("llama", LONGROPE, "kind 'longrope': from 64 positions on"),
        ("llama", DYNAMIC, "kind 'dynamic': from 256 positions on"),
        ("qwen3", DYNAMIC, "kind 'dynamic': from 256 positions on"),
    ],
)
def test_rotary_scaling_that_depends_on_the_longest_row_is_refused(model_type, scaling, why):
    more = {"original_max_position_embeddings": 64} if scaling is LONGROPE else {}
    lm = family(model_type, head_dim=8, rope_parameters=scaling, **more)
    with pytest.raises(UserError, match=f"rotary scaling of the {why}"):
        Engine(lm)


def test_the_check_itself_sees_what_no_name_says():
    """Beyond the switch a row depends on its batch mates: so it must be looked at there."""
    lm = family("llama", head_dim=8, rope_parameters=LONGROPE)
    with pytest.raises(SelfCheckFailed, match="alone and beside one at the end of the context"):
        check(TransformersBackend(lm))


@pytest.mark.parametrize(
    ("scaling", "kind"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 64}, FAST),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}, FAST),
        (LONGROPE | {"original_max_position_embeddings": 256}, "flat"),  # changes nothing within the context
    ],
)
def test_other_rotary_scaling_is_taken(scaling, kind):
    assert Engine(family("llama", head_dim=8, rope_parameters=scaling)).backend.kind == kind


@pytest.mark.parametrize("positions", [1, 8, 16])
def test_a_context_too_short_to_be_checked_is_refused(positions):
    lm = family("gpt2", n_positions=positions, max_position_embeddings=positions)
    with pytest.raises(UserError, match=f"holds {positions} positions, and the fork/join self-check needs 17"):
        Engine(lm)


def test_the_shortest_context_that_can_be_checked():
    lm = family("gpt2", n_positions=17, max_position_embeddings=17)
    rollouts = Engine(lm).generate([Request((3, 4, 5), "p", i) for i in range(8)], SamplingParams(paths=2))
    assert all(max(r.layout().position) < 17 for r in rollouts)
    assert {"context"} <= {s.finish_reason for r in rollouts for s in r.segments}


def test_every_module_is_as_it_was_after_the_check():
    """A trainer may keep dropout in evaluation mode while the model trains."""
    lm = family("gpt2", n_positions=64, max_position_embeddings=64)
    lm.model.train()
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    before = [module.training for module in lm.model.modules()]
    assert len(set(before)) == 2
    engine = Engine(lm)
    assert [module.training for module in lm.model.modules()] == before
    engine.generate([Request((3, 4, 5))], SamplingParams(max_trace_tokens=20))
    assert [module.training for module in lm.model.modules()] == before


def test_flex_attention_is_refused_before_it_ends_the_process():
    lm = tiny()
    lm.model.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="attention 'sdpa' or 'eager', this one has 'flex_attention'"):
        Engine(lm)


def test_unknown_backend():
    with pytest.raises(UserError, match="did you mean 'flat'"):
        Engine(tiny(), backend="flta")


@pytest.mark.parametrize(
    ("backend", "dtype", "bound"),
    sweep(
        [
            (backend, *type_and_bound)
            for backend in ("flat", "padded", "recurrent")
            for type_and_bound in (("float32", 1e-5), ("bfloat16", 0.05))
        ],
        [("flat", "bfloat16", 0.05), ("padded", "float32", 1e-5), ("recurrent", "float32", 1e-5)],
    ),
)
def test_the_self_check_measures_how_exact_log_probabilities_are(backend, dtype, bound):
    """The bound of each type; and what is measured on the tree is about what the tokens of rollouts show."""
    lm = scribe("parallel_r1", opens=1.5, dtype=dtype)
    engine = Engine(lm, max_num_seqs=4, backend=backend)
    error = engine.backend.logprob_error
    assert error < bound
    if DEVICE.type == "cuda" and not error:
        return  # the same kernels on the same sizes: the same to the last bit
    assert error > 0
    params = SamplingParams(mode="reread", max_main_tokens=12, max_path_tokens=8, max_trace_tokens=80)
    found = gaps(lm, engine.generate(requests(lm, 6), params, seed=3))
    assert error / 10 < sum(found) / len(found) < 10 * error
