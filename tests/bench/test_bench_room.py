"""The pieces of the benchmark: cases, floors, the model that samples no tag, profiles, peers on the same weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polythink.bench import decode, llama, machine, ours, profile, served, timing
from polythink.bench.cases import branches, parse_case, parse_cases
from polythink.bench.floor import Machine, Sizes, kept_bytes, step_bytes, step_floor, step_flops
from polythink.bench.model import open_subject, sizes_of
from polythink.bench.options import PEERS, parse_names
from polythink.bench.shapes import SHAPES
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError

SIZES = Sizes(weights=1000, bytes_per_weight=4, kv_bytes=16, attention_flops=8)


@pytest.fixture(scope="module")
def subject():
    return open_subject("tiny", "cpu", "float32")


# ---- cases ----


def test_cases_are_read_and_named_back() -> None:
    cases = parse_cases("1x8, 8:8x2@2048,32xragged,1x8", prompt=512)
    assert [case.name for case in cases] == ["1x8@512", "8:8x2@2048", "32xragged@512"]
    assert [case.alone for case in cases] == [True, False, False]
    assert parse_case(cases[1].name, 7) == cases[1]


def test_traces_of_a_case() -> None:
    words = range(100, 200)
    group = parse_case("3:2x4", 10).traces(words)
    assert [(t.problem, t.sample, t.paths, len(t.prompt)) for t in group[:3]] == [
        (0, 0, 4, 10),
        (0, 1, 4, 10),
        (1, 0, 4, 10),
    ]
    assert group[0].prompt == group[1].prompt
    assert len({t.prompt[0] for t in group}) == 3
    ragged = parse_case("9xragged", 40).traces(words)
    assert [t.paths for t in ragged] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert branches(ragged) == 21
    assert all(10 <= len(t.prompt) <= 40 for t in ragged)
    assert len({len(t.prompt) for t in ragged}) > 3


def test_names_in_a_list() -> None:
    assert parse_names("all", PEERS, "peer") == PEERS
    assert parse_names("none", PEERS, "peer") == ()
    assert parse_names("vllm, generate", PEERS, "peer") == ("vllm", "generate")
    with pytest.raises(UserError, match="no peer 'vlm'"):
        parse_names("vlm", PEERS, "peer")
    assert tuple(decode.PEERS) == PEERS


# ---- floors, by hand ----


def test_bytes_of_a_step_read_a_prompt_once() -> None:
    (trace,) = parse_case("1x8", 100).traces(range(10))
    assert step_bytes(SIZES, [trace], 5) == 4000 + 16 * (100 + 8 * 5)
    assert step_bytes(SIZES, [trace], 5, shared=False) == 4000 + 16 * 8 * (100 + 5)
    assert kept_bytes(SIZES, [trace], 20) == 16 * (100 + 8 * 20)
    group = parse_case("2:3x2", 100).traces(range(10))
    assert step_bytes(SIZES, group, 5) == 4000 + 16 * (2 * 100 + 12 * 5)
    assert step_flops(SIZES, group, 5) == 2 * 1000 * 12 + 8 * 12 * 105


def test_the_floor_is_the_slower_of_memory_and_arithmetic() -> None:
    traces = parse_case("1x2", 10).traces(range(10))
    assert step_floor(SIZES, Machine(bandwidth=1.0, flops=1e12), traces, 0) == 4000 + 16 * 10
    assert step_floor(SIZES, Machine(bandwidth=1e12, flops=1.0), traces, 0) == 2 * 1000 * 2 + 8 * 2 * 10


def test_the_sizes_of_a_model(subject) -> None:
    sizes = sizes_of(subject.lm)
    assert sizes.weights == sum(p.numel() for p in subject.lm.model.parameters())  # tied: the table is the last layer
    assert (sizes.bytes_per_weight, sizes.kv_bytes, sizes.attention_flops) == (4, 2 * 2 * 2 * 16 * 4, 4 * 2 * 4 * 16)
    assert (
        subject.lm.model.config.vocab_size == SHAPES["tiny"]["vocabulary"] == len(subject.words) + len(subject.special)
    )


def test_the_machine_is_measured() -> None:
    able = machine.measure(torch.device("cpu"), torch.float32, runs=1)
    assert able.bandwidth > 1e7
    assert able.flops > 1e7
    assert machine.free_bytes(torch.device("cpu")) > 0
    assert machine.describe(torch.device("cpu"))["threads"] >= 1


# ---- the random model and the engine ----


def test_the_random_model_samples_no_special_token(subject) -> None:
    ids = torch.tensor([list(subject.words)[:64]])
    probabilities = subject.lm.model(ids).logits[0].softmax(-1)
    assert probabilities[:, sorted(subject.special)].max() < 1e-12
    entropy = -(probabilities * probabilities.clamp(min=1e-30).log()).sum(-1)
    assert entropy.min() > 3  # and is no trivial model: many words are about as likely


def test_every_step_that_is_timed_has_every_branch_and_the_engine_is_left_empty(subject) -> None:
    own = ours.open_engine(subject, "flat", 8)
    traces = parse_case("8xragged", 30).traces(subject.words)
    assert [tokens for _, tokens in own.decode(traces, 6)] == [20] * 6
    assert own.engine.unfinished == 0
    assert own.run(parse_case("1x3", 20).traces(subject.words), 4).join > 0


def test_a_case_beyond_the_context_is_skipped(subject) -> None:
    own = ours.open_engine(subject, "flat", 1)
    case = parse_case("1x1", own.engine.context)
    with pytest.raises(timing.Skipped, match="positions"):
        own.prepare(case, case.traces(subject.words), 4)


def test_where_a_step_goes(subject) -> None:
    own = ours.open_engine(subject, "flat", 2)
    found = profile.profile_steps(own, parse_case("2x2", 20).traces(subject.words), 3)
    assert set(found["parts"]) == {"step", "engine", "forward", "sampling"}
    assert min(found["parts"].values()) >= 0
    assert found["operations"]["linear layers"] > 0
    assert found["calls"] > 50
    assert "step" not in vars(own.engine.backend)  # the clock was taken off again


def test_where_a_step_that_is_launched_ahead_goes(subject) -> None:
    """Launching and waiting: `step` is not called."""
    own, backend = ours.open_engine(subject, "flat", 2), GraphedBackend(subject.lm, look_ahead=True)
    own.engine = Engine(subject.lm, max_num_seqs=2, backend=backend)
    parts = profile.profile_steps(own, parse_case("2x2", 20).traces(subject.words), 1)["parts"]
    assert set(parts) == {"step", "engine", "launch", "wait"}
    assert min(parts.values()) > 0, "what the steps before it took is not counted"
    assert parts["launch"] + parts["wait"] + parts["engine"] == pytest.approx(parts["step"])  # of one step, no medians
    assert "launch" not in vars(backend)
    assert "step" not in vars(own.engine)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::mm", "linear layers"),
        ("aten::addmm", "linear layers"),
        ("aten::scaled_dot_product_attention", "attention"),
        ("aten::index_put_", "copies and indexing"),
        ("aten::cumsum", "sampling"),
        ("aten::silu", "norms, rotary, activations"),
        ("cudaLaunchKernel", "other"),
    ],
)
def test_groups_of_operations(name, group) -> None:
    assert profile.group_of(name) == group


def test_a_gpu_is_busy_once_where_kernels_overlap() -> None:
    assert profile.busy([(0, 2), (1, 3), (5, 6), (5.5, 5.8)]) == 4
    assert profile.busy([]) == 0


def test_what_is_said_of_runs() -> None:
    found = timing.summarise(
        [timing.Run([0.010, 0.020], join=0.03), timing.Run([0.030], [0.004], [4], kv_bytes=7)], branches=2
    )
    assert (found["ms"], found["steps"], found["kv_bytes"]) == (pytest.approx(20), 3, 7)
    assert found["cpu_ms"] == pytest.approx(4)
    assert found["tokens_per_s"] == pytest.approx(4 / 0.02)
    assert found["join_steps"] == pytest.approx(1.5)


def test_a_peer_that_fails_is_named_and_the_others_go_on(subject, monkeypatch) -> None:
    class Broken:
        name = "generate"

        def __init__(self, subject) -> None: ...
        def prepare(self, case, traces, steps) -> None:
            raise RuntimeError("no such kernel\nand more")

        def close(self) -> None: ...

    monkeypatch.setitem(decode.PEERS, "generate", Broken)
    options = decode.DecodeOptions("tiny", [parse_case("1x2", 8)], peers=("generate",), device="cpu", steps=2, rounds=1)
    (case,) = decode.run_decode(options)["cases"]
    assert case["skipped"] == {"generate": "failed: no such kernel"}
    assert list(case["contenders"]) == ["engine lean"]


# ---- peers ----


def test_llama_cpp_computes_the_same_model(subject) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    pytest.importorskip("gguf", reason="needs gguf")
    peer = llama.LlamaCpp(subject, exact=True)
    case = parse_case("2x3", 12)
    traces = case.traces(subject.words)
    peer.prepare(case, traces, 4)
    tokens, positions = llama.read_prompts(peer.context, traces, subject.words[-1])
    logits = peer.context.decode(tokens, positions, np.arange(6), np.ones(6, bool))
    for row, trace in enumerate(t for t in traces for _ in range(3)):
        with torch.no_grad():
            right = subject.lm.model(torch.tensor([[*trace.prompt, subject.words[-1]]])).logits[0, -1]
        assert np.abs(logits[row] - right.numpy()).max() < 1e-3
    assert len(peer.run(traces, 4).seconds) == 4
    peer.close()


def test_vllm_is_asked_for_the_same_work(subject, monkeypatch) -> None:
    asked = []

    class FakeEngine:
        def __init__(self, folder, **options) -> None:
            assert options["dtype"] == "float32"
            assert options["skip_tokenizer_init"]

        def generate(self, prompts, params, use_tqdm) -> None:
            asked.append((len(prompts), [p["n"] for p in params], params[0]["max_tokens"]))

    fake = SimpleNamespace(LLM=FakeEngine, SamplingParams=lambda **given: given)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(served, "free_bytes", lambda device: 1e12)
    with pytest.raises(timing.Skipped, match="GPU only"):
        served.Vllm(subject)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), lm=subject.lm)
    monkeypatch.setattr(served, "check_memory", lambda *given: None)
    clock = iter([0.0, 1.0, 1.0, 4.0])  # a short run of 1 s, a long one of 3
    monkeypatch.setattr(served.time, "perf_counter", lambda: next(clock))
    peer, case = served.Vllm(on_gpu), parse_case("2x4", 6)
    traces = case.traces(subject.words)
    peer.prepare(case, traces, 10)
    assert peer.run(traces, 10).seconds == [pytest.approx(0.2)]
    assert asked == [(2, [4, 4], 2), (2, [4, 4], 12)]


def test_a_copy_of_the_prompt_per_path_may_not_fit(subject, monkeypatch) -> None:
    from polythink.bench import stock

    monkeypatch.setattr(stock, "free_bytes", lambda device: 1e6)
    case = parse_case("64x8", 512)
    with pytest.raises(timing.Skipped, match="GB for a copy of the prompt"):
        stock.Generate(subject).prepare(case, case.traces(subject.words), 8)


def test_a_trained_model_may_end_paths_early(subject) -> None:
    """Then steps with fewer branches count too, and the mean is said."""
    own = ours.open_engine(subject, "flat", 1)
    real, traces = own._add, parse_case("1x2", 8).traces(subject.words)

    def uneven(traces, budget, stream=False):
        request = Request(traces[0].prompt, path_prefixes=((subject.words[0],) * 3, (subject.words[0],)))
        params = SamplingParams(
            paths=2, max_blocks=1, fork_at=0, max_main_tokens=1, max_path_tokens=6, max_summary_tokens=2
        )
        return [own.engine.add(request, params)]

    own._add = uneven
    tokens = [tokens for _, tokens in own.decode([replace(traces[0])], 20)]
    assert tokens[0] == 2
    assert min(tokens) == 1
    own._add = real
