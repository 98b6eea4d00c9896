"""Word problems: what is told, what is held out, and that every solution computes what it says."""

from __future__ import annotations

import random
import re

import pytest

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.sets import load_problems
from polythink.problems.tasks.demonstrations import SPLITS, DemoStyle
from polythink.problems.tasks.stories import POOL, STORIES, draw_numbers, draw_words, fill, problems, step, value_of
from polythink.problems.tasks.story_families import LEVELS
from polythink.problems.tasks.story_words import BOYS, GIRLS, HELDOUT_BOYS, HELDOUT_GIRLS, Family
from polythink.trace.dialect import DIALECTS, PARALLEL_R1
from polythink.trace.parse import parse
from polythink.trace.validity import check

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
FAMILIES = [family for families in LEVELS.values() for family in families]
NAMES = {"train": {*GIRLS, *BOYS}, "heldout": {*HELDOUT_GIRLS, *HELDOUT_BOYS}}


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def skeleton(question: str) -> str:
    """A question without its numbers, names and drawn words: what is left of its telling."""
    text = re.sub(r"\d+", "#", question)
    drawn = {*NAMES["train"], *NAMES["heldout"], "he", "she", "his", "her", "him", "He", "She"}
    return re.sub(r"[A-Za-z]+", lambda word: "_" if word[0] in drawn else word[0], text)


def test_a_problem_and_its_solutions_by_hand() -> None:
    (family,) = (family for family in FAMILIES if family.name == "groups_less")
    drawn = draw_words("train", random.Random(0)) | {"A": "Anna", "B": "Ben", "things": "shells", "boxes": "bags"}
    drawn["unit"] = "shells"
    numbers = {"a": 3, "b": 7, "c": 2}
    assert fill(family.tellings[0], drawn, numbers) == (
        "Anna buys 3 bags with 7 shells in each and gives 2 shells to Ben. How many shells does Anna have left?"
    )
    assert [fill(wordings[0], drawn, numbers) for wordings in family.ways] == [
        "There are 3 * 7 = 21 shells at first. Then 21 - 2 = 19 shells are left.",
        "Of one group 7 - 2 = 5 shells are left. The other 2 groups have 2 * 7 = 14 shells. Together that is "
        "14 + 5 = 19 shells.",
    ]
    assert step("(a*b)-c", numbers) == "21 - 2 = 19"
    with pytest.raises(AssertionError, match="even"):
        step("b/a", numbers)


@pytest.mark.parametrize("level", LEVELS)
def test_every_solution_computes_what_it_says_and_ends_with_the_answer(level: str) -> None:
    with Grader() as grader:
        for split in SPLITS:
            for problem in problems(level, split, limit=150):
                ways = problem.solution.splitlines()
                assert len(ways) == 2
                assert ways[0] != ways[1]
                assert int(problem.answer) > 0
                for way in ways:
                    for one, sign, other, result in EQUATION.findall(way):
                        assert eval(f"{one} {sign} {other} == {result}"), way
                    assert EQUATION.search(way), way
                    assert grader.grade_path(f"<Path> {way} </Path>", problem) is True, way
                assert not re.search(r"[{}\[\]|]|  ", problem.question + problem.solution), problem
                assert not re.search(r"\b[01] [a-z]+s\b|(?<![\d ])-\d", f"{problem.question} {problem.solution}"), (
                    problem
                )


@pytest.mark.parametrize("level", LEVELS)
def test_tellings_and_names_of_the_splits_are_disjoint(level: str) -> None:
    found = {split: problems(level, split) for split in SPLITS}
    assert {split: len(found[split]) for split in SPLITS} == POOL
    for split, other in (SPLITS, SPLITS[::-1]):
        texts = [problem.question for problem in found[split]]
        assert len(set(texts)) == len(texts)
        said = set().union(*map(words, texts))
        assert said & NAMES[split] == NAMES[split]  # all are used,
        assert not said & NAMES[other]  # and none of the other split
    skeletons = {split: {skeleton(p.question) for p in found[split]} for split in SPLITS}
    assert not skeletons["train"] & skeletons["heldout"]
    families = {split: {p.key.split(":")[3] for p in found[split]} for split in SPLITS}
    assert families["train"] == families["heldout"] == {family.name for family in LEVELS[level]}


def test_problems_are_the_same_every_time_and_shuffled_by_the_seed() -> None:
    assert problems("two", "train", limit=5) == problems("two", "train")[:5]
    assert problems("two", "train", limit=5) != problems("two", "train", limit=5, seed=1)
    assert set(problems("two", "train")) == set(problems("two", "train", seed=1))
    first = problems("one", "train", limit=1)[0]
    assert (first.key, first.question) == RECORDED


RECORDED = (
    "stories:one:train:price:3033",
    "Tom earns 12 dollars an hour. How many dollars does he earn in 7 hours?",
)


def test_every_family_has_many_tellings_to_learn_from_and_some_that_are_held_out() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    every = [telling for family in FAMILIES for telling in (*family.tellings, *family.heldout)]
    assert len({telling.casefold() for telling in every}) == len(every)
    assert all(telling.partition(" | ")[0].endswith("?") for telling in every)
    for family in FAMILIES:
        assert len(family.tellings) >= 9, family.name
        assert len(family.heldout) >= 2, family.name
        wordings = [wording for way in family.ways for wording in way]
        assert len(set(wordings)) == len(wordings), family.name
        assert min(map(len, family.ways)) >= 2, family.name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_telling_gives_the_same_numbers_and_every_wording_comes_to_the_answer(family: Family) -> None:
    rng = random.Random(0)
    tellings = [telling.partition(" | ")[0] for telling in (*family.tellings, *family.heldout)]
    slots = [set(re.findall(r"\{([a-z])\}", telling)) for telling in tellings]
    assert all(found == slots[0] for found in slots)
    for _ in range(12):
        numbers, drawn = draw_numbers(family, rng), draw_words("train", rng) | {"unit": "things"}
        given = {str(numbers[name]) for name in slots[0]}
        for telling in tellings:
            assert set(re.findall(r"\d+", fill(telling, drawn, numbers))) == given, telling
        for wording in (wording for way in family.ways for wording in way):
            text = fill(wording, drawn, numbers)
            assert re.findall(r"\d+", text)[-1] == str(value_of(family.answer, numbers)), text
            assert all(eval(f"{a} {sign} {b} == {c}") for a, sign, b, c in EQUATION.findall(text)), text


def test_named_sets_and_mistakes() -> None:
    found = load_problems("stories-three:train", limit=3)
    assert (found.name, {p.checker for p in found}) == ("stories-three:train", {"stories"})
    assert load_problems("stories-one").name == "stories-one:heldout"
    with pytest.raises(UserError, match="no level 'tow'; did you mean 'two'"):
        problems("tow", "train")
    with pytest.raises(UserError, match="no split 'test'"):
        problems("two", "test")


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_demonstrations_are_well_formed_and_right_in_every_format(dialect) -> None:
    with Grader(dialect=dialect) as grader:
        for problem in load_problems("stories-two:train", limit=20):
            for style in ("parallel", "sequential"):
                text = STORIES.demonstrate(problem, DemoStyle(style), random.Random(1), dialect)
                assert grader.grade(text, problem).verdict == "right"
                assert len(parse(text, dialect).blocks) == (style == "parallel")
            text = STORIES.demonstrate(problem, DemoStyle(), random.Random(1), dialect)
            (block,) = parse(text, dialect).blocks
            assert [grader.grade_path(path.parts[0], problem) for path in block.paths] == [True, True]


def test_paths_are_the_two_solutions_in_either_order() -> None:
    (problem,) = problems("two", "train", limit=1)
    seen = set()
    for seed in range(8):
        text = STORIES.demonstrate(problem, DemoStyle(), random.Random(seed), PARALLEL_R1)
        assert check(text, "strict", PARALLEL_R1).valid
        (block,) = parse(text, PARALLEL_R1).blocks
        seen.add(tuple(path.parts[0].strip() for path in block.paths))
    one, other = problem.solution.splitlines()
    assert seen == {(one, other), (other, one)}


def test_a_problem_of_ones_own_needs_two_solutions_for_a_block() -> None:
    problem = Problem("mine", "Two and two?", "4", "stories", "", "2 + 2 = 4.")
    with pytest.raises(UserError, match="the problem mine has fewer than two worked solutions"):
        STORIES.demonstrate(problem, DemoStyle(), random.Random(0), PARALLEL_R1)
