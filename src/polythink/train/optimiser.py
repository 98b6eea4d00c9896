"""What all training loops share: learning rate, optimiser, clipped update, micro-batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from polythink.errors import UserError
from polythink.models.compiled import is_compiled
from polythink.models.thoughts import thoughts_of
from polythink.run.memory import trim_heap
from polythink.train import distributed
from polythink.train.config import OptimiserConfig, TrainingConfig
from polythink.train.precision import in_bfloat16


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, of `steps`.

    `inverse_sqrt` falls with the square root of the step, from `lr` at the end of the warm-up (Vaswani et al. 2017).
    """
    warmup = round(config.warmup if config.warmup >= 1 else config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(max(1, warmup) / (step + 1))
    done = (step - warmup) / max(1, steps - warmup)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


def depends_on_steps(config: OptimiserConfig) -> bool:
    """Whether the learning rate of a step depends on the number of all steps."""
    return config.schedule in ("cosine", "linear") or 0 < config.warmup < 1


@contextmanager
def freezing(model: torch.nn.Module) -> Iterator[None]:
    """While it is entered parameters may be frozen (beside adapters, or all but thoughts); then they are as before.

    By name, since adapters and shards put others in their places: what trains the model next would find nothing.
    """
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, parameter.requires_grad))


def make_optimiser(model: torch.nn.Module, config: OptimiserConfig, trainable: str = "all") -> torch.optim.AdamW:
    """AdamW over the trained parameters, without decay for those of `no_decay`. Place or shard the model first.

    With `trainable` "thoughts" all other parameters are frozen: see `freezing`. Those that are frozen already (beside
    adapters) have no place in it.
    """
    thoughts = thoughts_of(model)
    table = None if thoughts is None else thoughts.table
    if trainable == "thoughts":
        if table is None:
            raise UserError(
                "trainable: thoughts, but the model has no thought embeddings; set model.thought_embeddings"
            )
        model.requires_grad_(False)
        table.requires_grad_(True)
    spared = undecayed(model, config.no_decay)
    trained = [p for p in model.parameters() if p.requires_grad] if trainable == "all" else [table]
    groups = [
        {"params": [p for p in trained if p not in spared]},
        {"params": [p for p in trained if p in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    on_gpu = all(p.device.type == "cuda" for p in trained)
    whole_on_cpu = all(type(p) is torch.nn.Parameter and p.device.type == "cpu" for p in trained)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
        fused=on_gpu or whole_on_cpu or None,  # one pass over each parameter; elsewhere torch chooses
    )  # fmt: skip


def undecayed(model: torch.nn.Module, kinds: Collection[str]) -> set[torch.nn.Parameter]:
    """The parameters that these kinds name: "biases", the weights of "norms", the table of "thoughts"."""
    found: set[torch.nn.Parameter] = set()
    thoughts = thoughts_of(model)
    if "thoughts" in kinds and thoughts is not None and thoughts.table is not None:
        found.add(thoughts.table)
    for module in model.modules():
        is_norm = "Norm" in type(module).__name__  # LayerNorm, and the RMSNorm of every family
        for name, parameter in module.named_parameters(recurse=False):
            kind = "biases" if name.endswith("bias") else "norms" if is_norm and parameter.ndim == 1 else ""
            if kind in kinds:
                found.add(parameter)
    return found


def update(model: torch.nn.Module, optimiser: torch.optim.Optimizer, lr: float, clip: float) -> float:
    """Clip the gradient (0: do not), step, clear the gradient; returns the gradient's norm before clipping.

    Raises `UserError` where that norm is not finite; the step is then not taken.
    """
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    if isinstance(norm, DTensor):  # over the parts of all processes
        norm = norm.full_tensor()
    if not torch.isfinite(norm):
        raise UserError(f"the gradient is not finite at lr {lr:.3g}; lower lr or max_grad_norm, then start again")
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    changed = [p for p in model.parameters() if p.grad is not None and not isinstance(p, DTensor)]
    torch.autograd.graph.increment_version(changed)  # the fused AdamW does not, and `weights_hash` goes by it
    optimiser.zero_grad(set_to_none=True)
    trim_heap()
    return float(norm)


def micro_batches(lengths: Sequence[int], size: int, together: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Indices in groups of at most `size`, sorted by length (longest first) so that little is padded.

    Those of which `together` says the same stay side by side, in the place of the longest of them.
    """
    together = together or range(len(lengths))
    longest: dict[Hashable, tuple[int, int]] = {}
    for i, key in enumerate(together):
        longest[key] = min(longest.get(key, (0, 0)), (-lengths[i], i))
    order = sorted(range(len(lengths)), key=lambda i: (longest[together[i]], -lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def own_micro_batches(
    lengths: Sequence[int], size: int, together: Sequence[Hashable] | None = None
) -> list[tuple[list[int], bool]]:
    """The micro-batches of this process, and whether each counts (see `distributed.own_rounds`).

    Those of all processes are the whole batch. They are smaller where otherwise some process would have none.
    """
    size = max(1, min(size, -(-len(lengths) // distributed.world_size())))
    return distributed.own_rounds(micro_batches(lengths, size, together))


def head_options(config: TrainingConfig, model: torch.nn.Module) -> dict[str, Any]:
    """How `token_logprobs` is to compute logits."""
    return {
        "memory_bytes": config.logits_memory_bytes, "float32_head": config.float32_head, "fused": is_compiled(model),
    }  # fmt: skip


def autocast(config: OptimiserConfig, device: torch.device) -> AbstractContextManager:
    """The arithmetic of forwards: bfloat16 with `autocast`, otherwise that of the weights.

    Under a launcher the weights themselves are gathered in bfloat16 (`sharding.py`), and nothing is to be cast.
    """
    wanted = not dist.is_initialized() and in_bfloat16(config, device)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()
