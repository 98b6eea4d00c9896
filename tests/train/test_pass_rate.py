"""Problems by pass rate: which are asked, what is kept of the measuring, and what is refused."""

from __future__ import annotations

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
from polythink.train.pass_rate import FILE, sometimes_solved
from polythink.train.pass_rate_key import PassRateConfig

PROBLEMS = [Problem(key=str(i), question=f"{i} + 0?", answer=str(i)) for i in range(10)]
RIGHT = {str(i): min(i, 8) for i in range(10)}  # of 8 samples


def measure(asked: list[list[str]]):
    def solved(problems: list[Problem]) -> list[int]:
        asked.append([p.key for p in problems])
        return [RIGHT[p.key] for p in problems]

    return solved


@pytest.mark.parametrize(
    ("at_least", "at_most", "kept"),
    [(0.1, 0.9, "1234567"), (0.125, 0.5, "1234"), (0.0, 0.0, "0"), (0.0, 1.0, "0123456789"), (1.0, 1.0, "89")],
)
def test_problems_in_the_range_are_kept_in_their_order(at_least, at_most, kept, tmp_path):
    config = PassRateConfig(at_least=at_least, at_most=at_most)
    found = sometimes_solved(PROBLEMS, config, measure([]), tmp_path, 0, 3)
    assert [p.key for p in found] == list(kept)
    rows = read_jsonl(tmp_path / FILE)
    assert [(row["problem"], row["right"], row["samples"]) for row in rows] == [(*item, 8) for item in RIGHT.items()]


def test_what_was_measured_is_not_measured_again(tmp_path):
    def stopped(problems):
        if problems[0].key == "6":
            raise KeyboardInterrupt
        return measure(asked)(problems)

    asked, config = [], PassRateConfig()
    with pytest.raises(KeyboardInterrupt):
        sometimes_solved(PROBLEMS, config, stopped, tmp_path, 0, 3)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"problem": "6", "ri')  # torn by a kill
    found = sometimes_solved(PROBLEMS, config, measure(asked), tmp_path, 0, 3)
    assert asked == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert sometimes_solved(PROBLEMS, config, None, tmp_path, 0, 3) == found, "nothing is left to measure"


def test_some_of_many_problems_are_chosen_by_the_seed(tmp_path):
    def chosen(seed: int) -> set[str]:
        asked = []
        sometimes_solved(
            PROBLEMS, PassRateConfig(problems=4, at_least=0, at_most=1), measure(asked), tmp_path / str(seed), seed, 9
        )
        return set(asked[0])

    first, other = chosen(0), chosen(1)
    assert len(first) == len(other) == 4
    assert first != other


def test_no_problem_left_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"^0 of 2 .* 1 have a lower one, 1 a higher one: none"):
        sometimes_solved([PROBLEMS[0], PROBLEMS[9]], PassRateConfig(), measure([]), tmp_path, 0, 3)


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
