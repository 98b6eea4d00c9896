"""The problems of countdown are made without its chains: the same as from them, and none changes by a faster way."""

from __future__ import annotations

import hashlib
import random
from itertools import product

import pytest

from polythink.problems.problem import Problem
from polythink.problems.tasks import countdown
from polythink.problems.tasks.countdown import Chain, chains, demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle

# of keys, questions and answers of both splits in their order, as they were when written down
RECORDED = {"mini": "9087bd", "easy": "b53c54", "hard": "05f189"}


def slow_chains(numbers: tuple[int, ...]) -> set[Chain]:
    """Every choice of operators, computed one by one, whose values lie in range."""
    found = set()
    for operators in product(countdown.OPERATORS, repeat=len(numbers) - 1):
        value, values = numbers[0], []
        for op, number in zip(operators, numbers[1:], strict=True):
            value = countdown.OPERATORS[op](value, number)
            values.append(value)
        if all(countdown.LOW <= value <= countdown.HIGH for value in values):
            found.add(Chain(numbers, operators, tuple(values)))
    return found


def slow_problems(level: str, numbers: tuple[int, ...]) -> list[tuple[str, str, str]]:
    """Key, question and answer of the targets that one chain alone reaches."""
    values = [chain.values[-1] for chain in slow_chains(numbers)]
    only = {chain.values[-1]: chain for chain in slow_chains(numbers) if values.count(chain.values[-1]) == 1}
    given = [str(number) for number in numbers]
    return [
        (f"countdown-{level}:{'.'.join(given)}>{target}", f"{' '.join(given)} -> {target}", only[target].expression)
        for target in sorted(only)
    ]


@pytest.mark.parametrize("level", countdown.LEVELS)
def test_problems_are_those_whose_target_one_chain_reaches(level):
    made: dict[str, list[Problem]] = {}
    for problem in (*problems(level, "train"), *problems(level, "heldout")):
        made.setdefault(problem.question.partition(" -> ")[0], []).append(problem)
    lists = list(product(range(1, 10), repeat=countdown.LEVELS[level]))
    for numbers in random.Random(3).sample(lists, min(len(lists), 150)):
        found = [(p.key, p.question, p.answer) for p in made.get(" ".join(map(str, numbers)), [])]
        assert sorted(found) == sorted(slow_problems(level, numbers))
        assert sorted(chains(numbers)) == sorted(slow_chains(numbers))


@pytest.mark.parametrize("level", countdown.LEVELS)
def test_problems_and_their_order_are_those_that_were_recorded(level):
    digest = hashlib.sha256()
    for split in ("train", "heldout"):
        for problem in problems(level, split, seed=3):
            digest.update(f"{problem.key}|{problem.question}|{problem.answer}\n".encode())
    assert digest.hexdigest()[:6] == RECORDED[level]


def test_demonstrations_are_those_that_were_recorded():
    digest, given = hashlib.sha256(), problems("hard", "train", 40)
    for number, style in product(range(40), (DemoStyle("sequential"), DemoStyle(), DemoStyle(retries=2, p_right=0.2))):
        digest.update(demonstrate(given[number], style, random.Random(number)).encode())
    assert digest.hexdigest()[:6] == "15c25c"


def test_an_answer_in_other_words_is_no_chain_of_the_problem():
    problem = Problem("k", "9 8 -> 1", "9 -  8", checker="countdown")  # two spaces: not what a chain writes
    style = DemoStyle("sequential", p_right=1.0)
    tried = {demonstrate(problem, style, random.Random(number)).partition(" = ")[0] for number in range(20)}
    assert tried == {"9 - 8", "9 + 8"}
