"""The micro-batches of a step side by side on the cores of a CPU, one thread each, not all cores on each product.

The products of a small model are too short to be shared out: waking a second thread costs as much as it saves. Whole
forwards and backwards are not; and what each thread holds of its own, activations and gradients, is small. The
gradients are summed in the order of the micro-batches, so they are, to the last bit, those of one micro-batch after
another in one thread: the slow twin, which is what one core computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from polythink.train import distributed
from polythink.train.config import SFTConfig
from polythink.train.flat import fits, plain_family

SHORT = 1 << 17  # elements of a layer's largest matrix up to which its products are too short


@contextmanager
def side_by_side(model: torch.nn.Module, config: SFTConfig) -> Iterator[Executor | None]:
    """The threads for the micro-batches of a step, of one thread of torch each; None: one after another.

    For small models of the flat training forward, which changes nothing of the module, where there is work for all
    cores.
    """
    threads, parts = torch.get_num_threads(), -(-config.batch // config.micro_batch)
    packed = config.pack not in (None, "auto")  # which packs on CUDA alone
    if not 1 < threads <= parts or packed or distributed.world_size() > 1 or not _is_small(model):
        yield None
        return
    torch.set_num_threads(1)  # of this thread, and of those that are begun from now on
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _is_small(model: torch.nn.Module) -> bool:
    if not fits(model):
        return False
    layers = plain_family(model).layers
    return max(linear.weight.numel() for layer in layers for linear in (layer.query, layer.out, layer.gate)) <= SHORT


def add_gradients(pool: Executor, model: torch.nn.Module, losses: Sequence[Callable[[], torch.Tensor]]) -> list[float]:
    """The losses, whose gradients are added to those of the parameters in this order."""
    trained = [p for p in model.parameters() if p.requires_grad]

    def gradient(loss_of: Callable[[], torch.Tensor]) -> tuple[float, tuple[torch.Tensor | None, ...]]:
        loss = loss_of()
        return loss.item(), torch.autograd.grad(loss, trained, allow_unused=True)

    found = []
    for loss, grads in pool.map(gradient, losses):
        found.append(loss)
        for parameter, grad in zip(trained, grads, strict=True):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad.add_(grad)
    return found
