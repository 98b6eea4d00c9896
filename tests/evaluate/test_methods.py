"""The methods of a comparison: the arithmetic of each on hand-made responses, and their sampling parameters."""

from __future__ import annotations

import pytest

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.config import numbers_of_paths
from polythink.evaluate.methods import (
    in_sequence,
    reduce_samples,
    sequential_budget,
    with_fixed_path_temperature,
    with_paths,
)
from polythink.evaluate.samples import Grading, Paths, Samples
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.trace.dialect import DIALECTS, PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.rollout import Rollout, Segment

BUDGETS = dict(paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80)
SEVEN = Problem("p", "3 + 4?", "7")
TWO = Problem("q", "1 + 1?", "2")
CHAIN = Problem("c", "9 8 5 -> 5", "9 - 8 * 5", checker="countdown")


def response(paths: list[str], summary: str, lengths: list[int], problem: Problem = SEVEN, sample: int = 0) -> Rollout:
    """A ParaThinker response whose paths have these lengths; 4 tokens of summary and 2 of main text follow."""

    def segment(kind: str, path: int, text: str, n: int) -> Segment:
        block = -1 if kind == "main" else 0
        return Segment(kind, block, path, [5] * n, [True] * n, [-0.5] * n, finish_reason="tag", label=path, text=text)

    segments = [
        segment("path", i, f"<think{i}>{text}</think{i}>", n)
        for i, (text, n) in enumerate(zip(paths, lengths, strict=True), start=1)
    ]
    segments += [segment("summary", 0, f"<summary>{summary}</summary>", 4), segment("main", 0, "", 2)]
    return Rollout(problem.key, sample, "structured", (1, 2, 3), segments)


def without_block(problem: Problem, sample: int, text: str) -> Rollout:
    """A response of three tokens of main text."""
    only = Segment("main", -1, 0, [5] * 3, [True] * 3, [-0.5] * 3, finish_reason="eos", text=text)
    return Rollout(problem.key, sample, "structured", (1, 2, 3), [only])


def graded(rollouts: list[Rollout], *asked: Problem) -> Samples:
    with Grader(dialect=PARATHINKER) as grader:
        grading = Grading({problem.key: problem for problem in asked}, grader, PARATHINKER)
        rows = [grading.row(rollout) for rollout in rollouts]
        return Samples(rollouts, rows, list(map(grading.paths, rollouts, rows)), seconds=2.0, forwarded=100)


# ---- the paths of one response ----


def test_the_paths_of_a_response_have_answers_and_a_cost_of_their_own() -> None:
    said = [r"it is \boxed{7}", "Final Answer: 8", r"\boxed{ 8 }", "no idea", r"so \boxed{7.}"]
    samples = graded([response(said, r"\boxed{8}", [5, 9, 3, 2, 4])], SEVEN)
    (paths,) = samples.paths
    assert paths.votes == ("7", "8", "8", None, "7")
    assert paths.right == (True, False, False, False, True)
    assert paths.marked is None
    assert (paths.tokens, paths.critical_path) == (23, 9)
    assert (samples.rows[0]["tokens"], samples.rows[0]["critical_path"]) == (29, 15)
    assert paths.majority == 0.5, "two votes for each of two answers: a tie counts its share"


def test_a_response_without_a_block_is_its_own_only_path() -> None:
    (alone,) = graded([without_block(TWO, 0, r"\boxed{2}")], TWO).paths
    assert alone == Paths(votes=("2",), right=(True,), marked=None, tokens=3, critical_path=3, block=False)


@pytest.mark.parametrize(
    ("votes", "right", "majority"),
    [
        ("778", (1, 1, 0), 1),
        ("788", (1, 0, 0), 0),
        ("789", (1, 0, 0), 1 / 3),
        ("7788", (1, 1, 0, 0), 1 / 2),
        ([None, None, "7"], (0, 0, 1), 1),
        ([None, None], (0, 0), 0),
        ("77889", (1, 1, 0, 0, 0), 1 / 2),
        (["7", "7.0", "8"], (1, 1, 0), 1),  # two spellings of one value are one answer
        (["8.0", "7", "8"], (0, 1, 0), 0),
    ],
)
def test_ties_count_their_share(votes, right, majority) -> None:
    paths = Paths(tuple(votes), tuple(map(bool, right)), None, 1, 1)
    assert paths.majority == pytest.approx(majority)


# ---- methods ----


def test_a_path_is_chosen_by_vote_by_its_mark_or_by_an_oracle() -> None:
    good, bad, liar = "9 - 8 = 1 * 5 = 5 ok", "9 + 8 = 17 - 5 = 12 no", "9 + 8 = 17 - 5 = 5 ok"
    rollouts = [
        response([f" {text} " for text in paths], r"\boxed{ 9 - 8 * 5 }", [10] * len(paths), CHAIN, i)
        for i, paths in enumerate([[bad, good, bad], [good, liar], [bad, bad], [bad]])
    ]
    samples = graded(rollouts, CHAIN)
    assert [p.marked for p in samples.paths] == [(False, True, False), (True, True), (False, False), (False,)]
    assert [p.by_mark for p in samples.paths] == [1, 0.5, 0, 0]
    assert [p.majority for p in samples.paths] == [0, 0.5, 0, 0]
    results = {name: reduce_samples(name, 3, samples) for name in ("majority_paths", "marked_path", "oracle")}
    accuracies = {name: result.metrics["accuracy"].value for name, result in results.items()}
    assert accuracies == {"majority_paths": 0.125, "marked_path": 0.375, "oracle": 0.5}
    oracle = results["oracle"]
    assert oracle.metrics["tokens"].value == 10 * (3 + 2 + 2 + 1) / 4
    assert oracle.metrics["critical_path"].value == 10
    assert oracle.seconds is None, "the responses were drawn for another method"


def test_a_summary_is_measured_given_a_correct_path() -> None:
    rollouts = [
        response([r"\boxed{7}", r"\boxed{8}"], r"\boxed{7}", [4, 6]),  # right, and a right path
        response([r"\boxed{7}", r"\boxed{8}"], r"\boxed{8}", [4, 6], sample=1),  # wrong, with a right path
        response([r"\boxed{3}", r"\boxed{8}"], r"\boxed{2}", [5, 5], TWO),  # right without one
        without_block(TWO, 1, r"\boxed{2}"),
    ]
    samples = graded(rollouts, SEVEN, TWO)
    result = reduce_samples("parallel", 2, samples)
    assert result.metrics["accuracy"].numerator.tolist() == [0.5, 1.0]
    assert (result.metrics["right_path"].value, result.metrics["summary_right"].value) == (2 / 3, 1 / 2)
    assert (result.seconds, result.forwarded) == (0.5, 25)
    assert result.metrics["tokens"].numerator.tolist() == [16, (16 + 3) / 2]
    assert result.metrics["critical_path"].numerator.tolist() == [12, (11 + 3) / 2]
    oracle = reduce_samples("oracle", 2, samples)
    assert oracle.metrics["accuracy"].numerator.tolist() == [1, 0.5]


def pool(*answers: tuple[str, bool, int], marked: tuple[bool, ...] = ()) -> Samples:
    """Sequential responses to one problem, of (answer, right, tokens), that took 0.75 s and 120 tokens together."""
    rows = [
        {"problem": "p", "extracted": answer, "verdict": "right" if right else "wrong", "tokens": tokens,
         "critical_path": tokens, **({"marked": marked[i]} if marked else {})}
        for i, (answer, right, tokens) in enumerate(answers)
    ]  # fmt: skip
    return Samples([], rows, [None] * len(rows), 0.75, 120)


ANSWERS = (("7", True, 10), ("8", False, 20), ("8", False, 30))


def test_sequential_responses_are_chosen_from_a_pool() -> None:
    two = reduce_samples("majority_sequential", 2, pool(*ANSWERS), 2)
    assert two.metrics["accuracy"].value == pytest.approx((0.5 + 0.5 + 0) / 3), "pairs: 7-8, 7-8, 8-8"
    assert two.metrics["tokens"].value == 40
    assert two.metrics["critical_path"].value == pytest.approx((20 + 30 + 30) / 3)
    assert (two.seconds, two.forwarded, two.responses) == (0.5, 80, 2)
    one = reduce_samples("sequential", 1, pool(*ANSWERS))
    assert (one.metrics["accuracy"].value, one.metrics["tokens"].value) == (pytest.approx(1 / 3), 20)


def test_what_the_tokens_pay_for_is_chosen_by_mark_where_there_are_marks() -> None:
    samples = pool(*ANSWERS, marked=(True, False, False))
    by_mark = reduce_samples("sequential_tokens", 2, samples, 2)
    assert by_mark.metrics["accuracy"].value == pytest.approx(2 / 3), "two of three pairs hold the marked one"
    assert reduce_samples("majority_sequential", 2, samples, 2).metrics["accuracy"].value == pytest.approx(1 / 3)


# ---- sampling parameters ----


@pytest.mark.parametrize(("paths", "tokens"), [(16, None), (4, None), (8, 5)])
def test_every_path_keeps_its_budget(paths, tokens) -> None:
    params = SamplingParams(**{**BUDGETS, "paths": 4, "max_path_tokens": 10, "max_trace_tokens": 70})
    wide = with_paths(params, paths, tokens)
    assert (wide.paths, wide.max_path_tokens) == (paths, tokens or 10)
    assert wide.max_trace_tokens >= 8 + paths * (wide.max_path_tokens + 2) + 6
    assert with_paths(params.model_copy(update={"max_trace_tokens": 5000}), paths, tokens).max_trace_tokens == 5000


def test_a_stride_grows_only_where_paths_would_overlap() -> None:
    flat = SamplingParams(**{**BUDGETS, "max_path_tokens": 10, "path_position_stride": "auto"})
    assert [with_paths(flat, *asked).stride for asked in ((16,), (8, 5), (2, 30))] == [12, 12, 32]


def test_the_temperature_of_paths_does_not_depend_on_their_number() -> None:
    greedy = SamplingParams(**{**BUDGETS, "paths": 1}, temperature=0.0)
    assert with_paths(with_fixed_path_temperature(greedy), 1).temperature_of("path") == 1.0
    cool = greedy.model_copy(update={"path_temperature": 0.3})
    assert with_fixed_path_temperature(cool).temperature_of("path") == 0.3


def test_a_sequential_response_may_be_as_long_as_the_paths() -> None:
    params = SamplingParams(**{**BUDGETS, "paths": 4, "max_path_tokens": 10, "max_blocks": 1})
    assert [sequential_budget(params, paths=p) for p in (1, 4)] == [10 + 6 + 8, 4 * 10 + 6 + 8]
    assert sequential_budget(params, 9, 3) == 9 + 20
    several = params.model_copy(update={"max_blocks": 3})
    assert [sequential_budget(several, paths=p) for p in (1, 4)] == [8 + 3 * (10 + 6), 8 + 3 * (4 * 10 + 6)]
    assert sequential_budget(several, 9, 3) == 9 + 3 * 20
    single = in_sequence(params, 24)
    assert (single.mode, single.max_main_tokens, single.max_trace_tokens) == ("sequential", 24, 24)
    assert in_sequence(params.model_copy(update={"temperature": 0.0}), 24).temperature == 1.0, "sampled as paths are"


def test_paths_end_where_the_numbers_of_the_dialect_do() -> None:
    assert numbers_of_paths((), "structured", PARATHINKER) == ([1, 2, 4, 8, 16], [])
    assert numbers_of_paths((32, 3), "structured", PARALLEL_R1) == ([3, 32], [])
    kept, notes = numbers_of_paths((), "structured", get_dialect("parathinker:6"))
    assert kept == [1, 2, 4]
    assert notes == ["8, 16 paths were left out: the dialect parathinker:6 has 6 numbers"]
    with pytest.raises(UserError, match="17 paths are more than the 16 numbers of the dialect parathinker"):
        numbers_of_paths((1, 17), "structured", PARATHINKER)
    with pytest.raises(UserError, match="a mode that draws them at once"):
        numbers_of_paths((), "sequential", PARATHINKER)


@pytest.mark.parametrize("dialect", [d for d in DIALECTS.values() if d.declares_paths], ids=lambda d: d.name)
@pytest.mark.parametrize("given", [(), (1,), (1, 2)])
def test_paths_that_the_model_declares_have_no_number_to_compare(dialect, given) -> None:
    with pytest.raises(UserError, match=f"in the dialect {dialect.name} the model says by its outlines how many paths"):
        numbers_of_paths(given, "structured", dialect)
