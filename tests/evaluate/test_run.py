"""Evaluation from requests to files, with a backend that gives canned responses."""

from __future__ import annotations

import json
from math import isnan

import pytest

import polythink.evaluate
from helpers.backends import CannedBackend
from helpers.tiny import tiny
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.metrics import compute_metrics
from polythink.evaluate.run import evaluate
from polythink.models.lm import with_settings
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt
from polythink.run.jsonl import read_jsonl

PROMPT = Prompt("short", "Solve: {problem}")
BLOCK = (
    "So <Parallel><Path>it is 7. Final Answer: 7</Path><Path>Final Answer: 8</Path></Parallel>\n<Summary>7</Summary>"
)
PROBLEMS = ProblemSet("mine", (Problem("p", "3 + 4?", "7"), Problem("q", "1 / 2?", "1/2")), ("half of it is known",))


def quiet(line: str) -> None:
    pass


@pytest.fixture
def backend() -> CannedBackend:
    seven = [f"{BLOCK} Final Answer: 7", f"{BLOCK} Final Answer: 8", "Final Answer: 7", "no idea"]
    half = [r"\boxed{0.5}", r"\boxed{\frac12}", f"{BLOCK} <Path> \\boxed{{1/2}}", r"\boxed{2}"]
    return CannedBackend({"p": seven, "q": half})


def test_every_problem_gets_its_samples_and_one_greedy_response(backend) -> None:
    evaluate(backend, PROBLEMS, prompt=PROMPT, params=SamplingParams(), samples=4, seed=11, greedy=True, log=quiet)
    (requests, params, seed), (cold, cold_params, _) = backend.asked
    assert [(r.problem, r.sample) for r in requests] == [("p", i) for i in range(4)] + [("q", i) for i in range(4)]
    assert bytes(requests[4].prompt).decode() == "Solve: 1 / 2?"
    assert (seed, params.temperature, cold_params.temperature) == (11, 1.0, 0.0)
    assert [(r.problem, r.sample) for r in cold] == [("p", 0), ("q", 0)]


def test_the_result_is_returned_written_and_summarised_in_one_line(backend, tmp_path) -> None:
    said = []
    result = evaluate(
        backend, PROBLEMS, prompt=PROMPT, samples=4, seed=11, out=tmp_path, name="mine", greedy=True, best_of=[2],
        log=said.append,
    )  # fmt: skip
    few = (
        "shares of fewer than 60 cases, whose intervals are too narrow (95% is about 85%): right_path (3), "
        "summary_right (2)"
    )
    assert said == [
        "note on mine: half of it is known",
        f"note on mine: {few}",
        "mine: mean@4 50.0% [50.0, 50.0], pass@4 100.0% [100.0, 100.0], maj@4 100.0% [100.0, 100.0], "
        "parallel_ratio 37.5% [25.0, 50.0] (4 right, 2 wrong, 2 unparsed)",
    ]
    assert json.loads((tmp_path / "eval-mine.json").read_text()) == json.loads(json.dumps(result))
    facts = {
        "kind": "eval",
        "problems": "mine",
        "n": 2,
        "samples": 4,
        "seed": 11,
        "notes": ["half of it is known", few],
    }
    assert facts.items() <= result.items()
    assert result["prompt"] == {"name": "short", "hash": PROMPT.hash}
    assert result["verdicts"] == {"right": 4, "wrong": 2, "unparsed": 2}
    assert result["decoding"]["paths"] == 2
    assert len(read_jsonl(tmp_path / "samples-mine.jsonl")) == 8
    assert len(read_jsonl(tmp_path / "greedy-mine.jsonl")) == 2


def test_every_metric_has_its_value_within_its_interval(backend) -> None:
    metrics = evaluate(backend, PROBLEMS, prompt=PROMPT, samples=4, greedy=True, log=quiet)["metrics"]
    value = {name: metric["value"] for name, metric in metrics.items()}
    assert value["mean@4"] == 0.5
    assert value["pass@4"] == value["greedy"] == 1
    assert value["parallel_ratio"] == 3 / 8
    assert value["well_formed"] == 7 / 8
    assert value["right_path"] == 2 / 3, "the paths of p's two blocks; 7 is not right for q"
    assert value["summary_right"] == 1 / 2
    assert all(m["low"] <= m["value"] <= m["high"] for m in metrics.values())


def test_a_row_holds_the_sample_its_grade_and_the_grade_of_each_path(backend, tmp_path) -> None:
    evaluate(backend, PROBLEMS, prompt=PROMPT, samples=4, out=tmp_path, log=quiet)
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["verdict"] for row in rows] == [
        "right", "wrong", "right", "unparsed", "right", "right", "unparsed", "wrong",
    ]  # fmt: skip
    first = rows[0]
    assert first["text"] == f"{BLOCK} Final Answer: 7"
    assert (first["problem"], first["question"], first["answer"], first["sample"]) == ("p", "3 + 4?", "7", 0)
    assert (first["extracted"], first["well_formed"], first["reason"]) == ("7", True, "ok")
    assert (first["blocks"], first["complete_blocks"], first["paths"], first["truncated"]) == (1, 1, 2, 0)
    assert first["critical_path"] < first["tokens"]
    assert [(s["kind"], s["block"], s["path"], s["right"]) for s in first["segments"]] == [
        ("main", -1, 0, None), ("path", 0, 1, True), ("path", 0, 2, False), ("summary", 0, 0, None),
        ("main", -1, 0, None),
    ]  # fmt: skip
    assert "".join(s["text"] for s in first["segments"]) == first["text"]
    assert "marked" not in first
    assert rows[3]["extracted"] is None
    assert not rows[6]["well_formed"]
    assert not (tmp_path / "greedy.jsonl").exists()
    assert compute_metrics(rows)["mean@4"].value == 0.5


def test_responses_to_the_synthetic_task_carry_their_own_mark(tmp_path) -> None:
    problem = Problem("c", "9 8 5 -> 5", "9 - 8 * 5", checker="countdown")
    good = r"9 - 8 = 1 * 5 = 5 ok \boxed{ 9 - 8 * 5 }"
    bad = r"9 + 8 = 17 - 5 = 12 no \boxed{ 9 + 8 - 5 }"
    result = evaluate(
        CannedBackend({"c": [bad, good, bad]}), [problem], params=SamplingParams(mode="sequential"), samples=3,
        best_of=[3], out=tmp_path, log=quiet,
    )  # fmt: skip
    assert [row["marked"] for row in read_jsonl(tmp_path / "samples.jsonl")] == [False, True, False]
    assert result["metrics"]["best_of_3"]["value"] == 1
    assert result["metrics"]["maj@3"]["value"] == 0
    assert isnan(result["metrics"]["right_path"]["value"]), "a share of nothing"
    assert json.loads((tmp_path / "eval.json").read_text())["metrics"]["right_path"]["value"] is None


# ---- what may be left out ----


def test_the_package_itself_is_the_front_door_and_writes_nothing_unless_asked(backend, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = polythink.evaluate(backend, list(PROBLEMS), samples=4, log=quiet)
    assert result["metrics"]["mean@4"]["value"] == 0.5
    assert result["prompt"]["name"] == "none"
    assert list(tmp_path.iterdir()) == []


def test_a_language_model_brings_its_engine_its_prompt_and_its_decoding() -> None:
    budgets = {"paths": 3, "max_main_tokens": 4, "max_path_tokens": 3, "max_summary_tokens": 3, "max_trace_tokens": 40}
    lm = with_settings(tiny(), prompt="a {problem}", prompt_name="own", mode="sequential", decoding=budgets)
    result = evaluate(lm, [Problem("p", "b c", "7")], samples=2, log=quiet)
    assert (result["prompt"]["name"], result["n"], result["samples"]) == ("own", 1, 2)
    assert (result["decoding"]["paths"], result["decoding"]["mode"]) == (3, "sequential")


def test_problems_may_be_named(tmp_path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"problem": "3 + 4?", "answer": "7"}) + "\n")
    backend = CannedBackend({})
    backend.generate = lambda requests, *args, **named: [
        CannedBackend({r.problem: ["Final Answer: 7"]}).generate([r], None)[0] for r in requests
    ]
    result = evaluate(backend, file, samples=1, log=quiet)
    assert (result["problems"], result["metrics"]["mean@1"]["value"]) == ("own", 1)


@pytest.mark.parametrize(
    ("problems", "samples", "best_of", "message"),
    [
        (ProblemSet("none", ()), 4, (), "problem set 'none' is empty"),
        ([], 4, (), "problem set 'problems' is empty"),
        ([Problem("a", "1 + 1", "2"), Problem("a", "2 + 2", "4")], 4, (), "problems has 2 problems with the id 'a'"),
        (PROBLEMS, 0, (), "samples must be 1 or more, not 0"),
        (PROBLEMS, 4, (2, 8), "best_of 8 needs at least as many samples"),
    ],
)
def test_a_mistake_gives_one_sentence_before_anything_is_drawn(backend, tmp_path, problems, samples, best_of, message):
    with pytest.raises(UserError, match=message):
        evaluate(backend, problems, samples=samples, out=tmp_path / "out", best_of=best_of, log=quiet)
    assert not backend.asked
    assert not (tmp_path / "out").exists()


SAID = ["The answer is 5.", r"\boxed{5}", "Answer: 6", "Final Answer: 5"]


@pytest.mark.parametrize(
    ("answers", "verdicts"),
    [
        ("strict", {"right": 2, "unparsed": 2}),
        ("lenient", {"right": 3, "wrong": 1}),
        ("published", {"unparsed": 3, "right": 1}),
    ],
)
def test_what_is_read_as_an_answer_is_a_rule_and_both_counts_are_kept(answers, verdicts, tmp_path) -> None:
    backend, said = CannedBackend({"p": SAID}), []
    result = evaluate(
        backend, [Problem("p", "2+3", "5")], prompt=PROMPT, params=SamplingParams(), samples=4, answers=answers,
        out=tmp_path / "e", log=said.append,
    )  # fmt: skip
    assert result["verdicts"] == verdicts
    assert result["answers"] == answers
    rows = read_jsonl(tmp_path / "e" / "samples.jsonl")
    if answers == "published":
        assert result["right"] == {}
        assert "strict" not in rows[0]
    else:
        assert result["right"] == {"strict": 2, "lenient": 3}
        assert [row["lenient"] for row in rows] == ["right", "right", "wrong", "right"]
        assert [row["strict"] for row in rows] == ["unparsed", "right", "unparsed", "right"]
        assert any("1 of 4 responses state the correct answer in a form that only the rule lenient" in s for s in said)
    with pytest.raises(UserError, match="no rule 'lax'"):
        evaluate(backend, [Problem("p", "2+3", "5")], prompt=PROMPT, params=SamplingParams(), answers="lax")


@pytest.mark.parametrize("first", ["math", "countdown"])
def test_both_rules_are_counted_over_the_problems_that_have_them(first, tmp_path) -> None:
    sums, chain = Problem("p", "2+3", "5"), Problem("c", "9 8 5 -> 5", "9 - 8 * 5", checker="countdown")
    problems = [sums, chain] if first == "math" else [chain, sums]
    backend, said = CannedBackend({"p": SAID, "c": ["no idea"] * 4}), []
    result = evaluate(
        backend, problems, prompt=PROMPT, params=SamplingParams(), samples=4, out=tmp_path, log=said.append
    )
    assert result["right"] == {"strict": 2, "lenient": 3}
    assert result["verdicts"] == {"unparsed": 6, "right": 2}
    assert any("1 of 4 responses to mathematics state the correct answer in a form that" in line for line in said)
