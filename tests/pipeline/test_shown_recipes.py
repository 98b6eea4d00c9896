"""The recipes whose teacher is a small model on this machine: a stand-in for the model, an endpoint that solves."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from helpers.chat_server import server  # noqa: F401
from helpers.smollm2 import tiny_model, tiny_tokenizer
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.problems.sets import load_problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import PARALLEL_R1, get_dialect
from polythink.trace.parse import parse

SMALL = {"steps": 1, "batch": 4, "limit": 2, "samples": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), tiny_tokenizer()
    found = tiny_model(len(tokenizer))
    found.config.max_position_embeddings = 2048
    found.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def solve(problem, number: int, ways: bool) -> str:
    """A right solution; no two are the same."""
    one, two = (f"Way {number}: {text}" for text in problem.solution.splitlines())
    if not ways:
        return f"{one}\nFinal Answer: {problem.answer}"
    paths = f"<Parallel><Path>{one}</Path><Path>{two}</Path></Parallel>"
    return f"{paths}\n<Summary>Both ways give {problem.answer}.</Summary>\nFinal Answer: {problem.answer}"


def run_small(name: str, model: Path, teacher, ways: bool, out: Path) -> Path:
    whole = load_recipe(name, [f"model.path={model}"])
    numbers = count()
    known = {p.question: p for given in whole.stages["coldstart"].problems for p in load_problems(given)}
    teacher.otherwise = lambda asked: solve(known[asked.rpartition("Problem: ")[2]], next(numbers), ways)
    keys = [f"{stage}.{key}={value}" for stage, config in whole.stages.items() for key, value in SMALL.items()
            if key in type(config).model_fields]  # fmt: skip
    keys += [f"model.path={model}", f"coldstart.teacher.url={teacher.base}", "sft.epochs=null"]
    run_recipe(load_recipe(name, keys), out, log=lambda text: None)
    assert all("\n\n" in request["stop"] for request in teacher.requests)
    return out


@pytest.mark.long
def test_a_model_learns_from_what_it_was_shown_to_write(model, server, tmp_path):  # noqa: F811
    run = run_small("smollm2-coldstart", model, server, True, tmp_path / "run")
    kept = read_jsonl(run / "coldstart" / "kept.jsonl")
    assert len(kept) == SMALL["limit"] * SMALL["samples"]
    assert all(len(parse(row["trace"], PARALLEL_R1).blocks) == 1 for row in kept)
    assert len(read_jsonl(run / "sft" / "metrics.jsonl")) == 1


@pytest.mark.long
def test_right_solutions_become_numbered_paths(model, server, tmp_path):  # noqa: F811
    run = run_small("parathinker-smollm2", model, server, False, tmp_path / "run")
    (folder,) = {path.parent for path in (run / "coldstart").rglob("solutions.json")}
    kept = read_jsonl(folder / "kept.jsonl")
    numbered = get_dialect("parathinker")
    assert {len(parse(row["trace"], numbered).blocks[0].paths) for row in kept} <= {2, 3, 4}
    compared = read_json(run / "compare" / "result.json")["evaluations"]
    assert compared.keys() == {"stories-one-heldout", "stories-two-heldout"}
    assert all(
        "accuracy_gain_majority_paths@8" in found or "gain_majority_paths@8" in found for found in compared.values()
    )
