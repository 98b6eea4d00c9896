"""Keys and values in pages: the plan of a step's attention and the attention itself, against the plain definition."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from helpers.device import DEVICE
from helpers.graphs import Story
from helpers.interpreted import needs_triton
from helpers.sweep import sweep
from polythink.engine.kernels.attention import attend_pages
from polythink.engine.paged import arena
from polythink.engine.paged import cache as paged
from polythink.engine.paged.cache import PagedCache
from polythink.engine.paged.upload import Upload
from polythink.engine.paged.work import Work


def cache_of(kernel: str = "torch", windows=(None, 9), heads=4, kv_heads=2, head_size=16, dtype=torch.float32, **more):
    return PagedCache(len(windows), heads, kv_heads, head_size, dtype, DEVICE, windows, kernel=kernel, **more)


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


@pytest.mark.parametrize("seed", sweep(range(4), [0, 1]))  # 1: padded, and steps are taken back
def test_random_graphs_of_segments(seed, monkeypatch):
    """Forks, joins, nested ones, chunks, refills, prefixes, windows, used pages, steps taken back: to 1e-5.

    The arenas grow on the way, and many lists are updated in place instead of being made anew.
    """
    monkeypatch.setattr(arena, "FIRST_PAGES", 8)
    cache = cache_of(programs=8)
    updated = watch_updates(cache)
    story = Story(cache, seed, padding=seed % 3, takes_back=seed % 2 > 0)
    story.add_prefix(3, 37)
    story.add_prefix(4, 16)
    moved = cache.now.key
    for number in range(60):
        assert gap(story.step(plain=number % 10 > 4)) < 1e-5, number
    assert story.segments > 3
    assert cache.now.key[-1] > moved[-1], "the arenas were to grow"
    assert len(updated) > 15


@needs_triton
@pytest.mark.parametrize("seed", [4, 5])
def test_the_kernels_on_random_graphs(seed):
    """The Triton kernels, at some of the steps of such a story: against the definition, to 1e-5."""
    cache = cache_of(programs=8)
    story = Story(cache, seed, rows=2, padding=1)
    story.add_prefix(3, 37)
    compared = Counter()
    for number in range(40):
        found = story.step(plain=number % 10 > 4)
        causal = cache.works[None].causal
        if number > 7 and compared[causal] < 2 and len(story.steps[-1].token) < 16:
            for layer, query in enumerate(story.queries):
                out = attend_pages(query, cache.inputs(layer), 0.25, torch.empty_like(query))
                assert gap([(out, found[layer][1])]) < 1e-5, number
            compared[causal] += 1
    assert compared == {True: 2, False: 2}


def watch_updates(cache: PagedCache) -> list[bool]:
    """Gets an element whenever a list is updated in place; what comes out is compared with a list made anew."""
    updated = []

    def watch(work: Work) -> None:
        advance = work.advance

        def watched(arena, step):
            done = advance(arena, step)
            if done:
                updated.append(True)
                anew = Work(Upload(cache.device), cache.tiling, work.window, work.name)
                anew.build(arena, step)
                assert readings(work, step.size) >= readings(anew, step.size)  # a window moves on: more is masked
                assert work.causal == anew.causal
                if work.window is None:
                    assert readings(work, step.size) == readings(anew, step.size)
            return done

        work.advance = watched

    for work in cache.works.values():
        watch(work)
    return updated


def readings(work: Work, size: int) -> set[tuple[int, int]]:
    """(token, entry) of every page that a token of the step reads, by way of the merge lists; each once."""
    items = [tuple(item) for item in work._table().tolist() if item[1]]
    item_of = {item[4] + i: (item, i) for item in items for i in range(item[1])}  # by partial
    start, merge = work.column("merge_start"), work.column("merge")
    entries, bits = work.column("entries"), work.column("bits")
    found = []
    for token in range(size):
        for partial in merge[start[token] : start[token + 1]].tolist():
            (first, _, begin, pages, _), i = item_of[partial]
            assert work.column("queries")[first + i] == token
            seen = (bits[begin : begin + pages] >> i & 1) > 0
            found += [(token, entry) for entry in entries[begin : begin + pages][seen].tolist()]
    assert len(found) == len(set(found))
    return set(found)
