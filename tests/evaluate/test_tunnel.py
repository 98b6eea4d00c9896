"""Tunnel vision: whose prefixes are continued, what is left of the budget, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.metrics import interval, read_measures
from polythink.evaluate.tunnel import Begun, TunnelConfig, plan, tunnel
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grader
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.report.findings import budget_table, recovery_table, tunnel_section
from polythink.run.folder import read_json, read_jsonl

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
BUDGETS = dict(paths=2, max_blocks=1, max_main_tokens=4, max_path_tokens=9, max_summary_tokens=4, max_trace_tokens=80)
MINI = ProblemSet("mini", problems("mini", "heldout", 4))


class Watched(Engine):
    """Remembers everything that it was asked and drew."""

    def __init__(self, lm: LanguageModel, **named) -> None:
        super().__init__(lm, **named)
        self.calls = []

    def generate(self, requests, decoding, seed=0, on_event=None, label=""):
        rollouts = super().generate(requests, decoding, seed, on_event, label)
        self.calls.append((list(requests), decoding, seed, label, rollouts))
        return rollouts


def model(dialect: str) -> LanguageModel:
    """Random, but its paths seldom end before their budget."""
    lm = from_config(ModelConfig(**SHAPE), dialect, VOCABULARY, 0)
    bias = torch.zeros(lm.model.config.vocab_size)
    for tag in (*lm.dialect.tags[1::2],):
        bias[lm.tag_ids[tag]] = -4.0
    bias[lm.eos] = -4.0
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm


def look(engine, out, grade_path=None, problem_set=MINI, log=lambda _: None, decoding=BUDGETS, **options) -> dict:
    """`tunnel`, with a judgement of paths of our own where one is given."""
    with Grader(dialect=engine.lm.dialect) as grader:
        if grade_path is not None:
            grader.grade_path = grade_path
        return tunnel(
            engine, problem_set, get_prompt("countdown_parallel"), SamplingParams(**decoding), TunnelConfig(**options), 7,
            grader, out, log=log,
        )  # fmt: skip


# ---- whose prefixes ----


def begun(length: int, right: bool, mark: int = 0) -> Begun:
    return Begun((mark,) * length, right)


def test_wrong_prefixes_are_of_wrong_traces_and_the_control_of_all() -> None:
    traces = {
        "mixed": [begun(9, True, 1), begun(9, False, 2), begun(9, False, 3), begun(4, False, 4), begun(4, True, 5)],
        "solved": [begun(9, True, 6)] * 3,
        "short": [begun(4, False, 7)] * 3,
        "never": [begun(8, False, 8)],
        "nothing": [],
    }
    picks = plan(traces, 4, 64, seed=0)
    assert list(picks) == ["mixed", "never"], "a problem without a wrong trace that is long enough has no place"
    assert {len(own) for p in picks.values() for own in (p.wrong, p.any)} == {32}, "all problems count the same"
    assert {t.tokens[0] for t in picks["mixed"].wrong} == {2, 3}
    assert {t.tokens[0] for t in picks["mixed"].any} == {1, 2, 3}, "right and wrong ones, none that is too short"
    assert sum(t.right for t in picks["mixed"].any) == pytest.approx(32 / 3, abs=8)
    assert plan(traces, 4, 64, seed=0) == picks
    assert plan(traces, 4, 64, seed=1) != picks
    assert len(plan(traces, 3, 65, seed=0)["mixed"].any) == 22, "at least as many as asked for, over three problems"
    assert plan(traces, 9, 64, seed=0) == {}


@pytest.mark.parametrize("dialect", ["parathinker", "parallel_r1"])
def test_what_is_continued_is_the_beginning_of_a_drawn_trace(dialect, tmp_path) -> None:
    engine = Watched(model(dialect))
    rights: dict[str, bool] = {}

    def grade_path(text, problem):  # every other path is right
        return rights.setdefault(f"{problem.key} {text}", len(rights) % 2 == 0)

    result = look(engine, tmp_path, grade_path, prefixes=[2, 0.6], traces=4, continuations=10)
    (_, single, seed, _, drawn), fresh, *continued = engine.calls
    assert (single.paths, single.fork_at, single.labels, seed) == (1, 0, "ordered", 7)
    found = {p.key: [] for p in MINI}
    for rollout in drawn:
        path = next(s for s in rollout.segments if s.kind == "path")
        found[rollout.problem].append((path.tokens[1:-1], rights[f"{rollout.problem} {path.text}"]))
    traces = [trace for own in found.values() for trace in own]
    assert {right for _, right in traces} == {True, False}
    points = result["recovery"]["points"]
    assert [p["given"] for p in points] == [2, 0.6]
    assert [p["prefix"] for p in points] == [2, round(0.6 * result["recovery"]["median"])]
    assert (result["recovery"]["traces"], result["recovery"]["wrong"]) == (16, sum(not right for _, right in traces))
    assert len(continued) == 4
    for (requests, how, own_seed, label, rollouts), point in zip(
        continued, [p for p in points for _ in range(2)], strict=True
    ):
        assert how == single
        assert own_seed not in (seed, fresh[2]), "the traces' own random numbers do not come again"
        wrong_only = label.split(", ")[1].startswith("wrong")
        assert len(requests) == point["continuations"] >= 10
        for request, rollout in zip(requests, rollouts, strict=True):
            (prefix,) = request.path_prefixes
            assert len(prefix) == point["prefix"]
            assert any(
                list(prefix) == tokens[: len(prefix)] and len(tokens) > len(prefix) and not (wrong_only and right)
                for tokens, right in found[request.problem]
            )
            path = next(s for s in rollout.segments if s.kind == "path")
            assert path.tokens[1 : 1 + len(prefix)] == list(prefix)
            assert sum(path.sampled) <= BUDGETS["max_path_tokens"] - len(prefix), "what is left of the budget"
    wrong, control = continued[:2]
    assert wrong[2] == control[2], "both kinds share their random numbers"
    assert wrong[0] != control[0]
    assert any(
        right and list(request.path_prefixes[0]) == tokens[:2]
        for request in control[0]
        for tokens, right in found[request.problem]
    )
    assert fresh[1] == single
    assert not any(request.path_prefixes for request in fresh[0])
    rows = read_jsonl(tmp_path / "recovery.jsonl")
    for point in points:
        for kind in ("wrong", "any"):
            own = [r for r in rows if (r["prefix"], r["kind"]) == (point["prefix"], kind)]
            assert sum(r["right"] for r in own) / len(own) == pytest.approx(point[kind]["value"])
        gap = point["any"]["value"] - point["wrong"]["value"]
        assert point["difference"]["value"] == pytest.approx(gap)
        assert result["metrics"][f"gain_any_prefix@{point['given']:g}"] == point["difference"]
        assert result["metrics"][f"wrong_prefix@{point['given']:g}"] == point["wrong"]


def test_the_fresh_rate_is_that_of_the_same_problems(tmp_path) -> None:
    """One problem is always right, so it has no wrong trace: its fresh responses must not raise the rate."""
    engine = Watched(model("parathinker"))
    easy = MINI.problems[0].key
    result = look(engine, tmp_path, lambda text, p: p.key == easy, prefixes=[1], traces=2, continuations=6)
    (point,) = result["recovery"]["points"]
    assert point["problems"] == 3
    assert point["fresh"]["value"] == point["any"]["value"] == 0
    assert easy not in {request.problem for request in engine.calls[1][0]}
    assert easy not in read_measures(tmp_path / "measures.jsonl")["fresh@1"].keys


def test_right_may_mean_the_whole_response(tmp_path) -> None:
    engine = Watched(model("parathinker"))
    result = look(engine, tmp_path, lambda text, p: True, prefixes=[1], traces=2, continuations=4, judged_by="response")
    assert result["recovery"]["wrong"] == 8, "the paths are all right, the responses of a random model are not"
    assert "what the whole response came to" in tunnel_section(result)


# ---- budgets ----


def test_a_budget_is_shared_by_the_paths(tmp_path) -> None:
    said = []
    engine = Watched(model("parathinker"))
    result = look(
        engine, tmp_path, budgets=[12, 2], paths=[1, 3], samples=2, sequential_prompt="countdown_sequential",
        log=said.append,
    )  # fmt: skip
    assert [(d.mode, d.paths, d.max_path_tokens, d.max_main_tokens) for _, d, *_ in engine.calls] == [
        ("structured", 1, 2, 4), ("sequential", 2, 9, 2 + 4 + 4),
        ("structured", 1, 12, 4), ("structured", 3, 4, 4), ("sequential", 2, 9, 12 + 4 + 4),
    ]  # fmt: skip
    for _, decoding, _, _, rollouts in engine.calls:
        if decoding.mode == "sequential":
            assert all(r.tokens <= decoding.max_main_tokens for r in rollouts)
            continue
        assert all(
            s.finish_reason != "trace_length" for r in rollouts for s in r.segments if s.kind in ("path", "summary")
        )
        for rollout in rollouts:
            own = [s for s in rollout.segments if s.kind == "path"]
            assert sum(sum(s.sampled) for s in own) <= decoding.paths * decoding.max_path_tokens
    assert said == ["note on mini: a budget of 2 has no token for each of 3 paths: that point was left out"]
    ways = [(p["way"], p["budget"]) for p in result["budget"]]
    assert ways == [
        ("paths1", 2), ("sequential", 2), ("paths1", 12), ("paths3", 12), ("majority3", 12), ("sequential", 12)
    ]  # fmt: skip
    assert list(result["metrics"]) == [f"{way}@{budget}" for way, budget in ways]
    assert result["recovery"] is None
    assert len(budget_table(result)[1]) == 6
    assert recovery_table(result)[1] == []
    assert tunnel_section(result).count("<svg") == 2
    assert read_json(tmp_path / "tunnel.json")["budget"][0]["tokens"]["value"] <= 2 + 2 + 2 + 4 + 4
    again = read_measures(tmp_path / "measures.jsonl")
    assert {name: vars(interval(m)) for name, m in again.items()} == result["metrics"]


# ---- what cannot be ----


def test_without_wrong_traces_there_is_nothing_to_recover_from(tmp_path) -> None:
    engine = Watched(model("parathinker"))
    with pytest.raises(UserError, match="none of 8 traces on mini is wrong"):
        look(engine, tmp_path, lambda text, p: True, prefixes=[1], traces=2)


def test_prefixes_that_come_to_the_same_or_to_nothing_are_named(tmp_path) -> None:
    said, engine = [], Watched(model("parathinker"))
    options = {"traces": 2, "continuations": 4, "grade_path": lambda text, p: False}
    result = look(engine, tmp_path, prefixes=[1, 0.01, 0.999, 8.0], log=said.append, **options)
    kept = [p["given"] for p in result["recovery"]["points"]]
    assert kept[0] == 0.01
    assert said[0] == "note on mini: prefix 1 comes to 1 tokens, as another does, and was left out"
    lm = engine.lm
    lm.model.get_output_embeddings().register_forward_hook(  # every path ends at once
        lambda module, args, out: out.index_fill(-1, torch.tensor([lm.tag_ids["</think1>"]]), 100.0)
    )
    with pytest.raises(UserError, match=r"all 8 wrong traces on mini are as short as the shortest prefix \(3 tokens\)"):
        look(engine, tmp_path, prefixes=[3, 4], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefixes": [9]}, "a prefix of 9 tokens leaves nothing of max_path_tokens=9"),
        ({"budgets": [40], "paths": [20]}, "20 paths are more than the 16 numbers"),
        ({"budgets": [40], "sequential_prompt": "countdown_paralel"}, "did you mean 'countdown_parallel'"),
    ],
)
def test_a_mistake_is_said_before_anything_is_drawn(tmp_path, options, words) -> None:
    engine = SimpleNamespace(lm=model("parathinker"))
    with pytest.raises(UserError, match=words):
        look(engine, tmp_path / "out", **options)
    with pytest.raises(UserError, match="problem set 'none' is empty"):
        look(engine, tmp_path / "out", problem_set=ProblemSet("none", ()), prefixes=[1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "there is nothing to draw"),
        ({"prefixes": [2.5]}, "a whole number of tokens, not 2.5"),
        ({"prefixes": [0]}, "greater than 0"),
        ({"budgets": [3], "paths": [4]}, "a budget of 3 has no token for each of 4 paths"),
    ],
)
def test_options_that_make_no_sense(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        TunnelConfig(**options)
