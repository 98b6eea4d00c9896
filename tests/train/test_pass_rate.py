"""Problems by pass rate: which are asked, what is kept of the measuring, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.training import PROMPT, make_lm
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo
from polythink.train.own_engine import OwnEngine
from polythink.train.pass_rate import FILE, Measure, Rate, in_range, sometimes_solved
from polythink.train.pass_rate_key import PassRateConfig

PROBLEMS = [Problem(key=str(i), question=f"{i} + 0?", answer=str(i)) for i in range(10)]
RIGHT = {str(i): min(i, 8) for i in range(10)}  # of 8 samples


def measure(asked: list[list[str]]) -> Measure:
    def solved(problems: Sequence[Problem]) -> list[Rate]:
        asked.append([p.key for p in problems])
        return [Rate(RIGHT[p.key], 8) for p in problems]

    return solved


def keys_of(folder: Path, config: PassRateConfig | None = None, measure: Measure | None = None, **given) -> list[str]:
    given = {"seed": 0, "at_once": 3, **given}
    problems = given.pop("problems", PROBLEMS)
    return [p.key for p in sometimes_solved(problems, config or PassRateConfig(), measure, folder, **given)]


@pytest.mark.parametrize(
    ("at_least", "at_most", "kept"),
    [(0.1, 0.9, "1234567"), (0.125, 0.5, "1234"), (0.0, 0.0, "0"), (0.0, 1.0, "0123456789"), (1.0, 1.0, "89")],
)
def test_problems_in_the_range_are_kept_in_their_order(at_least, at_most, kept, tmp_path):
    assert keys_of(tmp_path, PassRateConfig(at_least=at_least, at_most=at_most), measure([])) == list(kept)
    rows = read_jsonl(tmp_path / FILE)
    assert [(row["problem"], row["right"], row["graded"], row["samples"]) for row in rows] == [
        (*item, 8, 8) for item in RIGHT.items()
    ]


def test_what_was_measured_is_not_measured_again(tmp_path):
    def stopped(problems: Sequence[Problem]) -> list[Rate]:
        if problems[0].key == "6":
            raise KeyboardInterrupt
        return measure(asked)(problems)

    asked: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        keys_of(tmp_path, measure=stopped)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"problem": "6", "ri')  # torn by a kill
    found = keys_of(tmp_path, measure=measure(asked))
    assert asked == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert keys_of(tmp_path, trained=True) == found, "nothing is left to measure"


def test_rates_over_another_number_of_samples_are_measured_again(tmp_path):
    asked: list[list[str]] = []
    keys_of(tmp_path, measure=measure([]))
    keys_of(tmp_path, PassRateConfig(samples=4), lambda some: [Rate(1, 4) for _ in measure(asked)(some)])
    assert [key for part in asked for key in part] == [p.key for p in PROBLEMS]


def test_problems_of_two_sets_with_the_same_keys_have_rates_of_their_own(tmp_path):
    """Rows of files without ids are numbered; two files of one name are one source."""
    easy, hard = ([replace(p, question=f"{name} {p.question}") for p in PROBLEMS[:3]] for name in ("easy", "hard"))

    def solved(problems: Sequence[Problem]) -> list[Rate]:
        asked.extend(problems)
        if len(asked) > 3 and not tmp_path.joinpath("goes on").exists():
            raise KeyboardInterrupt
        return [Rate(8 if p.question.startswith("easy") else 4, 8) for p in problems]

    asked: list[Problem] = []
    with pytest.raises(KeyboardInterrupt):
        sometimes_solved([*easy, *hard], PassRateConfig(), solved, tmp_path, seed=0, at_once=3)
    (tmp_path / "goes on").touch()
    assert sometimes_solved([*easy, *hard], PassRateConfig(), solved, tmp_path, seed=0, at_once=3) == hard
    assert asked == [*easy, *hard, *hard]


def test_a_trained_model_is_not_measured(tmp_path):
    keys_of(tmp_path, measure=measure([]), problems=PROBLEMS[:6])
    with pytest.raises(UserError, match=r"pass_rates.jsonl lacks 4 of 10 problems, .* put the file back, or delete"):
        keys_of(tmp_path, measure=measure([]), trained=True)


def test_some_of_many_problems_are_chosen_by_the_seed(tmp_path):
    def chosen(seed: int) -> set[str]:
        config = PassRateConfig(problems=4, at_least=0, at_most=1)
        return set(keys_of(tmp_path / str(seed), config, measure([]), seed=seed, at_once=9))

    first, other = chosen(0), chosen(1)
    assert len(first) == len(other) == 4
    assert first != other


def test_what_was_not_graded_in_time_does_not_count(tmp_path, caplog):
    rates = [Rate(6, 6), Rate(3, 6), Rate(0, 0), Rate(0, 8)]
    assert in_range(rates, PassRateConfig(), tmp_path) == [1]
    assert "1 of 4 problems" in caplog.text
    assert "1 have a lower one, 1 a higher one; 12 responses were not graded in time" in caplog.text


def test_bounds_are_compared_as_shares(tmp_path, caplog):
    assert 0.58 * 100 < 58, "as products they would be rounded"
    assert in_range([Rate(58, 100)], PassRateConfig(samples=100, at_most=0.58), tmp_path) == [0]
    assert "0 have a lower one, 0 a higher one" in caplog.text


def test_no_problem_left_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"^0 of 2 .* 1 have a lower one, 1 a higher one: none .* after deleting /"):
        keys_of(tmp_path, measure=measure([]), problems=[PROBLEMS[0], PROBLEMS[9]])


def test_a_range_without_a_share_is_refused():
    with pytest.raises(ValueError, match=r"no number of 4 samples is a share from at_least: 0.3 to at_most: 0.4"):
        PassRateConfig(samples=4, at_least=0.3, at_most=0.4)


@pytest.mark.parametrize("killed", [False, True])
def test_a_stage_asks_those_alone(killed, mini, tmp_path, monkeypatch):
    """Problems whose first number is even count as solved half of the time, whatever the response."""
    drawn, draw = [], OwnEngine.draw
    monkeypatch.setattr(OwnEngine, "draw", lambda engine, asked: drawn.append(draw(engine, asked)) or drawn[-1])

    def grade_many(self, texts) -> list[Grade]:
        even = [int(problem.question.split()[0]) % 2 == 0 for _, problem in texts]
        return [Grade("right" if half and i % 2 else "wrong", None) for i, half in enumerate(even)]

    monkeypatch.setattr(Grader, "grade_many", grade_many)
    given = {"steps": 2, "prompts_per_step": 2, "group_size": 2, "lr": 1e-3, "micro_batch": 4, "checkpoint_every": 1}
    wanted = {"samples": 2, "problems": 12}
    params = SamplingParams(max_blocks=0, max_main_tokens=6, max_trace_tokens=12, mode="sequential")

    def run(folder, **changes):
        config = parse_config(GRPOConfig, {**given, "reward": "accuracy", "pass_rate": wanted, **changes}, "test")
        train_grpo(make_lm(), config, mini, folder, prompt=PROMPT, params=params)
        return read_jsonl(folder / "metrics.jsonl")

    if killed:
        run(tmp_path, steps=1)
    rows = run(tmp_path)
    measured = read_jsonl(tmp_path / FILE)
    assert len(measured) == 12
    kept = {row["problem"] for row in measured if row["right"] == 1}
    assert 0 < len(kept) < 12
    asked = [{rollout.problem for rollout in rollouts} for rollouts in drawn]
    assert len(asked) == 3, "measured once, and a draw for each of two steps"
    assert all(problems <= kept for problems in asked[1:])
    assert [row["zero_spread"] for row in rows] == [0.0, 0.0]
