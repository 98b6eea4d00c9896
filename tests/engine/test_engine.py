"""Parity ladder, rungs 3, 5 and 6: the engine against one masked forward, its slow twin, and an analytic count."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest

from helpers.device import FAST
from helpers.sweep import sweep
from helpers.tiny import drawn, family, gaps, lean_towards, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError
from polythink.models.lm import checkpoint_activations
from polythink.trace import check
from polythink.trace.dialect import PARALLEL_R1

# Float32 throughout. Log-probabilities agree to 1e-5 in practice; the promise is 1e-4.
TOLERANCE = 1e-4

BUDGETS = {"max_main_tokens": 16, "max_path_tokens": 9, "max_summary_tokens": 6, "max_trace_tokens": 110}
SETTINGS = [
    SamplingParams(mode=mode, paths=paths, max_blocks=3, **BUDGETS)
    for mode in ("structured", "sequential")
    for paths in (1, 2, 3, 8)
]


def label(decoding: SamplingParams) -> str:
    return f"{decoding.mode}-{decoding.paths}"


@pytest.mark.slow
@pytest.mark.parametrize("decoding", sweep(SETTINGS, [*SETTINGS[1:4], SETTINGS[6]]), ids=label)
def test_logprobs_equal_one_masked_forward(decoding):
    lm = tiny()
    rollouts = Engine(lm, max_num_seqs=5).generate(requests(lm, 9), decoding, seed=3)
    found = gaps(lm, rollouts)
    assert len(found) > 100
    assert max(found) < TOLERANCE
    stops = {s.finish_reason for r in rollouts for s in r.segments}
    assert {"fork", "length"} <= stops, stops
    if decoding.mode == "structured":
        assert {s.path for r in rollouts for s in r.segments} >= {0, 1, decoding.paths}


@pytest.mark.slow
def test_a_branch_does_not_depend_on_its_batch_mates():
    """Same tokens alone, in any number of rows, in any order, with any backend.

    Batch mates change the shape of the matrix products: log-probabilities agree to rounding, and no more is promised.
    """
    lm = tiny()
    decoding, wanted = SETTINGS[2], requests(lm, 4)
    base = Engine(lm, max_num_seqs=4).generate(wanted, decoding, seed=3)
    for rows, backend in ((1, "lean"), (3, "flat"), (2, "padded")):
        other = Engine(lm, max_num_seqs=rows, backend=backend).generate(wanted, decoding, seed=3)
        assert [drawn(r) for r in other] == [drawn(r) for r in base], (rows, backend)
        a, b = ([x for r in rs for s in r.segments for x in s.logprobs] for rs in (base, other))
        assert a == pytest.approx(b, abs=1e-5)
    order = [2, 0, 3]
    shuffled = Engine(lm, max_num_seqs=2).generate([wanted[i] for i in order], decoding, seed=3)
    assert [drawn(r) for r in shuffled] == [drawn(base[i]) for i in order]


@pytest.mark.slow
@pytest.mark.parametrize("backend", sweep(["lean", "flat", "padded"], ["lean", "padded"]))
def test_chunks_and_models_without_logits_to_keep_change_nothing(backend):
    lm = tiny()
    wanted = [Request(tuple(lm.encode("a b c c a b " * n)), "long", n) for n in (5, 1, 3)]
    decoding = SETTINGS[1].model_copy(update={"max_trace_tokens": 50})
    whole = Engine(lm, max_num_seqs=2, backend=backend).generate(wanted, decoding, seed=0)
    chunked = Engine(lm, max_num_seqs=2, backend=backend, prefill_chunk=4)
    assert [drawn(r) for r in chunked.generate(wanted, decoding, seed=0)] == [drawn(r) for r in whole]
    chunked.backend._keeps_logits = False
    assert [drawn(r) for r in chunked.generate(wanted, decoding, seed=0)] == [drawn(r) for r in whole]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["flat", "padded"])
def test_nothing_is_computed_twice(backend):
    """Tokens run through the model = prompt + paths + summaries + main, each once; the last of each trace never."""
    lm = tiny()
    engine = Engine(lm, max_num_seqs=4, backend=backend)
    counted = []
    embedding = lm.model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, args, out: counted.append(args[0].numel()))
    decoding = SETTINGS[2].model_copy(update={"max_trace_tokens": 1000})  # no trace ends after a summary
    rollouts = engine.generate(requests(lm, 6), decoding, seed=3)
    assert any(s.kind == "summary" for r in rollouts for s in r.segments)
    assert engine.forwarded == sum(len(r.prompt) + r.tokens - 1 for r in rollouts)
    if backend != "padded":
        assert sum(counted) == engine.forwarded  # no padding in the linear layers


def test_greedy_paths_are_sampled():
    """Isolated paths without numbers would be copies of each other under greedy decoding."""
    decoding = SETTINGS[2].model_copy(update={"temperature": 0.0})
    assert decoding.temperature_of("path") == 1.0
    assert decoding.temperature_of("summary") == 0.0
    assert decoding.model_copy(update={"paths": 1}).temperature_of("path") == 0.0
    lm = lean_towards(tiny(seed=2), {"<Parallel>": 0.5})
    frozen = decoding.model_copy(update={"path_temperature": 0.0})
    for settings, copies in ((frozen, True), (decoding, False)):
        rollouts = Engine(lm).generate(requests(lm, 12), settings, seed=0)
        blocks = [
            [tuple(s.tokens[:9]) for s in r.segments if s.kind == "path" and s.block == 0]
            for r in rollouts
            if any(s.kind == "path" and s.finish_reason != "trace_length" for s in r.segments)
        ]
        assert blocks
        assert all(len(set(b)) == 1 for b in blocks) == copies


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["structured", "sequential"])
def test_budgets_hold_at_every_boundary(mode):
    """Every budget of the trace, from one token up, is kept, each segment keeps its own, and the twin agrees."""
    tags = {"<Parallel>": 2.0, "<Path>": 2.0, "</Parallel>": 1.5, "</Path>": 1.0, "</Summary>": 1.0}
    lm = lean_towards(tiny(), tags)
    most = {"main": 3, "path": 2, "summary": 1}
    budgets = {f"max_{kind}_tokens": tokens for kind, tokens in most.items()}
    engine, stops = Engine(lm, max_num_seqs=4), set()
    for total in (*range(1, 14), 16, 19, 20, 24, 25):
        decoding = SamplingParams(mode=mode, paths=2, max_blocks=total % 2 + 1, max_trace_tokens=total, **budgets)
        rollouts = engine.generate(requests(lm, 4), decoding, seed=total)
        if total < 9 or total % 4 == 0:
            twin = reference_generate(lm, requests(lm, 4), decoding, seed=total)
            assert [drawn(r) for r in rollouts] == [drawn(r) for r in twin], total
        for rollout in rollouts:
            assert rollout.tokens <= total
            assert (rollout.finish_reason == "eos") == (rollout.segments[-1].tokens[-1:] == [lm.eos])
            for s in rollout.segments:
                stops.add((s.kind, s.finish_reason))
                if mode == "structured":
                    assert sum(s.sampled) <= most[s.kind]
                    assert s.kind == "main" or s.text.endswith(("</Path>", "</Summary>"))  # a cut is closed by force
                    assert s.kind == "main" or s.sampled[-1] == (s.finish_reason == "tag")
    assert {stop for kind, stop in stops if kind == "main"} == {"fork", "max_blocks", "length", "trace_length", "eos"}
    assert {stop for kind, stop in stops if kind == "path"} >= {"tag", "length", "trace_length"}
    assert {stop for kind, stop in stops if kind == "summary"} >= {"length"}


def test_cut_traces_stay_well_formed():
    """Budgets alone never break a block: whatever was opened is closed and joined."""
    others = {tag: -9.0 for tag in PARALLEL_R1.tags if tag != "<Parallel>"}
    lm = lean_towards(tiny(), others)
    decoding = SETTINGS[1].model_copy(update={"max_trace_tokens": 60})
    rollouts = Engine(lm).generate(requests(lm, 100), decoding, seed=9)
    tags = set(lm.tag_ids.values())

    def drew_a_tag_within(segment) -> bool:
        inside = zip(segment.tokens[:-1], segment.sampled[:-1], strict=True)
        return any(drawn and token in tags for token, drawn in inside)

    clean = [
        r for r in rollouts if r.finish_reason in ("length", "eos") and not any(map(drew_a_tag_within, r.segments))
    ]
    with_blocks = [r for r in clean if any(s.kind == "path" for s in r.segments)]
    assert with_blocks
    assert all(check(r.text, "strict").valid for r in with_blocks)


def test_events_tell_the_whole_story():
    lm = tiny()
    events = []
    rollouts = Engine(lm, max_num_seqs=3).generate(requests(lm, 12), SETTINGS[2], seed=3, on_event=events.append)
    for i, rollout in enumerate(rollouts):
        mine = [e for e in events if e.request == i]
        assert [e.kind for e in mine].count("done") == 1
        assert mine[-1].kind == "done"
        blocks = len({s.block for s in rollout.segments} - {-1})
        assert [e.kind for e in mine].count("join") == blocks
        assert [e.kind for e in mine].count("fork") == 3 * blocks
        assert [e.kind for e in mine].count("cut") == rollout.truncated
        for n, segment in enumerate(rollout.segments, start=1):
            told = [(e.token, not e.forced) for e in mine if e.kind == "token" and e.segment == n]
            assert told == list(zip(segment.tokens, segment.sampled, strict=True))


def test_with_done_only_the_same_is_drawn_and_only_ends_are_told():
    lm = tiny()
    told, ends = [], []
    all_told = Engine(lm, max_num_seqs=3).generate(requests(lm, 12), SETTINGS[2], seed=3, on_event=told.append)
    quick = Engine(lm, max_num_seqs=3)
    rollouts = quick.generate(requests(lm, 12), SETTINGS[2], seed=3, on_event=ends.append, done_only=True)
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in all_told]
    assert {e.kind for e in ends} == {"done"}
    assert sorted(e.request for e in ends) == list(range(12))
    assert all(e.rollout is rollouts[e.request] for e in ends)
    assert len(told) > len(ends)


def test_other_seeds_and_samples_differ():
    lm = tiny()
    wanted = [Request(tuple(lm.encode("a b")), "p", i) for i in range(6)]
    first, second = (Engine(lm).generate(wanted, SETTINGS[0], seed=s) for s in (0, 1))
    assert len({r.text for r in first}) == 6
    assert [r.text for r in first] != [r.text for r in second]


def test_prompts_without_room_are_refused():
    lm = tiny(max_position_embeddings=32)
    with pytest.raises(UserError, match="prompt has 40 tokens and the model's context holds 32"):
        Engine(lm).generate([Request(tuple(lm.encode("a " * 40)))], SETTINGS[0])
    with pytest.raises(UserError, match="at least one token"):
        Engine(lm).generate([Request(())], SETTINGS[0])
    with pytest.raises(UserError, match="max_num_seqs=0"):
        Engine(lm, max_num_seqs=0)
    assert Engine(lm).generate([], SETTINGS[0]) == []


def test_training_mode_and_weights_are_left_as_they_were():
    """A trainer shares its model with the engine: with checkpointing on, training mode would drop the cache."""
    lm = tiny()
    checkpoint_activations(lm.model)
    lm.model.train()
    engine = Engine(lm)

    def interrupt(event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests(lm, 6), SETTINGS[1], seed=3, on_event=interrupt)
    for _ in range(2):
        assert lm.model.training
        assert lm.model.config._attn_implementation == "sdpa"
        rollouts = engine.generate(requests(lm, 6), SETTINGS[1], seed=3)
    lm.model.eval()
    assert max(gaps(lm, rollouts)) < TOLERANCE


def test_engines_in_several_threads_take_turns():
    """They share one model, whose attention a step exchanges: at the same time both would be wrong."""
    lm = tiny()
    wanted, decoding = requests(lm, 2), SETTINGS[1].model_copy(update={"max_trace_tokens": 30})
    flat, padded = Engine(lm, max_num_seqs=1), Engine(lm, max_num_seqs=2, backend="padded")
    engines = [flat, padded, flat]
    alone = [[drawn(r) for r in e.generate(wanted, decoding, seed=i)] for i, e in enumerate(engines)]
    found: dict[int, list] = {}

    def work(i: int) -> None:
        found[i] = [drawn(r) for r in engines[i].generate(wanted, decoding, seed=i)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(3)] == alone
    assert lm.model.config._attn_implementation == "sdpa"


def test_an_engine_may_be_asked_from_its_own_events():
    lm = tiny()
    engine = Engine(lm, max_num_seqs=2)
    wanted = requests(lm, 2)
    alone = [drawn(r) for r in engine.generate(wanted, SETTINGS[1], seed=3)]
    inner = []

    def ask(event) -> None:
        if event.kind == "done":
            inner.append([drawn(r) for r in engine.generate(wanted, SETTINGS[1], seed=3)])

    outer = [drawn(r) for r in engine.generate(wanted, SETTINGS[1], seed=3, on_event=ask)]
    assert outer == alone
    assert inner == [alone, alone]


def test_half_precision_stays_close():
    lm = tiny(dtype="bfloat16")
    found = gaps(lm, Engine(lm, max_num_seqs=4).generate(requests(lm, 8), SETTINGS[1], seed=3))
    assert sum(found) / len(found) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type",
    sweep(
        ["llama", "qwen2", "mistral", "gemma3_text", "gpt2", "stablelm", "gemma2"],
        ["mistral", "gpt2", "stablelm", "gemma2"],  # the lean ones: tests/engine/test_lean.py
    ),
)
def test_other_families(model_type):
    """Among them a sliding window that our mask must contain, positions that are learned, and a soft cap (eager)."""
    changes = {
        "mistral": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6, "head_dim": 8},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4}, "gemma2": {"sliding_window": 6, "head_dim": 8},
    }.get(model_type, {})  # fmt: skip
    lm = family(model_type, **changes)
    kind = {"gpt2": "flat", "stablelm": "flat", "gemma2": "padded"}.get(model_type, FAST)
    with pytest.warns(UserWarning, match="decodes slowly here") if kind == "padded" else nullcontext():
        auto = Engine(lm, max_num_seqs=4)
    assert auto.backend.kind == kind
    padded = Engine(lm, max_num_seqs=3, backend="padded")
    wanted, decoding = requests(lm, 3), SETTINGS[1].model_copy(update={"max_trace_tokens": 60})
    fast, other = (e.generate(wanted, decoding, seed=3) for e in (auto, padded))
    assert [drawn(r) for r in fast] == [drawn(r) for r in other]
