"""The model that several processes train together: its weights, gradients and optimiser state divided among them.

FSDP2 (`fully_shard`): each layer's weights are gathered for its forward and backward, and freed again. With `autocast`
they are gathered in bfloat16, while the optimiser works on the float32 weights and gradients are added up in float32.
The whole model stays beside it on every process, to draw rollouts and to be saved: `refresh` gathers the trained
weights into it. In one process both are the same model, but on CUDA with `autocast` (`draws_from_copy`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace

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


def to_train(lm: LanguageModel, config: TrainingConfig, draws: bool = False) -> LanguageModel:
    """The model that is trained: `lm` itself in one process, otherwise a copy of it that is divided.

    `lm` then waits on the CPU, unless it `draws`: it does so in the type in which weights are gathered.
    """
    if dist.is_initialized():
        device = lm.device
        trained = replace(lm, model=divided(lm, config))
        if draws:
            lm.model.to(device)
    elif draws and draws_from_copy(lm, config):
        trained = replace(lm, model=copied(lm))
    else:
        return lm
    for own in lm.model.parameters() if draws and config.autocast else ():  # not buffers: rotary frequencies stay exact
        own.data = own.data.to(torch.bfloat16)
    return trained


def draws_from_copy(lm: LanguageModel, config: TrainingConfig) -> bool:
    """Whether one process keeps a copy in bfloat16 to draw from: where the engine's CUDA graphs would go on reading
    the casts of weights that autocast makes, and frees when it ends."""
    return config.autocast and lm.device.type == "cuda"


def copied(lm: LanguageModel) -> nn.Module:
    """A copy of the model, which reads thought embeddings of its own."""
    model = copy.deepcopy(lm.model)
    if lm.dialect.inventory:
        attach(model, None)
    return model


def divided(lm: LanguageModel, config: TrainingConfig) -> nn.Module:
    """A copy of the model, divided over all processes on their devices. `lm` is on the CPU afterwards."""
    device = lm.device
    lm.model.to("cpu")
    for tensor in (*lm.model.parameters(), *lm.model.buffers()):
        dist.broadcast(tensor.detach(), 0)  # rows of tags that a model lacked are random
    model = copied(lm)
    heeds_masks(model)  # found out by a forward, and so are heads: before a forward takes all processes
    plain_head(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    types = (torch.bfloat16, torch.float32) if config.autocast else (None, None)
    policy = MixedPrecisionPolicy(*types)
    for block in (*blocks_of(model), model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=config.reshard_after_forward)
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
def refresh(whole: LanguageModel, trained: LanguageModel) -> None:
    """Give the whole model the weights that are trained."""
    if whole is trained:
        return
    for own, divided in zip(whole.model.parameters(), trained.model.parameters(), strict=True):
        own.copy_(divided.full_tensor() if isinstance(divided, DTensor) else divided)
    for own, other in zip(whole.model.buffers(), trained.model.buffers(), strict=True):
        own.copy_(other)


def finish(whole: LanguageModel, trained: LanguageModel) -> None:
    """After the training: the whole model as it was, on its device and in its type, with the trained weights."""
    if whole is not trained:
        whole.model.to(trained.device)
        for own, divided in zip(whole.model.parameters(), trained.model.parameters(), strict=True):
            own.data = own.data.to(divided.dtype)
        refresh(whole, trained)
    whole.model.eval()


def free(model: nn.Module) -> None:
    """Free what a forward without a backward has gathered: the next one must gather the weights of its own time."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
