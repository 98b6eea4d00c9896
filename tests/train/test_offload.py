"""Activations that are moved while they wait for the backward pass: equal gradients, and nothing but them is moved."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from helpers.device import DEVICE
from helpers.training import gradients, make_lm, mixture, sft_config
from polythink.models.lm import checkpoint_activations
from polythink.problems.tasks.countdown import problems
from polythink.train import kernels
from polythink.train.kernels import kernels_of
from polythink.train.offload import is_weight, moving, offloading
from polythink.train.sft import accumulate_gradient


def gradient_of(monkeypatch, checkpointing: bool, offloading: bool, pieces: bool) -> tuple[torch.Tensor, int]:
    """The gradient of a batch, and how many tensors were moved."""
    lm, moved = make_lm(), []

    def counting(model):
        hooks = moving(least=1)
        pack = hooks.pack_hook

        def counted(tensor):
            packed = pack(tensor)
            moved.append(packed[1] is not None)
            assert packed[1] is None or packed[0].data_ptr() != tensor.data_ptr()
            return packed

        hooks.pack_hook = counted
        return hooks

    monkeypatch.setattr(kernels, "offloading", counting)
    if checkpointing:
        checkpoint_activations(lm.model)
    more = {"logits_memory_bytes": 4000} if pieces else {}
    config = sft_config(activation_offloading=offloading, **more)
    layouts = mixture(lm, config, problems("mini", "train")).batch(0)
    lm.model.train()
    with kernels_of(config, lm.model):
        accumulate_gradient(lm, config, layouts)
    return gradients(lm.model), sum(moved)


@pytest.mark.parametrize("pieces", [False, True], ids=["whole logits", "pieces"])
def test_gradients_are_equal(monkeypatch, pieces):
    counts = []
    for checkpointing in (False, True):
        right, none = gradient_of(monkeypatch, checkpointing, False, pieces)
        found, some = gradient_of(monkeypatch, checkpointing, True, pieces)
        assert torch.equal(found, right)
        counts += [none, some]
    assert counts[0] == counts[2] == 0 < counts[3] < counts[1], "of a checkpointed layer its input alone"


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
    assert pack(small) == (small, None)
    held, device = pack(large)
    assert held is not large
    assert device == large.device
    assert held.stride() == large.stride()
    assert torch.equal(unpack((held, device)), large)
