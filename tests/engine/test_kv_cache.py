"""The cache: what a step may write, what an attention may read, and what growth and earlier traces leave behind.

Rung 7 of the parity ladder, and those silent errors of a cache that end in wrong tokens and not in an exception.
"""

from __future__ import annotations

import pytest
import torch

from helpers.device import DEVICE
from helpers.sweep import sweep
from helpers.tiny import drawn, requests, tiny
from polythink.engine import kv_cache
from polythink.engine.engine import Engine
from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.params import Request, SamplingParams

BLOCKS = SamplingParams(paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6,
                  max_trace_tokens=110)  # fmt: skip


def watch(engine: Engine, look) -> None:
    """Call `look(cache, batch, keys before, keys after)` at every step; keys are layer 0's, by place (C, H, D)."""
    logits = engine.backend.logits

    def keys(cache: TreeKVCache) -> torch.Tensor:
        layer = cache.layers[0]
        return layer.keys.clone() if layer.is_initialized else torch.zeros(0, 1, 32, device=DEVICE)

    def watched(batch):
        before = keys(engine.backend.cache)
        found = logits(batch)
        look(engine.backend.cache, batch, before, keys(engine.backend.cache))
        return found

    engine.backend.logits = watched


@pytest.fixture(params=["reserved", "blocks"])
def memory(request, monkeypatch):
    """Rows at fixed places in reserved memory, and rows that move when they grow, as elsewhere than on a CPU."""
    if request.param == "blocks":
        monkeypatch.setattr(kv_cache, "can_reserve", lambda device: False)
    return request.param


@pytest.mark.parametrize("backend", sweep(["lean", "flat", "padded"], ["lean", "padded"]))
def test_a_step_writes_the_slots_of_its_tokens_and_no_other(backend):
    """Padding written over a live slot would be several nats wrong; what was never written is zero, not garbage."""
    lm = tiny()
    engine = Engine(lm, max_num_seqs=4, backend=backend)
    most: dict[int, int] = {}

    def look(cache, batch, before, after):
        start = cache.place[0, batch.row]
        written = dict(zip((start + batch.slot).tolist(), batch.token.tolist(), strict=True))
        change = after.clone()
        change[: len(before)] -= before  # the cache may have grown
        assert {place for (place,) in change.abs().sum((1, 2)).nonzero().tolist()} <= written.keys()
        assert all(after[place].any() or token == lm.pad for place, token in written.items())  # its embedding is zero
        most.update({row: max(most.get(row, 0), end) for row, end in cache.lengths.items()})
        for row in cache.lengths:
            first = int(cache.place[0, row])
            assert not after[first + most[row] : first + cache.stride].any()

    watch(engine, look)
    rollouts = engine.generate(requests(lm, 4), BLOCKS, seed=3)
    assert len({s.block for r in rollouts for s in r.segments}) > 2
    assert max(most.values()) >= kv_cache.FIRST_SLOTS


def test_one_slot_a_token():
    """Peak slots of a row = prompt + response (the last token of a trace is never run): forks add none."""
    lm = tiny()
    engine = Engine(lm, max_num_seqs=1)
    used = []
    watch(engine, lambda cache, batch, before, after: used.extend(batch.slot.tolist()))
    (rollout,) = engine.generate([Request(tuple(lm.encode("a b")), "p0", 1)], BLOCKS, seed=3)
    assert any(s.kind == "summary" for s in rollout.segments)
    assert used == list(range(len(rollout.prompt) + rollout.tokens - 1))
    assert engine.backend.cache.rows == 0  # all freed at the end


@pytest.mark.slow
@pytest.mark.parametrize("backend", sweep(["lean", "flat", "padded"], ["lean", "padded"]))
def test_no_uninitialised_memory_is_read(backend):
    """A masked NaN is still NaN (0 x NaN): here every `torch.empty` is filled with NaN."""
    lm = tiny()
    plain = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 3), BLOCKS, seed=3)
    torch.use_deterministic_algorithms(True, warn_only=DEVICE.type != "cpu")
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        filled = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 3), BLOCKS, seed=3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [drawn(r) for r in filled] == [drawn(r) for r in plain]


@pytest.mark.slow
@pytest.mark.parametrize("backend", sweep(["lean", "flat", "padded"], ["lean", "padded"]))
def test_growth_in_the_middle_of_a_run_changes_nothing(backend, monkeypatch):
    """Blocks double, move, and are moved out of the way of others."""
    lm = tiny()
    plain = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 5), BLOCKS, seed=3)
    moved = []
    copy = TreeKVCache._copy
    monkeypatch.setattr(kv_cache, "can_reserve", lambda device: False)
    monkeypatch.setattr(TreeKVCache, "_copy", lambda self, moves: moved.extend(moves) or copy(self, moves))
    monkeypatch.setattr(kv_cache, "FIRST_SLOTS", 1)
    for memory in (None, 3 * 128 * 512):
        again = Engine(lm, max_num_seqs=3, backend=backend, kv_cache_memory_bytes=memory)
        assert [drawn(r) for r in again.generate(requests(lm, 5), BLOCKS, seed=3)] == [drawn(r) for r in plain]
        assert len(moved) > 5
        moved.clear()


def test_the_table_is_the_closure_of_what_follows_what_and_forgets_earlier_traces():
    table = TreeKVCache(layers=1, device=torch.device("cpu"))
    tree = [(), (0,), (1,), (1,), (2, 3), (4,), *((5,),) * 6, (6, 7, 8, 9, 10, 11), (12,)]  # more than eight segments
    for segment, follows in enumerate(tree):
        table.open(1, segment, follows)
    sees = [set(row.nonzero()[0]) for row in table.sees[1]]
    assert sees[4] == {0, 1, 2, 3, 4}
    assert sees[6] == {0, 1, 2, 3, 4, 5, 6}
    assert sees[13] == set(range(14))
    assert not table.sees[0].any()
    for segment, follows in enumerate([(), (0,), (0,), (1, 2)]):
        table.open(1, segment, follows)
    assert [set(row.nonzero()[0]) for row in table.sees[1, :4]] == [{0}, {0, 1}, {0, 2}, {0, 1, 2, 3}]


def test_rows_hold_memory_as_they_need_it_and_give_it_back(memory):
    lm = tiny()
    engine = Engine(lm, max_num_seqs=5)
    wanted = requests(lm, 6)
    engine.add(wanted[0], BLOCKS)
    engine.step()
    cache = engine.backend.cache
    assert cache.rows == 1
    for request in wanted[1:]:
        engine.add(request, BLOCKS)
    engine.step()
    assert engine.backend.cache is cache
    assert 1 < cache.rows == len(engine.scheduler.live) <= 5  # the sixth request waits
    while engine.unfinished:
        assert max(cache.lengths.values()) <= max(len(r.prompt) for r in wanted) + BLOCKS.max_trace_tokens
        assert (memory == "reserved") == (not cache.buddies.held)
        engine.step()
    assert engine.backend.cache.rows == 0
    assert not engine.backend.cache.layers[0].is_initialized
