"""The arena: what a step may write, what an attention may read, and what growth and earlier traces leave behind.

Rung 7 of the parity ladder, and those silent errors of a cache that end in wrong tokens and not in an exception.
"""

from __future__ import annotations

import pytest
import torch

from helpers.tiny import drawn, requests, tiny
from polythink.engine import Engine, Request, SamplingParams, kv_cache
from polythink.engine.kv_cache import TreeKVCache

BLOCKS = SamplingParams(paths=3, max_blocks=3, max_main_tokens=16, max_path_tokens=9, max_summary_tokens=6,
                  max_trace_tokens=110)  # fmt: skip


def watch(engine: Engine, look) -> None:
    """Call `look(arena, feeds, rows, keys before, keys after)` at every step; keys are layer 0's, (R, C, H, D)."""
    run = engine.backend.run

    def keys(arena: TreeKVCache) -> torch.Tensor:
        layer = arena.layers[0]
        shape = (arena.rows, arena.capacity, 1, 32)
        return layer.keys.transpose(1, 2).clone() if layer.is_initialized else torch.zeros(shape)

    def watched(feeds, rows, wanted):
        before = keys(engine.backend.arena)
        logits = run(feeds, rows, wanted)
        look(engine.backend.arena, feeds, rows, before, keys(engine.backend.arena))
        return logits

    engine.backend.run = watched


@pytest.mark.parametrize("backend", ["flat", "padded"])
def test_a_step_writes_the_slots_of_its_feeds_and_no_other(backend):
    """Padding written over a live slot would be several nats wrong; what was never written is zero, not garbage."""
    lm = tiny()
    engine = Engine(lm, max_num_seqs=4, backend=backend)
    most: dict[int, int] = {}

    def look(arena, feeds, rows, before, after):
        fed = {(row, feed.slot): feed.token for row, feed in zip(rows, feeds, strict=True)}
        change = after.clone()
        change[:, : before.shape[1]] -= before  # the arena may have grown
        assert {tuple(place) for place in change.abs().sum((2, 3)).nonzero().tolist()} <= fed.keys()
        assert all(after[place].any() or token == lm.pad for place, token in fed.items())  # its embedding is zero
        most.update({row: max(most.get(row, 0), feed.slot) for row, feed in zip(rows, feeds, strict=True)})
        for row in range(4):
            assert not after[row, most.get(row, -1) + 1 :].any()

    watch(engine, look)
    rollouts = engine.generate(requests(lm, 8), BLOCKS, seed=3)
    assert len({s.block for r in rollouts for s in r.segments}) > 2
    assert max(most.values()) >= kv_cache.FIRST_SLOTS  # it did grow on the way


def test_one_slot_a_token():
    """Peak slots of a row = prompt + response (the last token of a trace is drawn and never fed): forks add none."""
    lm = tiny()
    engine = Engine(lm, max_num_seqs=1)
    fed = []
    watch(engine, lambda arena, feeds, rows, before, after: fed.extend(feed.slot for feed in feeds))
    (rollout,) = engine.generate([Request(tuple(lm.encode("a b")), "p0", 1)], BLOCKS, seed=3)
    assert any(s.kind == "summary" for s in rollout.segments)
    assert fed == list(range(len(rollout.prompt) + rollout.tokens - 1))
    assert engine.backend.arena is None  # all returned at the end


@pytest.mark.parametrize("backend", ["flat", "padded"])
def test_no_uninitialised_memory_is_read(backend):
    """A masked NaN is still NaN (0 x NaN): here every `torch.empty` is filled with NaN."""
    lm = tiny()
    plain = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 8), BLOCKS, seed=3)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        filled = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 8), BLOCKS, seed=3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [drawn(r) for r in filled] == [drawn(r) for r in plain]


@pytest.mark.parametrize("backend", ["flat", "padded"])
def test_growth_in_the_middle_of_a_run_changes_nothing(backend, monkeypatch):
    lm = tiny()
    plain = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 8), BLOCKS, seed=3)
    grown = []
    grow = TreeKVCache._grow
    monkeypatch.setattr(TreeKVCache, "_grow", lambda self, longest: (grown.append(longest), grow(self, longest)))
    monkeypatch.setattr(kv_cache, "FIRST_SLOTS", 1)
    again = Engine(lm, max_num_seqs=3, backend=backend).generate(requests(lm, 8), BLOCKS, seed=3)
    assert len(grown) > 5
    assert [drawn(r) for r in again] == [drawn(r) for r in plain]


def test_the_table_is_the_closure_of_what_follows_what_and_forgets_earlier_traces():
    table = TreeKVCache(layers=1, rows=2, device=torch.device("cpu"))
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
