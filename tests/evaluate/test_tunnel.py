"""Tunnel vision: whose prefixes are continued, what is left of the budget, and what is refused."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import pytest
import torch
from pydantic import ValidationError

from helpers.backends import CannedBackend, RecordingEngine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.config import TunnelConfig
from polythink.evaluate.metrics import interval, read_measures
from polythink.evaluate.tunnel import PathTrace, pick_prefixes, tunnel
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grader
from polythink.problems.problem import ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import NPR, PARATHINKER, THREADWEAVER

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=4, max_path_tokens=9, max_summary_tokens=4, max_trace_tokens=80
)
MINI = ProblemSet("mini", problems("mini", "heldout", 4))


def model(dialect: str = "parathinker", tokenizer: str = "countdown") -> LanguageModel:
    """Random, but its paths seldom end before their budget."""
    lm = from_config(ModelConfig(**SHAPE, tokenizer=tokenizer), dialect, VOCABULARY, 0)
    bias = torch.zeros(lm.model.config.vocab_size)
    for tag in lm.dialect.tags[1::2]:
        bias[lm.tag_ids[tag]] = -4.0
    bias[lm.eos] = -4.0
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm


def look(
    backend, *, grade_path=None, problem_set=MINI, out=None, log=lambda line: None, params=PARAMS, **options
) -> dict:
    """`tunnel`, with `grade_path` in place of the grader's where it is given."""
    with Grader(dialect=backend.dialect) as grader:
        if grade_path is not None:
            grader.grade_path = grade_path
        return tunnel(
            backend, problem_set, TunnelConfig(**options), prompt="countdown_parallel", params=params, seed=7,
            grader=grader, out=out, log=log,
        )  # fmt: skip


# ---- whose prefixes ----


def traced(length: int, right: bool, mark: int = 0) -> PathTrace:
    return PathTrace((mark,) * length, right)


TRACES = {
    "mixed": [traced(9, True, 1), traced(9, False, 2), traced(9, False, 3), traced(4, False, 4), traced(4, True, 5)],
    "solved": [traced(9, True, 6)] * 3,
    "short": [traced(4, False, 7)] * 3,
    "never": [traced(8, False, 8)],
    "nothing": [],
}


def test_wrong_prefixes_are_of_wrong_traces_and_the_control_of_all_long_enough() -> None:
    picks = pick_prefixes(TRACES, 4, 64, seed=0)
    assert {t.tokens[0] for t in picks["mixed"].wrong} == {2, 3}
    assert {t.tokens[0] for t in picks["mixed"].any} == {1, 2, 3}
    assert sum(t.right for t in picks["mixed"].any) == pytest.approx(32 / 3, abs=8)


def test_problems_count_equally_and_those_without_a_long_wrong_trace_not_at_all() -> None:
    picks = pick_prefixes(TRACES, 4, 64, seed=0)
    assert list(picks) == ["mixed", "never"]
    assert {len(own) for p in picks.values() for own in (p.wrong, p.any)} == {32}
    assert len(pick_prefixes(TRACES, 3, 65, seed=0)["mixed"].any) == 22, "at least as many as asked for, over three"
    assert pick_prefixes(TRACES, 9, 64, seed=0) == {}


def test_the_choice_depends_on_the_seed_alone() -> None:
    assert pick_prefixes(TRACES, 4, 64, seed=0) == pick_prefixes(TRACES, 4, 64, seed=0)
    assert pick_prefixes(TRACES, 4, 64, seed=1) != pick_prefixes(TRACES, 4, 64, seed=0)


HEADED = """
name: headed
nests: false
misplaced_tags: replace
block:
  - tag: <Fork>
  - {paths: [<Way>, </Way>], heading: "\\n{id}:", gap: "\\n"}
  - {tag: </Fork>, by: runtime}
  - summary: [<Join>, </Join>]
"""
HEADS = {"parathinker": "<think1>", "parallel_r1": "<Path>", "headed": "\n<Way>\n1:"}


class Recovered(NamedTuple):
    """A study of two prefixes where every other path is judged correct."""

    result: dict
    points: list[dict]
    rows: list[dict]  # of recovery.jsonl
    head: list[int]  # what is forced to open a path
    traces: dict[str, list[tuple[list[int], bool]]]  # by problem: a trace's tokens, whether it is correct
    calls: list[tuple]  # of the engine: the traces, the fresh responses, then wrong and any for each prefix


@pytest.fixture(scope="module", params=HEADS)
def recovered(request, tmp_path_factory) -> Recovered:
    out, rights, number = tmp_path_factory.mktemp("t"), {}, count()
    if own := request.param == "headed":
        (out / "headed.yaml").write_text(HEADED)
    lm = model(str(out / "headed.yaml"), "bytes") if own else model(request.param)
    engine, head = RecordingEngine(lm), lm.encode(HEADS[request.param])

    def every_other(text, problem) -> bool:
        key = problem.key, text
        if key not in rights:
            rights[key] = next(number) % 2 == 0
        return rights[key]

    result = look(engine, grade_path=every_other, out=out, prefixes=[2, 0.6], traces=4, continuations=10)
    traces: dict[str, list] = {p.key: [] for p in MINI}
    for rollout in engine.calls[0][-1]:
        path = next(s for s in rollout.segments if s.kind == "path")
        assert path.tokens[: len(head)] == head
        traces[rollout.problem].append((path.tokens[len(head) : -1], rights[rollout.problem, path.text]))
    return Recovered(
        result, result["recovery"]["points"], read_jsonl(out / "recovery.jsonl"), head, traces, engine.calls
    )  # fmt: skip


def test_traces_have_one_path_from_the_very_beginning(recovered) -> None:
    _, params, seed, _, _ = recovered.calls[0]
    assert (params.paths, params.fork_at, params.labels, seed) == (1, 0, "ordered", 7)
    traces = [trace for own in recovered.traces.values() for trace in own]
    facts = recovered.result["recovery"]
    assert (facts["traces"], facts["wrong"]) == (16, sum(not right for _, right in traces))
    assert {right for _, right in traces} == {True, False}


def test_a_prefix_is_a_number_of_tokens_or_a_share_of_the_median_trace(recovered) -> None:
    assert [p["given"] for p in recovered.points] == [2, 0.6]
    assert [p["prefix"] for p in recovered.points] == [2, round(0.6 * recovered.result["recovery"]["median"])]


@pytest.mark.parametrize("kind", ["wrong", "any"])
def test_what_is_continued_is_the_beginning_of_a_drawn_trace(recovered, kind) -> None:
    continued = [call for call in recovered.calls[2:] if f", {kind} prefixes" in call[3]]
    for (requests, params, _, _, _), point in zip(continued, recovered.points, strict=True):
        assert params == recovered.calls[0][1]
        assert len(requests) == point["continuations"] >= 10
        for request in requests:
            (prefix,) = request.path_prefixes
            begun = [
                right for tokens, right in recovered.traces[request.problem]
                if len(tokens) > len(prefix) == point["prefix"] and tokens[: len(prefix)] == list(prefix)
            ]  # fmt: skip
            assert (False in begun) if kind == "wrong" else begun


def test_the_control_continues_correct_traces_too(recovered) -> None:
    requests = recovered.calls[3][0]
    begun = [
        right for request in requests for tokens, right in recovered.traces[request.problem]
        if tokens[:2] == list(request.path_prefixes[0])
    ]  # fmt: skip
    assert True in begun


def test_a_continuation_has_what_is_left_of_the_budget(recovered) -> None:
    for requests, _, _, _, rollouts in recovered.calls[2:]:
        for request, rollout in zip(requests, rollouts, strict=True):
            (prefix,) = request.path_prefixes
            path = next(s for s in rollout.segments if s.kind == "path")
            assert path.tokens[: len(recovered.head) + len(prefix)] == [*recovered.head, *prefix]
            assert sum(path.sampled) <= PARAMS.max_path_tokens - len(prefix)


def test_both_kinds_share_random_numbers_that_nothing_else_uses(recovered) -> None:
    traces, fresh, wrong, control = recovered.calls[:4]
    assert wrong[2] == control[2]
    assert len({traces[2], fresh[2], wrong[2]}) == 3
    assert wrong[0] != control[0]
    assert not any(request.path_prefixes for request in fresh[0])


def test_the_rates_are_those_of_the_rows(recovered) -> None:
    metrics = recovered.result["metrics"]
    for point in recovered.points:
        for kind in ("wrong", "any"):
            own = [r["right"] for r in recovered.rows if (r["prefix"], r["kind"]) == (point["prefix"], kind)]
            assert sum(own) / len(own) == pytest.approx(point[kind]["value"])
            assert metrics[f"{kind}_prefix@{point['given']:g}"] == point[kind]
        assert point["difference"]["value"] == pytest.approx(point["any"]["value"] - point["wrong"]["value"])
        assert metrics[f"gain_any_prefix@{point['given']:g}"] == point["difference"]


def test_the_fresh_rate_is_that_of_the_same_problems(tmp_path) -> None:
    """One problem is always right, so it has no wrong trace: its fresh responses must not raise the rate."""
    engine, easy = RecordingEngine(model()), MINI.problems[0].key
    result = look(
        engine, out=tmp_path, grade_path=lambda text, p: p.key == easy, prefixes=[1], traces=2, continuations=6
    )
    (point,) = result["recovery"]["points"]
    assert point["problems"] == 3
    assert point["fresh"]["value"] == point["any"]["value"] == 0
    assert easy not in {request.problem for request in engine.calls[1][0]}
    assert easy not in read_measures(tmp_path / "measures.jsonl")["fresh@1"].keys


# ---- budgets ----


class Spent(NamedTuple):
    result: dict
    calls: list[tuple]
    said: list[str]
    folder: object


@pytest.fixture(scope="module")
def spent(tmp_path_factory) -> Spent:
    said, engine, out = [], RecordingEngine(model()), tmp_path_factory.mktemp("b")
    result = look(
        engine, out=out, budgets=[12, 2], paths=[1, 3], samples=2, sequential_prompt="countdown_sequential",
        log=said.append, params=PARAMS.model_copy(update={"max_blocks": 3}),
    )  # fmt: skip
    return Spent(result, engine.calls, said, out)


def test_a_budget_is_shared_by_the_paths(spent) -> None:
    assert [(p.mode, p.paths, p.max_path_tokens, p.max_main_tokens) for _, p, *_ in spent.calls] == [
        ("structured", 1, 2, 4), ("sequential", 2, 9, 2 + 4 + 4),
        ("structured", 1, 12, 4), ("structured", 3, 4, 4), ("sequential", 2, 9, 12 + 4 + 4),
    ]  # fmt: skip
    assert {p.max_blocks for _, p, *_ in spent.calls} == {1}, "a second block would spend the budget again"
    assert spent.said == ["note on mini: a budget of 2 has no token for each of 3 paths: that point was left out"]


def test_no_response_spends_more_than_its_budget(spent) -> None:
    for _, params, _, _, rollouts in spent.calls:
        for rollout in rollouts:
            if params.mode == "sequential":
                assert rollout.tokens <= params.max_main_tokens
                continue
            assert not any(s.finish_reason == "trace_length" for s in rollout.segments if s.kind != "main")
            paths = [s for s in rollout.segments if s.kind == "path"]
            assert sum(sum(s.sampled) for s in paths) <= params.paths * params.max_path_tokens


def test_every_way_to_spend_a_budget_is_a_point_and_a_metric(spent) -> None:
    ways = [(p["way"], p["budget"]) for p in spent.result["budget"]]
    assert ways == [
        ("paths1", 2), ("sequential", 2), ("paths1", 12), ("paths3", 12), ("majority3", 12), ("sequential", 12)
    ]  # fmt: skip
    assert list(spent.result["metrics"]) == [f"{way}@{budget}" for way, budget in ways]
    assert spent.result["recovery"] is None
    assert read_json(spent.folder / "tunnel.json")["budget"][0]["tokens"]["value"] <= 2 + 2 + 2 + 4 + 4
    again = read_measures(spent.folder / "measures.jsonl")
    assert {name: vars(interval(metric)) for name, metric in again.items()} == spent.result["metrics"]


# ---- what is refused ----


def test_without_wrong_traces_there_is_nothing_to_recover_from() -> None:
    with pytest.raises(UserError, match="none of 8 traces on mini is wrong"):
        look(RecordingEngine(model()), grade_path=lambda text, p: True, prefixes=[1], traces=2)


def test_a_prefix_that_equals_another_is_left_out_with_a_note() -> None:
    said = []
    result = look(
        RecordingEngine(model()), grade_path=lambda text, p: False, prefixes=[1, 0.01, 0.999, 8.0], traces=2,
        continuations=4, log=said.append,
    )  # fmt: skip
    assert result["recovery"]["points"][0]["given"] == 0.01
    assert said[0] == "note on mini: prefix 1 comes to 1 tokens, as another does, and was left out"


def test_prefixes_longer_than_every_wrong_trace_are_refused() -> None:
    lm = model()
    lm.model.get_output_embeddings().register_forward_hook(  # every path ends at once
        lambda module, args, out: out.index_fill(-1, torch.tensor([lm.tag_ids["</think1>"]]), 100.0)
    )
    with pytest.raises(UserError, match=r"all 8 wrong traces on mini are as short as the shortest prefix \(3 tokens\)"):
        look(RecordingEngine(lm), grade_path=lambda text, p: False, prefixes=[3, 4], traces=2, continuations=4)


@pytest.mark.parametrize(
    ("options", "message", "dialect"),
    [
        ({"prefixes": [9]}, "a prefix of 9 tokens leaves nothing of max_path_tokens=9", PARATHINKER),
        ({"budgets": [40], "paths": [20]}, "20 paths are more than the 16 numbers", PARATHINKER),
        ({"budgets": [40], "sequential_prompt": "countdown_paralel"}, "did you mean 'countdown_parallel'", PARATHINKER),
        ({"prefixes": [1], "problem_set": ProblemSet("none", ())}, "problem set 'none' is empty", PARATHINKER),
        ({"budgets": [40]}, "in the dialect npr the model says by its outlines how many paths there are", NPR),
        ({"prefixes": [1], "paths": []}, "in the dialect threadweaver the model says by its outlines", THREADWEAVER),
    ],
)
def test_a_mistake_is_reported_before_anything_is_drawn(tmp_path, options, message, dialect) -> None:
    backend = CannedBackend({})
    backend.dialect = dialect
    with pytest.raises(UserError, match=message):
        look(backend, out=tmp_path / "out", **options)
    assert not backend.asked
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to draw"),
        ({"prefixes": [2.5]}, "a whole number of tokens, not 2.5"),
        ({"prefixes": [0]}, "greater than 0"),
        ({"budgets": [3], "paths": [4]}, "a budget of 3 has no token for each of 4 paths"),
    ],
)
def test_options_without_meaning_are_refused(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        TunnelConfig(**options)
