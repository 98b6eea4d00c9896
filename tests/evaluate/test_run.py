"""Evaluation from requests to files, with an engine that gives canned responses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.metrics import compute_metrics
from polythink.evaluate.run import evaluate
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import PARALLEL_R1

PROMPT = Prompt("short", "Solve: {problem}")
BLOCK = (
    "So <Parallel><Path>it is 7. Final Answer: 7</Path><Path>Final Answer: 8</Path></Parallel>\n<Summary>7</Summary>"
)


class CannedEngine:
    """Gives the responses listed for a problem, sample by sample; greedily always the first one."""

    def __init__(self, responses: dict[str, list[str]], as_rollout) -> None:
        self.responses, self.as_rollout = responses, as_rollout
        self.asked: list[tuple[list, SamplingParams, int]] = []
        self.lm = SimpleNamespace(dialect=PARALLEL_R1, encode_prompt=lambda text: [ord(c) for c in text])

    def generate(self, requests, decoding, seed, label=""):
        self.asked.append((requests, decoding, seed))
        return [self.as_rollout(self.responses[r.problem][r.sample], r.problem, r.sample) for r in requests]


@pytest.fixture
def engine(as_rollout):
    seven = [f"{BLOCK} Final Answer: 7", f"{BLOCK} Final Answer: 8", "Final Answer: 7", "no idea"]
    half = [r"\boxed{0.5}", r"\boxed{\frac12}", f"{BLOCK} <Path> \\boxed{{1/2}}", r"\boxed{2}"]
    return CannedEngine({"p": seven, "q": half}, as_rollout)


PROBLEMS = ProblemSet("mine", (Problem("p", "3 + 4?", "7"), Problem("q", "1 / 2?", "1/2")), ("half of it is known",))


def test_everything_is_drawn_graded_written_and_said(engine, tmp_path):
    said = []
    with Grader() as grader:
        result = evaluate(
            engine,
            PROBLEMS,
            PROMPT,
            SamplingParams(),
            4,
            11,
            grader,
            tmp_path,
            name="mine",
            greedy=True,
            best_of=[2],
            log=said.append,
        )
    (requests, decoding, seed), (cold, cold_decoding, _) = engine.asked
    assert [(r.problem, r.sample) for r in requests] == [("p", i) for i in range(4)] + [("q", i) for i in range(4)]
    assert bytes(requests[4].prompt).decode() == "Solve: 1 / 2?"
    assert (seed, decoding.temperature, cold_decoding.temperature) == (11, 1.0, 0.0)
    assert [(r.problem, r.sample) for r in cold] == [("p", 0), ("q", 0)]

    assert said == ["note on mine: half of it is known", "mine: 4 right, 2 wrong, 2 unparsed"]
    assert json.loads((tmp_path / "eval-mine.json").read_text()) == json.loads(json.dumps(result))
    assert result["problems"] == "mine"
    assert (result["n"], result["samples"], result["seed"]) == (2, 4, 11)
    assert result["prompt"] == {"name": "short", "hash": PROMPT.hash}
    assert result["notes"] == ["half of it is known"]
    assert result["verdicts"] == {"right": 4, "wrong": 2, "unparsed": 2}
    assert result["decoding"]["paths"] == 2

    value = {name: metric["value"] for name, metric in result["metrics"].items()}
    assert value["mean@4"] == 0.5
    assert value["pass@4"] == 1
    assert value["greedy"] == 1
    assert value["parallel_ratio"] == 3 / 8
    assert value["well_formed"] == 7 / 8
    assert value["right_path"] == 2 / 3  # that of p's blocks; 7 is not right for q
    assert value["summary_right"] == 1 / 2
    assert all(m["low"] <= m["value"] <= m["high"] for m in result["metrics"].values())


def test_a_row_holds_the_sample_its_grade_and_each_paths_own(engine, tmp_path):
    with Grader() as grader:
        evaluate(engine, PROBLEMS, PROMPT, SamplingParams(), 4, 0, grader, tmp_path, log=lambda _: None)
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
        ("main", -1, 0, None),
        ("path", 0, 1, True),
        ("path", 0, 2, False),
        ("summary", 0, 0, None),
        ("main", -1, 0, None),
    ]
    assert "".join(s["text"] for s in first["segments"]) == first["text"]
    assert "marked" not in first
    assert rows[3]["extracted"] is None
    assert not rows[6]["well_formed"]
    assert not (tmp_path / "greedy.jsonl").exists()
    assert compute_metrics(rows)["mean@4"].value == 0.5


def test_chains_of_the_synthetic_task_carry_their_own_mark(as_rollout, tmp_path):
    problem = Problem("c", "9 8 5 -> 5", "9 - 8 * 5", checker="countdown")
    good = r"9 - 8 = 1 * 5 = 5 ok \boxed{ 9 - 8 * 5 }"
    bad = r"9 + 8 = 17 - 5 = 12 no \boxed{ 9 + 8 - 5 }"
    engine = CannedEngine({"c": [bad, good, bad]}, as_rollout)
    with Grader() as grader:
        result = evaluate(
            engine, ProblemSet("c", (problem,)), PROMPT, SamplingParams(mode="sequential"), 3, 0, grader, tmp_path,
            best_of=[3], log=lambda _: None,
        )  # fmt: skip
    assert [row["marked"] for row in read_jsonl(tmp_path / "samples.jsonl")] == [False, True, False]
    assert result["metrics"]["best_of_3"]["value"] == 1
    assert result["metrics"]["maj@3"]["value"] == 0
    assert result["metrics"]["right_path"]["value"] != result["metrics"]["right_path"]["value"]  # a share of nothing
    assert json.loads((tmp_path / "eval.json").read_text())["metrics"]["right_path"]["value"] is None


@pytest.mark.parametrize(
    ("problems", "samples", "best_of", "said"),
    [
        (ProblemSet("none", ()), 4, (), "problem set 'none' is empty"),
        (PROBLEMS, 0, (), "samples must be 1 or more, not 0"),
        (PROBLEMS, 4, (2, 8), "best_of 8 needs at least as many samples"),
    ],
)
def test_a_mistake_gives_one_sentence_before_anything_is_drawn(engine, tmp_path, problems, samples, best_of, said):
    with Grader() as grader, pytest.raises(UserError, match=said):
        evaluate(engine, problems, PROMPT, SamplingParams(), samples, 0, grader, tmp_path, best_of=best_of)
    assert not engine.asked
    assert not list(tmp_path.iterdir())
