"""The majority vote: which answers are one answer, and the expected accuracy of the most frequent of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

from polythink.problems.equality import compare
from polythink.problems.tasks.task import Task

MAX_COMPARED = 100  # spellings that are compared with each other: the most frequent ones, so that the cost is bounded


def normalise(answer: str | None, task: Task) -> str | None:
    """An extracted answer as a vote, spelt as its task counts it; None if nothing is left."""
    return task.vote(answer or "") or None


def maj_at_k(votes: Sequence[str | None], right: Sequence[bool], k: int, by_value: bool = True) -> float:
    """The expected accuracy of the most frequent answer among k samples drawn without replacement.

    `votes` are answers; None (nothing extracted) is no vote. Answers of one value are one answer (`one_answer_each`);
    with `by_value` False those of one spelling are. A tie is broken at random, so it counts its share; without any vote
    the majority is wrong. Exact for every k up to the number of samples: for each correct answer and each number t of
    votes for it, the draws in which no other answer gets more than t are counted.
    """
    assert 1 <= k <= len(votes)
    votes = one_answer_each(votes, right) if by_value else votes
    sizes = Counter(vote for vote in votes if vote is not None)
    correct = Counter(vote for vote, r in zip(votes, right, strict=True) if r and vote is not None)
    expected = 0.0
    for answer, n_right in correct.items():
        others = [size for other, size in sizes.items() if other != answer]
        silent = len(votes) - sum(sizes.values())
        for t in range(1, min(k, sizes[answer]) + 1):
            ways = _draws_not_above(others, silent, k - t, t)
            share = sum(count / (1 + ties) for ties, count in ways.items())
            expected += n_right / sizes[answer] * comb(sizes[answer], t) * share
    return expected / comb(len(votes), k)


def one_answer_each(votes: Sequence[str | None], right: Sequence[bool]) -> list[str | None]:
    """The votes with one spelling for each value, whatever their order.

    Correct answers all equal the reference, so they are one; two wrong ones are the same if their spelling or their
    number is (`problems.equality.compare`); a correct and a wrong one never are. What equals a third answer is equal.
    Of more than MAX_COMPARED spellings only the most frequent are compared.
    """
    correct = {vote for vote, r in zip(votes, right, strict=True) if r and vote is not None}
    reference = min(correct, default=None)
    votes = [reference if vote in correct else vote for vote in votes]
    sizes = Counter(vote for vote in votes if vote is not None)
    found = {vote: vote for vote in sizes}  # a spelling -> the spelling that stands for its value

    def standing_for(vote: str) -> str:
        while found[vote] != vote:
            vote = found[vote]
        return vote

    first = sorted(sizes, key=lambda vote: (-sizes[vote], vote))[:MAX_COMPARED]
    for one, other in combinations(first, 2):
        a, b = standing_for(one), standing_for(other)
        if a != b and not correct & {one, other} and _same(*sorted((one, other))):
            found[max(a, b)] = min(a, b)
    return [None if vote is None else standing_for(vote) for vote in votes]


@lru_cache(maxsize=1 << 16)
def _same(one: str, other: str) -> bool:
    """Whether two wrong answers have one value, as far as that shows without algebra."""
    return compare(one, other) is True


def _draws_not_above(sizes: Sequence[int], silent: int, k: int, t: int) -> Counter[int]:
    """How many groups get exactly t -> number of ways to draw k samples, from groups of `sizes` and `silent` others, so
    that no group gets more than t."""
    ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})  # (drawn, ties) -> ways
    for size in sizes:
        longer: Counter[tuple[int, int]] = Counter()
        for (drawn, ties), count in ways.items():
            for take in range(min(size, t, k - drawn) + 1):
                longer[drawn + take, ties + (take == t)] += count * comb(size, take)
        ways = longer
    by_ties: Counter[int] = Counter()
    for (drawn, ties), count in ways.items():
        by_ties[ties] += count * comb(silent, k - drawn)
    return by_ties
