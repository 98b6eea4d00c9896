"""Keys and values in pages: the plan of a step's attention and the attention itself, against the plain definition."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import Story
from helpers.interpreted import needs_triton
from polythink.engine.paged import cache as paged
from polythink.engine.paged.cache import PagedCache

KERNELS = ["torch", pytest.param("triton", marks=needs_triton)]


def cache_of(kernel: str = "torch", windows=(None, 9), heads=4, kv_heads=2, head_size=16, dtype=torch.float32, **more):
    return PagedCache(len(windows), heads, kv_heads, head_size, dtype, "cpu", windows, kernel=kernel, **more)


@pytest.fixture(autouse=True)
def _memory_is_garbage(monkeypatch) -> None:
    """Every `torch.empty` of the cache is filled with NaN: what was never written must not be read."""
    empty = torch.empty

    def filled(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan) if tensor.dtype.is_floating_point else tensor

    monkeypatch.setattr(paged.torch, "empty", filled)


def gap(found: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The largest difference; NaN counts as infinite."""
    return max(torch.nan_to_num((out - expected).abs(), torch.inf).max().item() for out, expected in found)


@pytest.mark.parametrize(("kernel", "seed", "steps"), [
    ("torch", 0, 60), ("torch", 1, 60), ("torch", 2, 60), ("torch", 3, 60),
    pytest.param("triton", 4, 12, marks=needs_triton), pytest.param("triton", 5, 12, marks=needs_triton),
])  # fmt: skip
def test_random_graphs_of_segments(kernel, seed, steps):
    """Forks, joins, nested ones, chunks, refills, prefixes, windows, used pages, steps taken back: to 1e-5."""
    rows = 3 if kernel == "torch" else 2
    story = Story(cache_of(kernel, programs=8), seed, rows, padding=seed % 3, takes_back=seed % 2 > 0)
    story.add_prefix(3, 37)
    story.add_prefix(4, 16)
    for number in range(steps):
        assert gap(story.step(plain=number % 8 > 4)) < 1e-5, number
    assert story.segments > 3
