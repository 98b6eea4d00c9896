"""The backend of llama.cpp, over a stand-in for its memory; and itself, where it is installed.

That it draws what the slow twin draws is in test_random_traces.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers.llama_memory import Cell, StandIn, StandInCells
from helpers.tiny import drawn, requests, tiny
from polythink.engine.backends import llama_cpp
from polythink.engine.backends.llama_cpp import LlamaCppBackend
from polythink.engine.chain_check import SelfCheckFailed
from polythink.engine.engine import Engine
from polythink.engine.llama import native
from polythink.engine.llama.check import check, llama_backend
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load_vocabulary
from polythink.models.to_gguf import write_lm

PARAMS = SamplingParams(paths=3, fork_at=1, max_main_tokens=6, max_path_tokens=8, max_summary_tokens=5, max_blocks=2)

SEEN_BY = StandInCells.seen_by


def engine_of(lm, **limits) -> Engine:
    return Engine(lm, backend=LlamaCppBackend(lm, StandIn(lm)), **limits)


def all_drawn(rollouts) -> list:
    return [drawn(rollout) for rollout in rollouts]


def test_it_passes_the_check_and_measures_itself():
    lm = tiny()
    backend = LlamaCppBackend(lm, StandIn(lm))
    check(backend)
    assert backend.logprob_error < 1e-5


def test_what_a_refused_response_lacks_is_said_of_what_can_be_used():
    """Memory is used in whole blocks of cells: 300 cells are one of 256."""
    lm = tiny()
    engine = engine_of(lm, kv_cache_memory_bytes=300 * engine_of(lm).backend.slot_bytes)
    with pytest.raises(UserError, match=r"takes \d+ bytes .*, \d+ more than can be used of kv_cache_memory_bytes"):
        engine.add(Request((3,)), SamplingParams(mode="sequential", max_trace_tokens=270))


def leaks(cells: StandInCells, cell: Cell) -> list[Cell]:
    """Siblings are read too."""
    return [other for other in cells.all if other.position <= cell.position]


def joins_one(cells: StandInCells, cell: Cell) -> list[Cell]:
    """Of several cells at one position the first alone is read."""
    return list({other.position: other for other in reversed(SEEN_BY(cells, cell))}.values())


def joins_none(cells: StandInCells, cell: Cell) -> list[Cell]:
    """What other sequences have written after the prompt is not read."""
    return [other for other in SEEN_BY(cells, cell) if other.origin == cell.origin or other.position < 3]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [(leaks, "same path alone|sibling"), (joins_one, "either order"), (joins_none, "a join of one path")],
)
def test_a_wrong_memory_fails_the_check(wrong, why, monkeypatch):
    monkeypatch.setattr(StandInCells, "seen_by", wrong)
    lm = tiny()
    with pytest.raises(SelfCheckFailed, match=why):
        check(LlamaCppBackend(lm, StandIn(lm)))


def test_the_memory_grows_and_is_given_back(monkeypatch):
    monkeypatch.setattr(llama_cpp, "FIRST_CELLS", 256)
    lm = tiny()
    engine = engine_of(lm)
    wanted = [Request(tuple(lm.encode("a b c a b c a b c a b c")) * 3, f"p{i}") for i in range(8)]
    found = engine.generate(wanted, PARAMS)
    sizes = [cells.size for cells in engine.backend.source.made]
    assert len(sizes) > 1
    assert set(sizes) == {0}  # all of them closed
    assert all_drawn(found) == all_drawn(Engine(lm).generate(wanted, PARAMS))


def test_requests_wait_for_sequences():
    lm = tiny()
    engine = engine_of(lm)
    engine.backend.most_sequences = engine._steps.most_sequences = 20
    wanted = requests(lm, 6)
    found = engine.generate(wanted, PARAMS)
    assert engine.backend.source.peak <= 20
    assert all_drawn(found) == all_drawn(Engine(lm).generate(wanted, PARAMS))
    with pytest.raises(UserError, match=r"needs up to 21 sequences at a time, and the backend has 20; lower paths"):
        engine.generate(wanted[:1], PARAMS.model_copy(update={"paths": 16}))


@pytest.mark.parametrize("before", [0, 2])
def test_requests_that_need_all_sequences_share_no_prompt(before):
    """Nor wait for ever; also not for a prompt that is kept for them after narrower ones have read it."""
    lm = tiny()
    engine = engine_of(lm)
    engine.backend.most_sequences = engine._steps.most_sequences = 20
    prompt, wide = tuple(lm.encode("a b c")) * 6, PARAMS.model_copy(update={"paths": 15})
    for sample in range(before):
        engine.add(Request(prompt, "p", sample), PARAMS)
    ids = [engine.add(Request(prompt, "p", sample), wide) for sample in (5, 6)]
    found, steps = {}, 0
    while engine.unfinished:
        found |= {event.request: event.rollout for event in engine.step() if event.kind == "done"}
        steps += 1
        assert steps < 500, "it waits for ever"
    assert engine.backend.source.peak <= 20
    alone = Engine(lm).generate([Request(prompt, "p", sample) for sample in (5, 6)], wide)
    assert all_drawn(found[id] for id in ids) == all_drawn(alone)


def test_a_budget_of_bytes_preempts_and_draws_the_same():
    lm = tiny()
    engine = engine_of(lm, kv_cache_memory_bytes=256 * 64)  # 256 cells of the stand-in
    prompt = tuple(lm.encode("a b c a b c a b c a b c")) * 3
    wanted = [Request(prompt[i:], f"p{i}") for i in range(9)]
    params = PARAMS.model_copy(update={"max_trace_tokens": 60, "max_main_tokens": 20})
    found = engine.generate(wanted, params)
    assert engine.preempted
    assert max(cells.size for cells in engine.backend.source.made) <= 256
    assert all_drawn(found) == all_drawn(Engine(lm).generate(wanted, params))


def test_a_shared_prompt_is_read_once():
    lm = tiny()
    engine = engine_of(lm)
    prompt = tuple(lm.encode("a b c a b c a b c a b c")) * 2
    wanted = [Request(prompt, "p", i) for i in range(4)]
    found = engine.generate(wanted, PARAMS)
    assert engine.forwarded < sum(rollout.tokens for rollout in found) + 2 * len(prompt)
    assert all_drawn(found) == all_drawn(Engine(lm).generate(wanted, PARAMS))


def test_what_it_cannot_draw_is_refused_before_anything_is_sampled():
    lm = tiny()
    engine, one = engine_of(lm), requests(lm, 1)
    with pytest.raises(UserError, match=r"path_position_stride=auto: llama\.cpp takes consecutive positions alone"):
        engine.generate(one, SamplingParams(path_position_stride="auto"))
    with pytest.raises(UserError, match=r"llama\.cpp cannot scale attention .* length_scaling_above: 0"):
        engine.generate(one, SamplingParams(paths=3, length_scaling_above=2))
    with pytest.raises(UserError, match=r"runs a \.gguf file"):
        Engine(lm, backend="llama_cpp")
    vocabulary = SimpleNamespace(model=SimpleNamespace())
    with pytest.raises(UserError, match="needs the weights in this process"):
        Engine(vocabulary, backend="lean")


def test_without_llama_cpp_the_backend_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    native.library.cache_clear()
    with pytest.raises(UserError, match="pip install llama-cpp-python"):
        native.Weights(tmp_path / "model.gguf")
    native.library.cache_clear()


# ---- llama.cpp itself ----


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    for package in ("llama_cpp", "gguf"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install llama-cpp-python gguf")
    file = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_lm(tiny(), file)
    return file


def test_a_file_draws_what_the_model_draws(file):
    lm, vocabulary = tiny(), load_vocabulary(file)
    engine, wanted = Engine(vocabulary, backend="llama_cpp"), requests(lm, 8)
    assert engine.backend.logprob_error < 1e-5
    found = engine.generate(wanted, PARAMS)
    assert all_drawn(found) == all_drawn(Engine(lm).generate(wanted, PARAMS))
    fast = Engine(vocabulary, backend="llama_cpp_fast")
    assert 1e-8 < fast.backend.logprob_error < 1e-2
    assert fast.backend.slot_bytes < engine.backend.slot_bytes
    assert len(fast.generate(wanted, PARAMS)) == len(wanted)


def test_memory_grows_in_llama_cpp(file, monkeypatch):
    monkeypatch.setattr(llama_cpp, "FIRST_CELLS", 256)
    lm, vocabulary = tiny(), load_vocabulary(file)
    wanted = [Request(tuple(lm.encode("a b c a b c a b c a b c")) * 3, f"p{i}") for i in range(8)]
    engine, sizes = Engine(vocabulary, backend="llama_cpp"), []
    grown = native.Context.grown
    monkeypatch.setattr(native.Context, "grown", lambda self, size: sizes.append(size) or grown(self, size))
    assert all_drawn(engine.generate(wanted, PARAMS)) == all_drawn(Engine(lm).generate(wanted, PARAMS))
    assert sizes


def test_prompts_are_scored_in_llama_cpp(file):
    lm, vocabulary = tiny(), load_vocabulary(file)
    ids, found = lm.encode("a b c c a b b a"), []
    for engine in (Engine(vocabulary, backend="llama_cpp", prefill_chunk=3), Engine(lm)):
        scoring = engine.scoring(ids, top=2)
        while not engine.score(scoring):
            pass
        found.append(scoring.scores)
    assert found[0].logprobs == pytest.approx(found[1].logprobs, abs=1e-4)
    assert found[0].ranks == found[1].ranks


def test_quantised_weights_pass_the_check(file, tmp_path):
    target = tmp_path / "q8.gguf"
    native.quantise(file, target, "q8_0")
    engine = Engine(load_vocabulary(target), backend="llama_cpp")
    assert not engine.backend.source.float32
    assert "Q8_0" in engine.backend.ran()["dtype"]
    assert len(engine.generate(requests(tiny(), 4), PARAMS)) == 4
    with pytest.raises(UserError, match=r"llama\.cpp writes no type 'q9_0'; did you mean"):
        native.quantise(file, target, "q9_0")


def test_files_that_it_cannot_run_are_refused(file, tmp_path):
    whole, part = file.read_bytes(), tmp_path / "part.gguf"
    part.write_bytes(whole[: len(whole) // 2])
    vocabulary = load_vocabulary(file)
    other = replace(vocabulary)
    other.model = SimpleNamespace(**{**vars(vocabulary.model), "gguf_file": part})
    with pytest.raises(UserError, match=r"llama\.cpp cannot load .*part\.gguf': it is damaged"):
        llama_backend(other)
