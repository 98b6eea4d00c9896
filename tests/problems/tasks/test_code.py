"""The task `code`: where the program stands, how it is graded, code-mini, rows of MBPP and HumanEval."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.audit import audit
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.sandbox import Test
from polythink.problems.sets import load_problems
from polythink.problems.tasks import code_mini
from polythink.problems.tasks.code import CODE, last_block, normal
from polythink.problems.tasks.code_rows import from_text, to_text
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.trace.dialect import DIALECTS, PARALLEL_R1
from polythink.trace.parse import parse

SQUARE = Problem("p", "?", "assert f(2) == 4\nassert f(3) == 9\nassert f(0) == 0\nassert f(-1) == 1", "code")
MBPP = {
    "task_id": 11, "text": "Write a function to remove the first and last occurrence of a character.",
    "code": "import math\nclass Pair: pass\ndef remove_Occ(s, ch):\n    i, j = s.find(ch), s.rfind(ch)\n"
            "    return s[:i] + s[i + 1 : j] + s[j + 1 :]",
    "test_list": [
        'assert remove_Occ("hello","l") == "heo"', 'assert math.isclose(len(remove_Occ("abcda","a")), 3)',
    ],
    "test_setup_code": "", "challenge_test_list": [],
}  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/0", "entry_point": "root",
    "prompt": "import math\n\ndef half(x: float) -> float:\n    return x / 2\n\ndef root(x: float) -> float:\n"
              '    """The square root of half of x.\n    >>> root(8)\n    2.0\n    """\n',
    "canonical_solution": "    return math.sqrt(half(x))\n",
    "test": "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    assert candidate(8) == 2\n"
            "    for n in range(3):\n        y = candidate(n)\n        assert abs(y * y - half(n)) < 1e-6\n"
            "    assert candidate(0) == 0, 'zero'\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def grader():
    with Grader(seconds=60) as grader:
        yield grader


def block(source: str, tag: str = "python") -> str:
    return f"```{tag}\n{source}\n```"


def write(file: Path, *rows: dict) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# ---- where the program stands ----


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (block("a = 1"), "a = 1"),
        (f"so\n{block('a = 1')}\nno:\n{block('b = 2')}\nprints\n{block('2', '')}", "b = 2"),
        (block("a = 1", ""), "a = 1"),
        (f"  {block('a = 1', 'py')}  ".replace("\n```", "\n   ```"), "a = 1"),
        (block("a = 1", "bash"), None),
        (block("  "), None),
        ("```python\na = 1", None),
        ("```python\nlost\n" + block("a = 1"), "a = 1"),
        (f"{block('a = 1')}\n```python\nopen", "a = 1"),
        ("```python a = 1 ```", None),
        ("", None),
    ],
)
def test_last_block(text: str, program: str | None):
    assert last_block(text) == program


DOCSTRING = 'def f(x):\n    """As in\n    ```{0}\n    f(2)\n    ```\n    """\n    return x * x'
SQUARED = "def f(x):\n    return x * x"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"1. The function:\n{indented(block(SQUARED), '   ')}\n2. Done.", SQUARED),
        ("- It:\n\n" + indented(block(SQUARED), "\t"), SQUARED),
        (f"10. It:\n{indented(block(DOCSTRING.format('')), '    ')}", DOCSTRING.format("")),
        (f"1. It:\n   {block(SQUARED)}", SQUARED),  # the beginning alone is indented
        ("1. It:\n" + indented(block("a = 1\n\n    # b"), "  ").replace("  \n", "\n"), "a = 1\n\n    # b"),
        (block(SQUARED, 'python title="f.py"'), SQUARED),
        (block(SQUARED, "python {.numberLines startFrom=1}"), SQUARED),
        (f"`{block(SQUARED)}`", SQUARED),
        (f"````markdown\n{block(SQUARED)}\n````", None),
        (f"`{block(block(SQUARED, ''))}`", block(SQUARED, "")),
        (block(DOCSTRING.format("")), DOCSTRING.format("")),
        (block(DOCSTRING.format("python")), DOCSTRING.format("python")),
        (block(DOCSTRING.format("").replace("    ", "\t")), DOCSTRING.format("").replace("    ", "\t")),
        (block(SQUARED) + "\n" + block("f(2)", "bash in a shell"), SQUARED),
    ],
)
def test_blocks_in_lists_and_fences_within_blocks(text: str, program: str | None):
    assert last_block(text) == program


def test_a_long_text_of_fences_is_read_once():
    assert last_block("```python\n" * 200_000) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1  # one", "\n\nx = 1   \n", True),
        ("# about\ndef f():\n    # in\n\n    return 1", "def f():\n    return 1", True),
        ("x = '# no'", "x = '", False),
        ("x = 'a\\n\\nb'", "x = 'a\\nb'", False),
        ('x = """a  \n\nb"""', 'x = """a\nb"""', False),
        ("x = 1", "x = 2", False),
        ("x = (", "x = (", True),
        ("x = (\n  1)", "x = (\n\n  1)  # one", True),
    ],
)
def test_programs_are_equal_but_for_comments_and_empty_lines(one: str, other: str, same: bool):
    assert (normal(one) == normal(other)) == same


@pytest.mark.parametrize("text", ["(" * 50_000, "-" * 50_000 + "1", "a" + ".b" * 50_000, " " * 99 + "if 1:\n", "\0"])
def test_no_text_breaks_the_comparison(text: str):
    assert isinstance(normal(text), str)


# ---- grading ----


def test_grading(grader: Grader):
    right, wrong = block("def f(x):\n    return x * x"), block("def f(x):\n    return x + x")
    cases = {
        right: ("right", 1.0), wrong: ("wrong", 0.5), f"{wrong}\n{right}": ("right", 1.0), "no code": ("unparsed", 0.0),
        block("def f(x:"): ("wrong", 0.0), block("def f(x):\n    return [0] * 10 ** 12"): ("timeout", 0.0),
        f"<Parallel><Path>{right}\n</Path><Path>{right}\n</Path></Parallel><Summary>same</Summary>": ("unparsed", 0.0),
        f"<Parallel><Path>{right}\n</Path></Parallel><Summary>1</Summary>\n{wrong}": ("wrong", 0.5),
    }  # fmt: skip
    grades = grader.grade_many([(text, SQUARE) for text in cases])
    assert [(grade.verdict, grade.share) for grade in grades] == list(cases.values())
    assert grades[0].extracted == "def f(x):\n    return x * x"


def test_an_endless_program_times_out():
    with Grader(seconds=1) as grader:
        endless = block("while True: pass")
        grade = grader.grade(endless, SQUARE)
        assert (grade.verdict, grade.share, grade.decided) == ("timeout", 0.0, True)  # it counts: as 0
        assert grader.grade_path(endless, SQUARE) is False
    assert not Grade("timeout", "9^{9^{9^9}}").decided  # math: nobody knows


def test_paths(grader: Grader):
    right = f"<Path>\n{block('def f(x): return x * x  # good')}\n</Path>"
    assert grader.path_answer(right, SQUARE) == "def f(x): return x * x"
    assert grader.grade_path(right, SQUARE) is True
    assert grader.grade_path(f"{block('f = abs')}", SQUARE) is False
    assert grader.grade_path("nothing", SQUARE) is None


def test_equal_is_by_source(grader: Grader):
    assert grader.equal("x = 1 # a", "x = 1", "code") is True
    assert grader.equal("x = 1", "x = 2 - 1", "code") is False


# ---- references ----


def test_a_test_as_text_and_back():
    test = Test(("assert f(1) == 'ü'", "x = 1\nassert f(x)"), ("f",), "import math", "y = 2")
    assert from_text(to_text(test)) == test
    plain = from_text("a = f(1)\nassert a == math.floor(1.5)\nassert sorted(g([2])) == [2]")
    assert plain.names == ("f", "g")
    assert plain.assertions == ("a = f(1)\nassert a == math.floor(1.5)", "assert sorted(g([2])) == [2]")
    assert plain.setup == "import math"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("f(2) == 4", "has tests without an assertion"),
        ("assert f(", "has a test that is no Python"),
        ('{"assertions": ["assert f("]}', "has a test that is no Python"),
        ('{"assertions": []}', "has tests without assertions"),
        ('{"assertions": [1]}', "with some that are no text"),
        ('{"asertions": ["assert f(1)"]}', "has tests that cannot be read"),
        ('{"assertions": ["assert f(1)"], "more": "x"}', "allowed are the keys assertions, given, names, setup"),
        ("{", "has tests that cannot be read"),
    ],
)
def test_bad_references(answer: str, message: str):
    with pytest.raises(UserError, match=f"a problem {re.escape(message)}|{re.escape(message)}"):
        Problem("p", "?", answer, "code")


# ---- rows ----


def test_mbpp(tmp_path: Path, grader: Grader):
    (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", MBPP))
    assert (problem.key, problem.checker, problem.solution) == ("11", "code", MBPP["code"])
    assert problem.question.startswith(f"{MBPP['text']}\n\nYour function must pass this test:\nassert remove_Occ(")
    test = from_text(problem.answer)
    assert (test.names, test.setup) == (("remove_Occ",), "import math")
    assert grader.grade(block(MBPP["code"]), problem).share == 1
    assert grader.grade(block("def remove_Occ(s, ch):\n    return 'heo'"), problem).verdict == "right"  # two weak tests
    assert grader.grade(block("def remove_Occ(s, ch):\n    return s"), problem).share == 0


def test_mbpp_sanitized_and_setup(tmp_path: Path, grader: Grader):
    row = {
        "prompt": "Add.", "test_imports": ["import math"], "test_list": ["assert add(one, math.floor(2.5)) == 3"],
        "test_setup_code": "one = 1", "code": "def add(a, b):\n    return a + b",
    }  # fmt: skip
    (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", row))
    assert grader.grade(block(row["code"]), problem).verdict == "right"
    del row["code"]
    (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", row))
    assert from_text(problem.answer).names == ("add",)
    assert grader.grade(block("def add(a, b):\n    return a + b"), problem).verdict == "right"


def test_humaneval(tmp_path: Path, grader: Grader):
    (problem,) = load_problems(write(tmp_path / "humaneval.jsonl", HUMANEVAL))
    test = from_text(problem.answer)
    assert (problem.key, test.names, len(test.assertions)) == ("HumanEval/0", ("root",), 3)
    assert test.assertions[0] == "candidate = root\nassert candidate(8) == 2"
    assert "import math" in problem.question
    assert grader.grade(block(problem.solution), problem).share == 1
    bare = "def root(x):\n    return math.sqrt(half(x))"  # builds on what the prompt gives
    assert grader.grade(block(bare), problem).verdict == "right"
    assert grader.grade(block("def root(x):\n    return 2"), problem).share == pytest.approx(1 / 3)
    cheat = "def half(x):\n    return 0\ndef root(x):\n    return 0"  # the tests have a `half` of their own
    assert grader.grade(block(cheat), problem).share == pytest.approx(1 / 3)


def test_a_check_that_returns_is_one_assertion(tmp_path: Path):
    row = HUMANEVAL | {"test": "def check(candidate):\n    assert candidate(8) == 2\n    return\n"}
    (problem,) = load_problems(write(tmp_path / "humaneval.jsonl", row))
    (assertion,) = from_text(problem.answer).assertions
    assert assertion.endswith("check(root)")


def test_rows_with_a_checker_of_their_own(tmp_path: Path, grader: Grader):
    rows = [
        {"question": "Square.", "answer": SQUARE.answer, "checker": "code"},
        {"question": "Square again.", "answer": ["assert f(2) == 4", "assert f(3) == 9"], "checker": "code"},
    ]
    problems = load_problems(write(tmp_path / "own.jsonl", *rows))
    source = block("def f(x):\n    return x ** 2")
    assert [grader.grade(source, problem).verdict for problem in problems] == ["right", "right"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (MBPP | {"test_list": []}, "row 1 of bad has no tests: its column 'test_list' is empty"),
        (MBPP | {"test_list": "assert 1"}, "row 1 of bad has no list of texts in its column 'test_list'"),
        (MBPP | {"test_list": ["f(1) == 2"]}, "row 1 of bad has tests without an assertion"),
        (MBPP | {"test_list": ["assert f("]}, "row 1 of bad has a test that is no Python"),
        (MBPP | {"code": "def f("}, "row 1 of bad has a solution that is no Python"),
        (MBPP | {"text": None}, "row 1 of bad has no text in its column 'text'"),
        (HUMANEVAL | {"test": "assert root(8) == 2"}, "row 1 of bad has no function check(candidate)"),
        (HUMANEVAL | {"test": "def check(candidate):\n    pass"}, "row 1 of bad has a check(candidate) without an"),
        (HUMANEVAL | {"prompt": 5}, "row 1 of bad has no text in its column 'prompt'"),
        ({"question": "A?", "answer": "f(1)", "checker": "code"}, "row 1 of bad has tests without an assertion"),
        ({"question": "A?", "answer": "", "checker": "code"}, "row 1 of bad has no answer"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        load_problems(write(tmp_path / "bad.jsonl", MBPP, row))


def test_solutions_that_do_not_pass_are_found(tmp_path: Path):
    bad = MBPP | {"task_id": 12, "text": "Another.", "code": "def remove_Occ(s, ch):\n    return s"}
    found = audit(load_problems(write(tmp_path / "mbpp.jsonl", MBPP, bad, HUMANEVAL)))
    assert found.find("own solution") == ("12",)
    assert [finding.fault for finding in found.findings] == ["own solution"]


# ---- code-mini ----


def test_code_mini_problems():
    train, held = load_problems("code-mini:train"), load_problems("code-mini")
    assert held.name == "code-mini:heldout"
    assert len(train) > 150
    assert len(held) > 15
    assert not {problem.key for problem in train} & {problem.key for problem in held}
    assert len({problem.question for problem in (*train, *held)}) == len(train) + len(held)
    assert load_problems("code-mini:train", limit=5).problems == train.problems[:5]
    for problem in (*train, *held):
        test = from_text(problem.answer)
        assert len(test.assertions) >= 4
        assert f"Write a Python function {test.names[0]}(" in problem.question
        assert not any(assertion.removeprefix("assert ") in problem.question for assertion in test.assertions)


@pytest.mark.slow
def test_right_and_wrong_solutions_of_code_mini(grader: Grader):
    """All that a demonstration may write is judged as it was meant."""
    chosen = random.Random(0).sample(code_mini.everything(), 40)
    for right, verdict in ((True, "right"), (False, "wrong")):
        asked = [
            (block(source), Problem(made.key, made.question, to_text(made.test), "code"))
            for made in chosen
            for source in made.sources(right)
        ]
        assert Counter(grade.verdict for grade in grader.grade_many(asked)) == {verdict: len(asked)}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_demonstrations(grader: Grader, dialect):
    problems = load_problems("code-mini:train", limit=6)
    grader.dialect = dialect
    for seed, problem in enumerate(problems):
        rng = random.Random(seed)
        for p_right, verdict in ((1.0, "right"), (0.0, "wrong")):
            text = CODE.demonstrate(problem, DemoStyle("parallel", (2, 3), p_right), rng, dialect)
            (found,) = parse(text, dialect).blocks
            assert len(found.paths) in (2, 3)
            assert len({str(path) for path in found.paths[:2]}) == 2  # as long as there are some, no two are the same
            assert grader.grade(text, problem).verdict == verdict
        sequential = CODE.demonstrate(problem, DemoStyle("sequential", p_right=1), rng, dialect)
        assert grader.grade(sequential, problem).verdict == "right"
    told = CODE.demonstrate(problem, DemoStyle("parallel", p_right=0, summary="reference"), rng, dialect)
    assert grader.grade(told, problem).verdict == "right"
    grader.dialect = PARALLEL_R1


def test_a_demonstration_chooses_a_right_path(grader: Grader):
    problem, seen = load_problems("code-mini:train", limit=1).problems[0], Counter()
    for sample in range(12):
        text = CODE.teacher({"parallel": 1}, paths=2)(problem, "", sample)
        paths = [grader.grade_path(path, problem) for path in re.findall(r"<Path>.*?</Path>", text, re.DOTALL)]
        assert (grader.grade(text, problem).verdict == "right") == any(paths)
        seen[sum(paths)] += 1
    assert set(seen) == {0, 1, 2}


def test_demonstrations_are_of_code_mini_alone():
    with pytest.raises(UserError, match="are of the set code-mini; p is not in it"):
        CODE.demonstrate(SQUARE, DemoStyle(), random.Random(0), PARALLEL_R1)
