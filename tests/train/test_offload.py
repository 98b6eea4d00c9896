"""Activations that are moved while they wait for the backward pass: equal gradients, and nothing but them is moved."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from helpers.device import DEVICE
from helpers.training import gradients, make_lm, mixture, sft_config
from polythink.models import compiled
from polythink.models.lm import checkpoint_activations
from polythink.problems.tasks.countdown import problems
from polythink.train import kernels
from polythink.train.kernels import kernels_of
from polythink.train.offload import is_weight, moving, offloading
from polythink.train.sft import accumulate_gradient

LARGE = 1 << 10  # bytes, in place of a mebibyte: the models are small


def gradient_of(
    monkeypatch, checkpointing: bool, offloading: bool, **keys
) -> tuple[torch.Tensor, dict[str, list[int]]]:
    """The gradient of a batch, and the sizes of what was moved to be kept and back to be used.

    The move is a copy: a CPU has no other memory. All is as on a GPU but that.
    """
    lm, moved = make_lm(), {"out": [], "back": []}

    def counting(model):
        hooks = moving(least=LARGE)
        pack, unpack = hooks.pack_hook, hooks.unpack_hook

        def out(tensor):
            packed = pack(tensor)
            if packed[1] is not None:
                assert packed[0].data_ptr() != tensor.data_ptr()
                assert tensor.nbytes >= LARGE
                assert not is_weight(tensor)
                moved["out"].append(tensor.nbytes)
            return packed

        def back(packed):
            if packed[1] is not None:
                moved["back"].append(packed[0].nbytes)
            return unpack(packed)

        hooks.pack_hook, hooks.unpack_hook = out, back
        return hooks

    monkeypatch.setattr(kernels, "offloading", counting)
    if checkpointing:
        checkpoint_activations(lm.model)
    config = sft_config(activation_offloading=offloading, **keys)
    layouts = mixture(lm, config, problems("mini", "train")).batch(0)
    lm.model.train()
    with kernels_of(config, lm.model):
        accumulate_gradient(lm, config, layouts)
    return gradients(lm.model), moved


def assert_moved(monkeypatch, **keys) -> None:
    """Gradients to the last bit, with what is kept and with what is computed again; of the latter less is moved."""
    sizes = []
    for checkpointing in (False, True):
        right, none = gradient_of(monkeypatch, checkpointing, False, **keys)
        found, moved = gradient_of(monkeypatch, checkpointing, True, **keys)
        assert torch.equal(found, right)
        assert none == {"out": [], "back": []}
        assert set(moved["back"]) <= set(moved["out"]), "what comes back went out"
        assert moved["back"], "and is used"
        sizes.append(sum(moved["out"]))
    assert sizes[1] < sizes[0], "of a checkpointed layer its input alone"


@pytest.mark.parametrize("pieces", [False, True], ids=["whole logits", "pieces"])
def test_gradients_are_equal(monkeypatch, pieces):
    assert_moved(monkeypatch, **({"logits_memory_bytes": 4000} if pieces else {}))


@pytest.mark.long
@pytest.mark.parametrize("flex", [False, True], ids=["dense", "flex"])
def test_gradients_of_compiled_layers_are_equal(monkeypatch, flex_on_cpu, flex):
    """Divided into forward and backward as on a GPU, so that a layer keeps what torch's partition says."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager_decomp_partition")
    keys = {"attention": "flex_attention"} if flex else {}
    assert_moved(monkeypatch, compile=True, micro_batch=2, **keys)


def test_on_a_cpu_nothing_is_moved():
    assert isinstance(offloading(torch.nn.Linear(2, 2)), nullcontext)
    if DEVICE.type == "cuda":
        assert not isinstance(offloading(torch.nn.Linear(2, 2, device=DEVICE)), nullcontext)


def test_weights_stay_and_small_tensors_stay():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    assert [is_weight(x) for x in (weight, weight.t(), weight[1:], weight * 2, torch.ones(3))] == [True] * 3 + [
        False
    ] * 2
    pack, unpack = (moving(least=64).pack_hook, moving().unpack_hook)
    small, large = torch.ones(15), torch.arange(16.0).view(4, 4).t()
    assert pack(small)[:2] == (small, None)
    held, device, shape = pack(large)
    assert held is not large
    assert device == large.device
    assert held.stride() == large.stride()
    assert torch.equal(unpack((held, device, shape)), large)


def test_what_was_expanded_is_moved_once():
    """A mask that attention has expanded to all heads."""
    mask = torch.arange(32.0).view(2, 1, 4, 4).expand(2, 16, 4, 4)
    hooks = moving(least=64)
    held, device, shape = hooks.pack_hook(mask)
    assert held.nbytes == 32 * 4
    assert torch.equal(hooks.unpack_hook((held, device, shape)), mask)
    assert hooks.unpack_hook((held, device, shape)).stride() == mask.stride()
