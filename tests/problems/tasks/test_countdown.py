"""Operator countdown against a brute-force definition that shares no code with it."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from polythink.errors import UserError
from polythink.problems.extract import extract
from polythink.problems.tasks import countdown
from polythink.problems.tasks.countdown import (
    COUNTDOWN,
    LEVELS,
    VOCABULARY,
    chains,
    demonstrate,
    is_marked_ok,
    is_question,
    parse_question,
    path_answer,
    problems,
    slips,
)
from polythink.problems.tasks.demonstrations import SPLITS, DemoStyle
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.validity import check


def value_in_range(words: list[str]) -> int | None:
    """Left-to-right value of `9 - 8 * 5`, None where it leaves 0..60 on the way: the task's definition, again."""
    value = int(words[0])
    for op, number in zip(words[1::2], words[2::2], strict=True):
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[op]
        if not 0 <= value <= 60:
            return None
    return value


def expressions(numbers: list[str]) -> list[list[str]]:
    """Every choice of operators, as words."""
    choices = itertools.product("+-*", repeat=len(numbers) - 1)
    return [[numbers[0], *itertools.chain(*zip(ops, numbers[1:], strict=True))] for ops in choices]


def sample_of(level: str, n: int) -> tuple:
    return problems(level, "train", limit=n) + problems(level, "heldout", limit=n)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_the_answer_is_the_only_one_that_reaches_the_target(level):
    for problem in sample_of(level, 300):
        left, target = problem.question.split(" -> ")
        numbers = left.split()
        assert len(numbers) == LEVELS[level]
        assert all("1" <= number <= "9" for number in numbers)
        ways = [" ".join(words) for words in expressions(numbers) if value_in_range(words) == int(target)]
        assert ways == [problem.answer]


def test_no_easy_problem_is_missing():
    """Brute force over all numbers and targets finds the same problems, no more and no fewer."""
    expected = set()
    for numbers in itertools.product("123456789", repeat=3):
        reached = Counter(value_in_range(words) for words in expressions(list(numbers)))
        expected |= {(" ".join(numbers), v) for v, ways in reached.items() if v is not None and ways == 1}
    found = {tuple(p.question.split(" -> ")) for split in SPLITS for p in problems("easy", split)}
    assert found == {(numbers, str(value)) for numbers, value in expected}
    assert len(found) == 3973


def test_records():
    (problem,) = [p for split in SPLITS for p in problems("easy", split) if p.question == "9 8 5 -> 5"]
    assert problem.key == "countdown-easy:9.8.5>5"
    assert problem.answer == "9 - 8 * 5"
    assert problem.checker == "countdown"
    assert problem.source == "countdown-easy"
    assert parse_question(problem.question) == ((9, 8, 5), 5)


@pytest.mark.parametrize("level", LEVELS)
def test_splits_are_disjoint_and_about_an_eighth_is_held_out(level):
    train, heldout = (problems(level, split) for split in SPLITS)
    keys = [p.key for p in train + heldout]
    assert len(set(keys)) == len(keys)
    assert 0.08 < len(heldout) / len(keys) < 0.16


def test_the_split_of_a_problem_never_changes():
    """Frozen: a new hash would put held-out problems into the training data of old models."""
    split = {
        "countdown-easy:9.8.5>5": "train",
        "countdown-hard:4.5.1.4>36": "train",
        "countdown-easy:7.6.2>11": "heldout",
        "countdown-hard:9.7.5.9>19": "heldout",
    }
    assert {key: countdown.split_of(key) for key in split} == split


def test_order_depends_on_the_seed_alone_and_limit_takes_the_first():
    assert problems("easy", "heldout", seed=3) == problems("easy", "heldout", seed=3)
    assert problems("easy", "heldout", seed=3) != problems("easy", "heldout", seed=4)
    assert set(problems("easy", "heldout", seed=3)) == set(problems("easy", "heldout", seed=4))
    assert problems("easy", "heldout", limit=7, seed=3) == problems("easy", "heldout", seed=3)[:7]


def words_of(text: str) -> list[str]:
    """Words of a trace with its tags taken out; words must be set apart by white space or tags."""
    for tag in PARALLEL_R1.tags:
        text = text.replace(tag, " ")
    return text.split()


STYLES = [
    ("sequential", {}),
    ("parallel", {}),
    ("parallel", {"paths": (2,)}),
    ("parallel", {"paths": (5,), "p_right": 0.0}),
    ("parallel", {"retries": 2, "paths": (2, 4)}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("style", "options"), STYLES)
@pytest.mark.parametrize("level", LEVELS)
def test_demonstrations_are_well_formed_canonical_and_in_the_vocabulary(level, style, options):
    rng = random.Random(0)
    for problem in sample_of(level, 150):
        text = demonstrate(problem, DemoStyle(style, **options), rng)
        assert check(text, "strict").reason == "ok"
        assert render(parse(text)) == text
        assert len(parse(text).blocks) == (style == "parallel")
        assert set(words_of(f"together : alone : {problem.question} {text}")) <= set(VOCABULARY)
        assert "  " not in text


@pytest.mark.parametrize("style", countdown.STYLES)
def test_every_chain_is_honest(style):
    """The arithmetic is right, no value is out of range, and the mark says what is the case."""
    rng = random.Random(1)
    marks = Counter()
    for problem in sample_of("hard", 200):
        left, target = problem.question.split(" -> ")
        text = demonstrate(problem, DemoStyle(style), rng)
        found = re.findall(r"\d+(?: [-+*] \d+ = \d+)+ (?:ok|no)", text)
        assert len(found) == (3 if style == "parallel" else 1)
        for chain in found:
            *words, mark = chain.split()
            shown = words[4::4]
            expression = [words[0], *itertools.chain(*zip(words[1::4], words[2::4], strict=True))]
            assert expression[::2] == left.split()
            assert shown == [str(value_in_range(expression[: 3 + 2 * i])) for i in range(len(shown))]
            assert mark == ("ok" if shown[-1] == target else "no")
            marks[mark] += 1
    assert marks["ok"] > 100
    assert marks["no"] > 100


@pytest.mark.parametrize("style", countdown.STYLES)
def test_the_box_holds_a_chain_that_was_tried_the_marked_one_where_there_is_one(style):
    rng = random.Random(2)
    boxed_right = Counter()
    for problem in sample_of("easy", 200):
        text = demonstrate(problem, DemoStyle(style, p_right=0.3), rng)
        box = re.fullmatch(r".*\\boxed\{ (.*) \}", text, re.DOTALL)[1]
        trace = parse(text)
        segments = [p.parts[0] for p in trace.blocks[0].paths] if trace.blocks else [text]
        assert box in [path_answer(segment) for segment in segments]
        some_ok = any(is_marked_ok(segment) for segment in segments)
        assert (box == problem.answer) == some_ok
        boxed_right[some_ok] += 1
        if trace.blocks:
            assert trace.blocks[0].summary.parts == (f" {' '.join(box.split()[1::2])} ",)
    assert min(boxed_right[True], boxed_right[False]) > 50


def first_paths(problem, seed: int, paths: int) -> list[str]:
    block = parse(demonstrate(problem, DemoStyle(paths=(paths,), p_right=0.4), random.Random(seed))).blocks[0]
    return [path_answer(path.parts[0]) for path in block.paths]


@pytest.mark.slow
def test_a_path_does_not_depend_on_its_siblings():
    """Pairs of paths are as frequent as the product of their shares says (chi-square, fixed seeds)."""
    problem = problems("hard", "train", limit=1)[0]
    n = 4000
    drawn = [first_paths(problem, seed, paths=2) for seed in range(n)]
    first, second = (Counter(pair[i] for pair in drawn) for i in (0, 1))
    pairs = Counter(map(tuple, drawn))
    assert min(first.values()) > 20
    expected = {(a, b): first[a] * second[b] / n for a in first for b in second}
    chi2 = sum((pairs[ab] - e) ** 2 / e for ab, e in expected.items())
    freedom = (len(first) - 1) * (len(second) - 1)
    assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5
    # the shares are those asked for: the solution with p_right, and by chance among the others
    by_chance = 0.4 + 0.6 / len(chains(parse_question(problem.question)[0]))
    for counts in (first, second):
        assert abs(counts[problem.answer] / n - by_chance) < 4 * (by_chance * (1 - by_chance) / n) ** 0.5


def test_more_siblings_change_nothing_in_the_paths_before_them():
    problem = problems("hard", "train", limit=1)[0]
    for seed in range(50):
        assert first_paths(problem, seed, paths=5)[:2] == first_paths(problem, seed, paths=2)


PATHS = [
    ("<Path> 9 - 8 = 1 * 5 = 5 ok </Path>", "9 - 8 * 5", True),
    ("9 - 8 = 1 * 5 = 5 ok \\boxed{ 9 - 8 * 5 }", "9 - 8 * 5", True),
    ("<Path>9 - 8 = 1 * 5 = 5 no</Path>", "9 - 8 * 5", False),
    ("<Path> 9 - 8 = 3 * 5 = 60 ok </Path>", "9 - 8 * 5", True),  # wrong sums: the operators count
    (" 9 - 8 = 1 * 5 = 5", "9 - 8 * 5", False),  # cut before its mark
    ("9 - 8 = 1 * 5 =", "9 - 8", False),  # cut in a step
    ("9 - 8 = 1 5 ok", "9 - 8", False),
    ("<Path> ok </Path>", None, False),
    ("", None, False),
    ("x 9 - 8 = 1 ok", None, False),
    ("9 - 8 = 1x ok", None, False),
]


@pytest.mark.parametrize(("text", "expression", "marked"), PATHS)
def test_what_a_path_says(text, expression, marked):
    assert path_answer(text) == expression
    assert is_marked_ok(text) is marked


def test_the_teacher_is_repeatable_and_mixes_styles():
    teacher = COUNTDOWN.teacher({"sequential": 1, "parallel": 3}, p_right=0.7, seed=5)
    asked = [(problem, "", sample) for problem in problems("easy", "train", limit=400) for sample in (0, 1)]
    texts = [teacher(*call) for call in asked]
    assert [teacher(*call) for call in reversed(asked)] == texts[::-1]
    assert texts[0::2] != texts[1::2]
    assert texts != [COUNTDOWN.teacher({"sequential": 1, "parallel": 3}, p_right=0.7, seed=6)(*call) for call in asked]
    parallel = sum("<Parallel>" in text for text in texts) / len(texts)
    assert 0.69 < parallel < 0.81


def test_the_teacher_numbers_paths_in_order_or_as_it_comes():
    found = {}
    for labels in ("ordered", "random"):
        teacher = COUNTDOWN.teacher({"parallel": 1}, paths=3, dialect=PARATHINKER, labels=labels)
        assert teacher.about["labels"] == labels
        texts = [teacher(problem, "", 0) for problem in problems("easy", "train", limit=40)]
        found[labels] = {int(n) for text in texts for n in re.findall(r"<think(\d+)>", text)}
    assert found == {"ordered": {1, 2, 3}, "random": set(range(1, 17))}


MISTAKES = [
    (lambda: problems("medium", "train"), "no countdown level 'medium'"),
    (lambda: problems("easy", "test"), "countdown has no split 'test'"),
    (lambda: parse_question("9 8 5"), "'9 8 5' is not a countdown question"),
    (lambda: DemoStyle("paralel"), "did you mean 'parallel'"),
    (lambda: COUNTDOWN.teacher({"paralel": 1}), "did you mean 'parallel'"),
    (lambda: COUNTDOWN.teacher({"parallel": 0}), "weights of styles"),
    (lambda: COUNTDOWN.teacher({"parallel": 1}, p_right=1.5), "p_right in 0..1"),
    (lambda: COUNTDOWN.teacher({"parallel": 1}, labels="randm"), "did you mean 'random'"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_one_sentence(mistake, message):
    with pytest.raises(UserError, match=re.escape(message)):
        mistake()


# ---- ParaThinker's demonstrations ----


def test_parathinker_demonstrations_answer_in_the_summary():
    rng = random.Random(3)
    manner = DemoStyle(paths=(2, 3, 4), p_right=0.4, labels="random", summary="reference")
    seen = Counter()
    for problem in sample_of("hard", 150):
        text = demonstrate(problem, manner, rng, PARATHINKER)
        assert check(text, "strict", PARATHINKER).valid
        assert extract(text, PARATHINKER) == problem.answer
        (block,) = parse(text, PARATHINKER).blocks
        seen.update(block.labels)
        assert 2 <= len(block.paths) <= 4
    assert set(seen) == set(range(1, 17))


def test_a_retry_follows_a_chain_that_missed_and_the_last_one_is_the_answer():
    rng = random.Random(4)
    lengths = Counter()
    for problem in sample_of("easy", 200):
        text = demonstrate(problem, DemoStyle(paths=(3,), p_right=0.2, retries=2), rng, PARATHINKER)
        for path in parse(text, PARATHINKER).blocks[0].paths:
            marks = re.findall("ok|no", path.parts[0])
            assert "ok" not in marks[:-1]
            assert marks[-1] == "ok" or len(marks) == 3
            assert (path_answer(path.parts[0]) == problem.answer) == (marks[-1] == "ok") == is_marked_ok(path.parts[0])
            lengths[len(marks)] += 1
    assert min(lengths[1], lengths[2], lengths[3]) > 50


def test_a_number_that_is_a_strategy_settles_the_first_two_operators():
    assert len({countdown.strategy(label) for label in range(1, 10)}) == 9
    assert countdown.strategy(10) == countdown.strategy(1)
    rng = random.Random(5)
    kept = Counter()
    for problem in sample_of("hard", 150):
        text = demonstrate(problem, DemoStyle(paths=(4,), labels="random", strategies=True), rng, PARATHINKER)
        for label, path in parse(text, PARATHINKER).blocks[0].numbered():
            begins = tuple(path_answer(path.parts[0]).split()[1:4:2])
            possible = {c.operators[:2] for c in countdown.chains(countdown.parse_question(problem.question)[0])}
            assert begins == countdown.strategy(label) or countdown.strategy(label) not in possible
            kept[begins == countdown.strategy(label)] += 1
    assert kept[True] > 500


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("7 + 8 = 56 - 7 = 34 ok", ["56", "34"]),  # each equation by the number that is written before it
        ("6 + 6 = 13 + 3 = 16 no", ["13"]),
        ("9 - 8 = 1 * 5 = 5 ok", []),
        ("9 - 8 = 2 no 9 * 8 = 72 ok", ["2"]),  # of all chains
        ("9 - 8 =", []),
        ("9 - 8 = 1 * 5", []),
        ("1 + 2 + 3 = 6", []),  # not read as 2 + 3 = 6
        ("<Path>2 * 3 = 7</Path>", ["7"]),
        ("no numbers", []),
    ],
)
def test_false_results_are_found_where_they_stand(text: str, false: list[str]) -> None:
    assert [text[start:end] for start, end in slips(text)] == false


def test_a_question_is_told_from_other_texts() -> None:
    assert is_question("9 8 5 -> 5")
    assert not is_question("a d e -> 4 of 6")
    assert not is_question("What is 9 8 5 -> 5?")
