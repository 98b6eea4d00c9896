"""Attribution: traces, grading of whole traces, and that a path's letter is all that the summary has to go by."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.sets import load_problems
from polythink.problems.tasks.attribution import VOCABULARY, demonstrate, judge, parse_question, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.tree import Trace

ASKED = Problem("p", "a d e g j k -> 4 of 6", "4", "attribution")
PATHS = "<think9> . . . k . . </think9><think2> . . . a . . </think2><think11> . . . a . . </think11>"


def numbered(paths: int) -> DemoStyle:
    """So many paths with numbers from the whole inventory."""
    return DemoStyle(paths=(paths,), labels="random")


def trace(summary: str, paths: str = PATHS) -> str:
    return f"{paths}<summary> {summary} </summary>"


def test_problems_have_distinct_keys_and_splits_that_never_meet():
    train, held = problems("train"), problems("heldout")
    everything = Counter(p.key for p in (*train, *held))
    assert max(everything.values()) == 1
    assert 0.1 < len(held) / len(everything) < 0.14
    assert problems("train", limit=5, seed=3) == problems("train", seed=3)[:5] != problems("train", limit=5, seed=4)
    for problem in held[:50]:
        question = parse_question(problem.question)
        assert question.text == problem.question
        assert str(question.place) == problem.answer
        assert 3 <= question.place <= question.length
    assert load_problems("attribution").problems == held
    assert load_problems("attribution:train", limit=7, seed=3).problems == problems("train", 7, seed=3)


@pytest.mark.parametrize("paths", [1, 2, 5, 16])
def test_a_demonstration_is_canonical_and_right(paths):
    rng = random.Random(paths)
    with Grader(dialect=PARATHINKER) as grader:
        for problem in problems("train", limit=40, seed=paths):
            text = demonstrate(problem, numbered(paths), rng, PARATHINKER)
            assert render(parse(text, PARATHINKER), PARATHINKER) == text
            (block,) = parse(text, PARATHINKER).blocks
            summary = block.summary.parts[0].split()
            assert summary[::2] == [str(n) for n in sorted(block.labels)]
            for label, path in block.numbered():
                said = path.parts[0].split()
                assert summary[summary.index(str(label)) + 1] == said[int(problem.answer) - 1]
                assert grader.grade_path(path.parts[0], problem)
            grade = grader.grade(text, problem)
            assert (grade.verdict, grade.share) == ("right", 1.0)


def test_what_a_demonstration_draws():
    problem, rng = problems("train")[0], random.Random(0)
    texts = [demonstrate(problem, numbered(3), rng, PARATHINKER) for _ in range(400)]
    blocks = [parse(text, PARATHINKER).blocks[0] for text in texts]
    assert {label for block in blocks for label in block.labels} == set(range(1, 17))
    assert 0.1 < sum(block.labels == tuple(sorted(block.labels)) for block in blocks) / 400 < 0.24  # 1 of 3!
    letters = Counter(path.parts[0].replace(".", "").strip() for block in blocks for path in block.paths)
    assert set(letters) == set(parse_question(problem.question).letters)
    assert min(letters.values()) > 150  # of 1200, six letters
    assert all(len({len(path.parts[0].split()) for path in block.paths}) == 1 for block in blocks)
    ordered = parse(demonstrate(problem, DemoStyle(paths=(3,)), rng, PARATHINKER), PARATHINKER)
    assert ordered.blocks[0].labels == (1, 2, 3)


def test_every_word_is_in_the_vocabulary():
    rng, wide = random.Random(0), get_dialect("parathinker:64")
    for problem in (*problems("train", limit=20), *problems("heldout", limit=20)):
        text = demonstrate(problem, numbered(64), rng, wide)
        for tag in wide.tags:
            text = text.replace(tag, " ")
        assert {*text.split(), *problem.question.split()} <= set(VOCABULARY)


@pytest.mark.parametrize(
    ("text", "verdict", "share"),
    [
        (trace("2 a 9 k 11 a"), "right", 1.0),
        (trace("2 a 9 k 11 k"), "wrong", 2 / 3),
        (trace("2 k 9 a 11 a"), "wrong", 1 / 3),  # said by the other path
        (trace("9 k 2 a 11 a"), "wrong", 1.0),  # in the order in which the paths stand
        (trace("2 a 9 k"), "wrong", 2 / 3),
        (trace("2 a 9 k 11 a 12 a"), "wrong", 1.0),  # a path that is not there
        (trace("2 a 9 k 11 a 11 a"), "wrong", 1.0),
        (trace("2 a 9 k 11"), "wrong", 2 / 3),
        (trace(""), "unparsed", 0.0),
        (PATHS, "unparsed", 0.0),
        ("2 a 9 k 11 a", "unparsed", 0.0),
        (trace("3 k", "<think3> . . . k . . </think3>"), "right", 1.0),
        (trace("3 .", "<think3> . . . . </think3>"), "right", 1.0),  # reported as said, if not as asked
        (trace("3 k", "<think3> k . </think3>"), "wrong", 0.0),  # cut before the place
        (trace("3", "<think3> . . </think3>"), "wrong", 0.0),
        (trace("3 k 4 a", "<think3> . . . k . . </think3><think4> . </think4>"), "wrong", 0.5),
        (trace("2 a 9 k 11 a") + trace("1 d", "<think1> . . . d . . </think1>"), "right", 1.0),  # the last block
        (trace("2 a 9 k 11 a") + trace("1 a", "<think1> . . . d . . </think1>"), "wrong", 0.0),
    ],
)
def test_verdicts(text: str, verdict: str, share: float):
    with Grader(dialect=PARATHINKER) as grader:
        grade = grader.grade(text, ASKED)
        assert (grade.verdict, grade.share) == (verdict, share)
        assert grader.grade_many([(text, ASKED)] * 3) == [grade] * 3


@pytest.mark.parametrize(
    ("path", "right"),
    [
        (". . . k . .", True),
        ("<think4> . . . d . . </think4>", True),
        (". . k . . .", False),
        (". . . b . .", False),  # not one of the letters
        (". . . k . . .", False),
        (". . . k k .", False),
        ("", False),
    ],
)
def test_a_path_is_right_if_it_says_what_it_was_asked_to(path: str, right: bool):
    with Grader(dialect=PARATHINKER) as grader:
        assert grader.grade_path(path, ASKED) is right


def test_who_knows_the_letters_and_not_whose_they_are_does_badly():
    """The best such summary names the commonest letter in every line."""
    rng, shares = random.Random(1), []
    for problem in problems("heldout", limit=300):
        (block,) = parse(demonstrate(problem, numbered(8), rng, PARATHINKER), PARATHINKER).blocks
        letters = Counter(path.parts[0].replace(".", "").strip() for path in block.paths)
        guess = " ".join(f"{label} {letters.most_common(1)[0][0]}" for label in sorted(block.labels))
        text = render(Trace((replace(block, summary=Trace((f" {guess} ",))),)), PARATHINKER)
        shares.append(judge(text, int(problem.answer), PARATHINKER).right_lines)
    assert 0.3 < sum(shares) / len(shares) < 0.45


def test_mistakes_in_words():
    for call, message in [
        (lambda: problems("test"), "attribution has no split 'test'"),
        (lambda: parse_question("a b -> 7 of 6"), "is not an attribution question"),
        (lambda: parse_question("a b -> 0 of 6"), "is not an attribution question"),
        (
            lambda: demonstrate(ASKED, numbered(2), random.Random(0), PARALLEL_R1),
            "attribution needs paths with numbers",
        ),
        (
            lambda: demonstrate(ASKED, numbered(2), random.Random(0), get_dialect("parathinker:65")),
            "the numbers 1 to 64",
        ),
        (
            lambda: demonstrate(ASKED, numbered(17), random.Random(0), PARATHINKER),
            "17 paths are more than the 16 numbers",
        ),
        (lambda: judge(PATHS, 4, PARALLEL_R1), "attribution needs paths with numbers"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
