"""Pages: who owns them, when they go back, what a step reads of them, and what stays where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.graphs import Story
from polythink.engine.paged.arena import PAGE, OutOfPages
from polythink.engine.paged.cache import PagedCache
from polythink.engine.step import StepBatch


def cache_of(**more) -> PagedCache:
    return PagedCache(2, 4, 2, 16, torch.float32, "cpu", **more)


def tokens(row: int, first: int, *segments: int) -> StepBatch:
    """Tokens of one row, at positions equal to their slots."""
    n = len(segments)
    return StepBatch.every([0] * n, segments, range(first, first + n), row, first)


def fork(cache: PagedCache, row: int, prompt: int, paths: int) -> int:
    """A trace that has run its prompt and opened paths 1 ..; returns its next slot."""
    cache.open(row, 0, ())
    cache.plan(tokens(row, 0, *[0] * prompt))
    for path in range(1, paths + 1):
        cache.open(row, path, [0])
    return prompt


def test_a_page_belongs_to_one_segment_and_goes_back():
    cache = cache_of()
    page = PAGE * cache.slot_bytes
    assert cache.slot_bytes == 2 * 2 * 2 * 16 * 4
    slot = fork(cache, 0, 17, 3)
    assert cache.used_bytes == 2 * page
    for step in range(20):  # a fork copies nothing; each path has pages of its own
        cache.plan(tokens(0, slot + 3 * step, 1, 2, 3))
        assert cache.used_bytes == (2 + 3 * (1 + step // PAGE)) * page
    cache.open(0, 4, [1, 2])
    cache.keep(0, [4])  # reads path 1 and 2; nobody reads path 3 any more
    assert cache.used_bytes == (2 + 2 * 2) * page
    cache.plan(tokens(0, 77, 4))
    cache.keep(0, ())
    assert cache.used_bytes == 0
    assert cache.peak_bytes == 8 * page
    allocated = cache.allocated_bytes
    for _ in range(5):  # the same pages serve again
        fork(cache, 0, 100, 0)
        cache.keep(0, ())
    assert cache.allocated_bytes == allocated


def test_a_row_opened_again_without_a_farewell_loses_its_pages():
    cache = cache_of()
    fork(cache, 0, 40, 2)
    fork(cache, 0, 10, 2)
    assert cache.used_bytes == PAGE * cache.slot_bytes


def test_a_prefix_with_readers_does_not_grow():
    cache = cache_of()
    fork(cache, 9, 64, 0)
    cache.attach(0, 9)
    with pytest.raises(AssertionError, match="complete"):
        cache.plan(tokens(9, 64, 0))


@pytest.mark.parametrize("first", ["prefix", "readers"])
def test_a_prefix_lives_as_long_as_its_readers(first):
    """Whatever is forgotten first; the pages are held once for all readers."""
    cache = cache_of()
    page = PAGE * cache.slot_bytes
    fork(cache, 9, 64, 0)
    for row in (0, 1):
        cache.attach(row, 9)
        fork(cache, row, 1, 0)
    assert cache.used_bytes == (4 + 2) * page
    if first == "prefix":
        cache.keep(9, ())
        with pytest.raises(AssertionError, match="still read"):
            cache.open(9, 0, ())
        cache.keep(0, ())
        assert cache.used_bytes == (4 + 1) * page
        cache.keep(1, ())
    else:
        cache.keep(0, ())
        cache.keep(1, ())
        assert cache.used_bytes == 4 * page
        cache.keep(9, ())
    assert cache.used_bytes == 0
    cache.open(9, 0, ())


def test_the_byte_budget_is_kept_and_a_refused_step_changes_nothing():
    page = PAGE * cache_of().slot_bytes
    cache = cache_of(memory_bytes=5 * page + 7)  # one page is the padding's
    slot = fork(cache, 0, 33, 1)
    cache.plan(tokens(0, slot, 1))
    assert cache.allocated_bytes == 5 * page
    cache.open(1, 0, ())
    with pytest.raises(OutOfPages, match=r"needs 1 more pages.*4 of 4 are in use.*kv_cache_memory_bytes"):
        cache.plan(tokens(1, 0, 0))
    assert cache.used_bytes == 4 * page
    cache.plan(tokens(0, slot + 1, 1))
    cache.keep(0, ())
    cache.plan(tokens(1, 0, *[0] * 64))
    assert cache.allocated_bytes == 5 * page


def test_bytes_for_bounds_what_a_row_takes():
    cache = cache_of()
    assert cache.bytes_for(0) == 0
    assert cache.bytes_for(1) == cache.bytes_for(16) == PAGE * cache.slot_bytes
    random = np.random.default_rng(0)
    for row in range(20):
        count, segments = int(random.integers(1, 200)), int(random.integers(1, 9))
        cache.open(row, 0, ())
        for segment in range(1, segments):
            cache.open(row, segment, [0])
        before = cache.used_bytes
        cache.plan(tokens(row, 0, *random.integers(0, segments, count)))
        assert cache.bytes_for(count) <= cache.used_bytes - before <= cache.bytes_for(count, segments)
    cache = cache_of()
    slot = fork(cache, 0, 17, 15)
    cache.plan(tokens(0, slot, *range(1, 16)))
    assert cache.used_bytes == cache.bytes_for(32, 16)


def test_what_is_shared_is_read_once():
    """8 paths of a trace; 8 samples with 2 paths each on one prompt: every key that is seen is read once a layer."""
    cache = cache_of()
    slot = fork(cache, 0, 100, 8)
    cache.plan(tokens(0, slot, *range(1, 9)))
    assert cache.read_bytes() == (108 * cache.slot_bytes, 108 * cache.slot_bytes)
    cache = cache_of()
    fork(cache, 20, 100, 0)
    steps = []
    for row in range(8):
        cache.attach(row, 20)
        slot = fork(cache, row, 1, 2)
        steps.append(tokens(row, slot, 1, 2))
    together = {name: np.concatenate([getattr(step, name) for step in steps]) for name in vars(steps[0])}
    cache.plan(StepBatch(**together))
    assert cache.read_bytes() == ((100 + 8 * 3) * cache.slot_bytes,) * 2


def test_pages_that_nobody_sees_are_not_read():
    """A path reads its own and the prompt's; not a sibling that has ended, and nothing that lies before a window."""
    cache = cache_of(windows=(None, 20))
    slot = fork(cache, 0, 100, 2)
    cache.plan(tokens(0, slot, 1, 2))
    assert cache.read_bytes()[0] == (102 + 4 + 16 + 2) * cache.slot_bytes // 2
    cache.plan(tokens(0, slot + 2, 1))
    assert cache.read_bytes()[0] == (102 + 4 + 16 + 2) * cache.slot_bytes // 2
    cache = cache_of()
    cache.open(0, 0, ())
    cache.plan(tokens(0, 0, *[0] * 200))  # a chunk: tiles read no pages of later tiles
    assert cache.read_bytes()[1] == 200 * cache.slot_bytes
    assert cache.read_bytes()[0] == (16 * sum(range(1, 13)) + 200) * cache.slot_bytes  # 13 tiles of up to 16 queries


def test_a_lone_trace_is_split_and_many_are_not():
    cache = cache_of(programs=64)  # 32 items for each of the 2 key heads, half of them for a lone tile
    slot = fork(cache, 0, 2000, 8)
    cache.plan(tokens(0, slot, *range(1, 9)))
    pages = cache.works[None]._table()[:, 3]
    assert 10 <= (pages > 0).sum() <= 16
    assert pages.max() == 12  # three blocks
    assert pages.sum() == 125 + 8
    cache = cache_of(programs=64)
    steps = []
    for row in range(40):
        steps.append(tokens(row, fork(cache, row, 100, 2), 1, 2))
    cache.plan(StepBatch(**{name: np.concatenate([getattr(s, name) for s in steps]) for name in vars(steps[0])}))
    assert (cache.works[None]._table()[:, 3] > 0).sum() == 40


def test_a_plan_with_the_same_key_has_the_same_addresses():
    """So that a CUDA graph may be replayed; and a plain step changes the key rarely."""
    cache = cache_of()
    slot = fork(cache, 0, 30, 4)
    places: dict = {}
    for step in range(200):
        plan = cache.plan(tokens(0, slot + 4 * step, 1, 2, 3, 4), size=8)
        inputs = cache.inputs(1)
        tensors = [plan.slot, plan.scale, plan.position, plan.stamp, *cache.keys, *cache.values]
        tensors += [x for x in vars(inputs).values() if isinstance(x, torch.Tensor)]
        assert inputs.stamps is None
        found = ([x.data_ptr() for x in tensors], [plan.slot.shape, inputs.launches])
        assert places.setdefault(plan.key, found) == found
    assert len(places) < 10


def test_padding_reads_nothing_and_is_zero():
    story = Story(cache_of(), 0, rows=1, padding=5)
    for _ in range(10):
        for out, expected in story.step():
            assert not out[-5:].any()
            assert not expected[-5:].any()
        assert (story.cache.now.slot[-5:] < PAGE).all()


def test_only_recent_tokens_can_be_taken_back():
    cache = cache_of()
    slot = fork(cache, 0, 16, 2)
    for step in range(3):
        cache.plan(tokens(0, slot + 2 * step, 1, 2))
    with pytest.raises(AssertionError, match="last two steps"):
        cache.rewind(0, slot)
    cache.rewind(0, slot + 2)
    cache.rewind(0, slot + 2)
    cache.plan(tokens(0, slot + 2, 2))
    assert cache.used_bytes == 3 * PAGE * cache.slot_bytes
