"""The comparison as a whole: every method drawn, measured, written and shown, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.backends import CannedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.compare import compare
from polythink.evaluate.config import CompareConfig
from polythink.evaluate.methods import METHODS
from polythink.evaluate.metrics import read_measures
from polythink.models.build import ModelConfig, from_config
from polythink.problems.problem import ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import MULTIVERSE, PARATHINKER

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80
)
MINI = ProblemSet("mini", problems("mini", "heldout", 3), ("it is small",))


class Compared(NamedTuple):
    result: dict
    rows: dict[tuple[str, int], dict]  # of compare.json, by method and number of paths
    paths: list[int]
    said: list[str]
    folder: Path


@pytest.fixture(scope="module", params=["parathinker:4", "parallel_r1"])
def compared(request, tmp_path_factory) -> Compared:
    lm, said, folder = from_config(ModelConfig(**SHAPE), request.param, VOCABULARY, 0), [], tmp_path_factory.mktemp("c")
    paths = [1, 2, 4] if request.param == "parathinker:4" else [1, 3]
    given = () if request.param == "parathinker:4" else paths
    options = CompareConfig(sequential_prompt="countdown_sequential", samples=2, paths=given)
    result = compare(
        Engine(lm), MINI, options, prompt="countdown_parallel", params=PARAMS, seed=5, out=folder, name="mini",
        log=said.append,
    )  # fmt: skip
    rows = {(row["method"], row["paths"]): row for row in result["methods"]}
    return Compared(result, rows, paths, said, folder)


def test_every_method_answers_at_every_number_of_paths(compared) -> None:
    everywhere = {(name, p) for name in METHODS for p in compared.paths if name != "sequential"}
    assert compared.rows.keys() == everywhere - {("sequential_longer", 1)} | {("sequential", 1)}
    assert compared.result["paths"] == compared.paths


def test_what_was_left_out_is_noted(compared) -> None:
    assert compared.said[0] == "note on mini: it is small"
    assert compared.result["notes"][0] == "it is small"
    assert any("8, 16 paths were left out" in line for line in compared.said) == (compared.paths == [1, 2, 4])


def test_an_answer_has_an_accuracy_and_a_cost(compared) -> None:
    for (name, _), row in compared.rows.items():
        assert 0 <= row["accuracy"]["value"] <= 1
        assert row["critical_path"]["value"] <= row["tokens"]["value"]
        assert (row["seconds"] is None) == (name in ("majority_paths", "marked_path", "oracle"))


def test_gains_are_paired_differences_to_the_parallel_responses(compared) -> None:
    metrics = compared.result["metrics"]
    for (name, paths), row in compared.rows.items():
        assert metrics[f"{name}@{paths}"] == row["accuracy"]
        if name != "parallel":
            gap = compared.rows["parallel", paths]["accuracy"]["value"] - row["accuracy"]["value"]
            assert metrics[f"gain_{name}@{paths}"]["value"] == pytest.approx(gap)
            assert row["difference"]["value"] == pytest.approx(gap)
    fewer, more = compared.paths[-2:]
    gap = metrics[f"parallel@{more}"]["value"] - metrics[f"parallel@{fewer}"]["value"]
    assert metrics[f"gain_fewer@{more}"]["value"] == pytest.approx(gap)
    assert {f"gain_sequential@{paths}" for paths in compared.paths} <= metrics.keys()


def test_one_pool_of_sequential_responses_is_as_large_as_the_largest_method_needs(compared) -> None:
    most = max(compared.paths)
    each = compared.rows["sequential", 1]["tokens"]["value"]
    paid = compared.rows["sequential_tokens", most]["responses"]
    assert compared.rows["majority_sequential", most]["responses"] == most
    assert paid == max(1, int(compared.rows["parallel", most]["tokens"]["value"] / each))
    pool = read_jsonl(compared.folder / "samples-mini-sequential.jsonl")
    assert len(pool) == len(MINI) * max(2, most, paid)
    assert len({(row["problem"], row["sample"]) for row in pool}) == len(pool)


def test_everything_is_written(compared) -> None:
    metrics = compared.result["metrics"]
    assert read_json(compared.folder / "compare-mini.json")["metrics"].keys() == metrics.keys()
    assert set(read_measures(compared.folder / "measures-mini.jsonl")) == set(metrics)
    for paths in compared.paths:
        for pool in ("parallel", "reread"):
            assert len(read_jsonl(compared.folder / f"samples-mini-{pool}-{paths}.jsonl")) == 6


@pytest.mark.parametrize(
    ("options", "message", "dialect"),
    [
        ({"sequential_prompt": "countdown_sequentia"}, "did you mean 'countdown_sequential'", PARATHINKER),
        ({"sequential_prompt": "none", "paths": (20,)}, "20 paths are more than the 16 numbers", PARATHINKER),
        ({"sequential_prompt": "none"}, "in the dialect multiverse the model says by its outlines", MULTIVERSE),
    ],
)
def test_a_mistake_is_reported_before_anything_is_drawn(tmp_path, options, message, dialect) -> None:
    backend = CannedBackend({})
    backend.dialect = dialect
    with pytest.raises(UserError, match=message):
        compare(backend, MINI, CompareConfig(**options), out=tmp_path / "out", log=lambda line: None)
    assert not backend.asked
    assert not (tmp_path / "out").exists()


def test_an_empty_problem_set_is_refused() -> None:
    with pytest.raises(UserError, match="problem set 'none' is empty"):
        compare(CannedBackend({}), ProblemSet("none", ()), CompareConfig(sequential_prompt="none"))
