"""The model that several processes train together: its weights, gradients and optimiser state divided among them.

FSDP2 (`fully_shard`): each layer's weights are gathered for its forward and backward, and freed again. With `autocast`
they are gathered in bfloat16, while the optimiser works on the float32 weights and gradients are added up in float32.
The whole model stays beside it on every process, to draw rollouts and to be saved: `refresh` gathers the trained
weights into it. In one process both are the same model, but on CUDA with `autocast` (`draws_from_copy`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from polythink.models.forward import heeds_masks
from polythink.models.head import plain_head
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import attach
from polythink.train.config import TrainingConfig
from polythink.train.precision import in_bfloat16


class Trained(Protocol):
    """A model with what belongs to it."""

    model: nn.Module

    @property
    def device(self) -> torch.device: ...


@contextmanager
def to_train(lm: LanguageModel, config: TrainingConfig, draws: bool = False) -> Iterator[LanguageModel]:
    """The model that is trained: `lm` itself in one process, otherwise a copy of it that is divided.

    `lm` then waits on the CPU, unless it `draws`: it does so in the type in which weights are gathered. After an error
    it is on its device and in its type again; in one process with the weights of the last update.
    """
    trained = _trained(lm, config, draws)
    try:
        yield trained
    except BaseException:
        if _names(lm) == _names(trained):  # otherwise it has finished, and adapters are merged into its weights
            # with the others, of whom one may be gone, no weights can be gathered
            (_as_trained if dist.is_initialized() else finish)(lm, trained)
        raise


def _names(lm: Trained) -> list[str]:
    return [name for name, _ in lm.model.named_parameters()]


def _trained(lm: LanguageModel, config: TrainingConfig, draws: bool) -> LanguageModel:
    if dist.is_initialized():
        device = lm.device
        trained = replace(lm, model=divided(lm, config))
        if draws:
            lm.model.to(device)
    elif draws and draws_from_copy(lm, config):
        trained = replace(lm, model=copied(lm))
    else:
        return lm
    if draws and in_bfloat16(config, trained.device):
        for own in lm.model.parameters():  # not buffers: rotary frequencies stay exact
            own.data = own.data.to(torch.bfloat16)
    return trained


def draws_from_copy(lm: LanguageModel, config: TrainingConfig) -> bool:
    """Whether one process keeps a copy in bfloat16 to draw from: where the engine's CUDA graphs would go on reading
    the casts of weights that autocast makes, and frees when it ends."""
    return lm.device.type == "cuda" and in_bfloat16(config, lm.device)


def copied(lm: LanguageModel) -> nn.Module:
    """A copy of the model, hooked as it is."""
    model = copy.deepcopy(lm.model)
    hook(lm, model)
    return model


def hook(lm: LanguageModel, model: nn.Module) -> None:
    """Give a copy of the model the hooks that its dialect needs."""
    if lm.dialect.inventory:
        attach(model, None)


def divided(lm: LanguageModel, config: TrainingConfig) -> nn.Module:
    """A copy of the model, divided over all processes on their devices. `lm` is on the CPU afterwards."""

    def ready(model: nn.Module) -> None:
        heeds_masks(model)  # found out by a forward, and so are heads and hooks: before a forward takes all processes
        plain_head(model)
        hook(lm, model)

    return divide(lm.model, in_bfloat16(config, lm.device), config.reshard_after_forward, ready)


def divide(
    whole: nn.Module, autocast: bool, reshard: bool = True, ready: Callable[[nn.Module], None] = lambda model: None
) -> nn.Module:
    """As `divided`, of any model; `ready` does what has to be done before."""
    device = next(whole.parameters()).device
    whole.to("cpu")
    for tensor in (*whole.parameters(), *whole.buffers()):
        dist.broadcast(tensor.detach(), 0)  # rows of tags that a model lacked are random
    model = copy.deepcopy(whole)
    ready(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    types = (torch.bfloat16, torch.float32) if autocast else (None, None)
    policy = MixedPrecisionPolicy(*types)
    for block in (*blocks_of(model), model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    return model


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers that are gathered one at a time; none where they share weights with others: then the model is whole.

    transformers names the classes of layers that belong together.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    inside = {module: number for number, block in enumerate(blocks) for module in block.modules()}
    owners: dict[nn.Parameter, set[int]] = defaultdict(set)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[parameter].add(inside.get(module, -1))
    return blocks if all(len(own) == 1 for own in owners.values()) else []


def reference_of(lm: LanguageModel, config: TrainingConfig) -> nn.Module:
    """The model as it is, to be compared with what it becomes; divided as the trained one is. Before `to_train`."""
    if not dist.is_initialized():
        return copy.deepcopy(lm.model).eval().requires_grad_(False)
    device = lm.device
    model = divided(lm, config)
    lm.model.to(device)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def refresh(whole: Trained, trained: Trained) -> None:
    """Give the whole model the weights that are trained."""
    if whole is trained:
        return
    for own, divided in zip(whole.model.parameters(), trained.model.parameters(), strict=True):
        own.copy_(divided.full_tensor() if isinstance(divided, DTensor) else divided)
    for own, other in zip(whole.model.buffers(), trained.model.buffers(), strict=True):
        own.copy_(other)


def finish(whole: Trained, trained: Trained) -> None:
    """After the training: the whole model as it was, on its device and in its type, with the trained weights."""
    if whole is not trained:
        _as_trained(whole, trained)
        refresh(whole, trained)
    whole.model.eval()


def _as_trained(whole: Trained, trained: Trained) -> None:
    """The device and the types of the trained model."""
    whole.model.to(trained.device)
    for own, divided in zip(whole.model.parameters(), trained.model.parameters(), strict=True):
        own.data = own.data.to(divided.dtype)


@torch.no_grad()
def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model that may be divided, as one process has it."""
    state = model.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def free(model: nn.Module) -> None:
    """Free what a forward without a backward has gathered: the next one must gather the weights of its own time."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
