"""Models that cannot fork and join are refused when they are loaded, with a sentence that says why."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny import family, tiny
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.engine import Engine
from polythink.engine.selfcheck import SelfCheckFailed, check
from polythink.errors import UserError


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8}, "layers of the kind linear_attention"),
        ("qwen3_next", {}, "layers of the kind linear_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of the kind conv"),
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


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_a_leak_between_siblings_fails_the_check(kind):
    lm = tiny()
    backend = TransformersBackend(lm, kind)
    check(backend)
    entered = backend.open
    # the second path (segment 2) is told that it follows the first
    backend.open = lambda row, segment, follows: entered(row, segment, (1,) if segment == 2 else follows)
    with pytest.raises(SelfCheckFailed, match="masked forward"):
        check(backend)


def test_eager_attention_gets_a_float_mask():
    """An eager kernel adds its mask: a bool one would be added as 0 and 1, without an error."""
    lm = tiny()
    lm.model.set_attn_implementation("eager")
    backend = TransformersBackend(lm, "padded")
    check(backend)
    backend._rendered = lambda mask: mask[:, None]
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


def test_flex_attention_is_refused_before_it_ends_the_process():
    lm = tiny()
    lm.model.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="attention 'sdpa' or 'eager', this one has 'flex_attention'"):
        Engine(lm)


def test_unknown_backend():
    with pytest.raises(UserError, match="did you mean 'flat'"):
        Engine(tiny(), backend="flta")
