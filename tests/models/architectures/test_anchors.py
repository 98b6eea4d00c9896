"""Parameter counts of the published configurations, met exactly by the real modules. Derived, not printed in papers."""

from __future__ import annotations

import pytest
import torch

from polythink.models.architectures import (
    EEITConfig,
    EEITForConditionalGeneration,
    EITConfig,
    EITForConditionalGeneration,
    PartialFormerConfig,
    PartialFormerForCausalLM,
    PartialFormerForConditionalGeneration,
    VanillaConfig,
    VanillaForConditionalGeneration,
)


def count(model_class, config) -> int:
    """Parameters of the real module, built without memory; tied ones once."""
    with torch.device("meta"):
        model = model_class(config)
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def partialformer(d, heads, source_heads, target_heads, source_layers, layers, vocabulary=32_768, **more):
    return PartialFormerConfig(
        hidden_size=d, num_attention_heads=heads, source_expanded_heads=source_heads, expanded_heads=target_heads,
        source_ffn_ratio=4, ffn_ratio=2, num_source_layers=source_layers, num_hidden_layers=layers,
        vocab_size=vocabulary, **more,
    )  # fmt: skip


P1 = (360, 8, 30, 16, 24, 6)
BIG = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
PUBLISHED_CODE = {"isi_kernel": 7, "csi_kernel": 3}


def code(heads):
    return {**PUBLISHED_CODE, "isi_channels": 2 * heads**2, "csi_channels": 8 * heads}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (partialformer(*P1), 67_621_992),
        (partialformer(*P1, head_mlp=False), 87_861_960),
        (partialformer(*P1, residual_attention=False, source_residual_attention=False), 66_126_012),
        (partialformer(*P1, vocabulary=20_000), 63_025_512),
        (partialformer(*P1, vocabulary=32_000), 67_345_512),
        (partialformer(*P1, vocabulary=37_000), 69_145_512),
        (partialformer(*P1, vocabulary=40_000), 70_225_512),
        (partialformer(360, 8, 16, 16, 6, 6), 31_764_618),
        (partialformer(360, 8, 16, 16, 24, 6), 50_788_476),
        (partialformer(512, 8, 8, 8, 6, 6), 41_889_440),
        (partialformer(1024, 16, 16, 16, 6, 6), 132_669_120),
        (partialformer(64, 4, 6, 5, 3, 2, 100), 218_436),
        (partialformer(32, 4, 6, 5, 2, 2, 60), 48_908),
    ],
    ids=["P1", "P1n", "P1a", "P1v20", "P1v32", "P1v37", "P1v40", "P2", "P3", "P4", "P5", "P7", "P8"],
)
def test_partialformer(config, parameters):
    assert count(PartialFormerForConditionalGeneration, config) == parameters


def test_partialformer_decoder_only():
    """P6: layers, residual attention and final norm, without embedding and output layer."""
    config = PartialFormerConfig(
        hidden_size=1024, num_attention_heads=8, expanded_heads=16, ffn_ratio=4, num_hidden_layers=8, vocab_size=64
    )
    assert count(PartialFormerForCausalLM, config) - 64 * 1024 == 72_442_112


def test_parts_of_p1():
    with torch.device("meta"):
        model = PartialFormerForConditionalGeneration(partialformer(*P1))

    def size(module):
        return sum(p.numel() for p in module.parameters())

    source, target = model.encoder.stack, model.decoder
    assert size(source.layers[0].self_attention) == 1_738_605
    assert size(target.layers[0].self_attention) == size(target.layers[0].cross_attention) == 1_047_971
    assert (size(source.shared), size(target.shared)) == (975_420, 520_560)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [({}, 60_917_760), ({"num_source_layers": 24}, 117_660_672), (BIG, 209_915_904)],
    ids=["T1", "T2", "T1-big"],
)
def test_vanilla(shape, parameters):
    assert count(VanillaForConditionalGeneration, VanillaConfig(**shape)) == parameters


@pytest.mark.parametrize(
    ("where", "parameters"),
    [(None, 60_985_824), (["source", "target"], 61_053_888), (["source", "target", "cross"], 61_121_952)],
    ids=["E1", "E2", "E2-cross"],
)
def test_eit(where, parameters):
    assert count(EITForConditionalGeneration, EITConfig(interaction_in=where, **code(8))) == parameters


def test_eit_big():
    assert count(EITForConditionalGeneration, EITConfig(**BIG, **code(16))) == 210_359_232


def test_e_eit():
    assert count(EEITForConditionalGeneration, EEITConfig()) == 60_919_440


@pytest.mark.parametrize(("heads", "parameters"), [(4, 1_960), (8, 11_344), (12, 33_528), (16, 73_888)])
def test_interaction_of_one_layer(heads, parameters):
    with torch.device("meta"):
        config = EITConfig(hidden_size=48, num_attention_heads=heads, vocab_size=8, num_hidden_layers=1, **code(heads))
        model = EITForConditionalGeneration(config)
    assert sum(p.numel() for p in model.encoder.stack.layers[0].self_attention.mixings.parameters()) == parameters
