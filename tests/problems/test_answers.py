"""The grader: hard cases by hand, and the 5,000 reference solutions of the MATH test set."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.grading import boxed, problem
from polythink.errors import UserError
from polythink.problems import answers
from polythink.problems.answers import Grader, grade
from polythink.problems.extract import last_box
from polythink.problems.grade import Grade
from polythink.problems.sets import load_problems
from polythink.problems.verify import Worker
from polythink.run.jsonl import read_rows
from polythink.trace.dialect import PARATHINKER

BLOCK = "<Parallel><Path>{0}</Path><Path>{1}</Path></Parallel>\n<Summary>{2}</Summary>"

# Rows of the MATH test set whose reference answer is cut at its first closing brace (`\frac{\sqrt{3` for
# \frac{\sqrt{3}}{3}): as they are, no answer equals them. All others agree with the box of their solution.
CUT_ROWS = [
    133, 243, 343, 589, 609, 681, 989, 1137, 1158, 1668, 1671, 1697, 1701, 1711, 1724, 1731, 1744, 1816, 1870, 1896,
    1959, 1969, 1977, 2007, 2029, 2038, 2041, 2048, 2067, 2096, 2105, 2121, 2137, 2155, 2180, 2319, 2353, 2363, 2447,
    2622, 2665, 2761, 2763, 3901, 4516, 4530, 4539, 4560, 4572, 4586, 4608, 4651, 4679, 4703, 4705, 4715, 4723, 4730,
    4769, 4815, 4835, 4862, 4912, 4919, 4939, 4957,
]  # fmt: skip


@pytest.fixture
def no_worker(monkeypatch):
    def refuse() -> Worker:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(answers, "Worker", refuse)


# --- graded without algebra -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_worker")
def test_numbers_and_countdown_need_no_worker():
    with Grader() as grader:
        assert grader.grade(boxed("204"), problem("204")) == Grade("right", "204")
        assert grader.grade(boxed("205"), problem("204")) == Grade("wrong", "205")
        assert grader.grade("no answer here", problem("204")) == Grade("unparsed", None)
        chain = problem("9 - 8 * 5", "countdown")
        assert grader.grade(r"\boxed{ 9 -  8 * 5 }", chain).verdict == "right"
        assert grader.grade(r"\boxed{ 8 - 9 * 5 }", chain).verdict == "wrong"
        assert grader.grade(r"\boxed{ 5 }", chain).verdict == "wrong"


def test_paths_are_graded_by_their_own_answers(grader: Grader):
    assert grader.grade_path(r"<Path>so \boxed{5}</Path>", problem("5")) is True
    assert grader.grade_path("<Path>Final Answer: 6</Path>", problem("5")) is False
    assert grader.grade_path("<Path>that is 5</Path>", problem("5")) is None
    nested = "<Path>" + BLOCK.format(r"\boxed{5}", "b", "c") + " then</Path>"
    assert grader.grade_path(nested, problem("5")) is None
    chain = problem("9 - 8 * 5", "countdown")
    assert grader.grade_path("<Path> 9 - 8 = 1 * 5 = 5 ok </Path>", chain) is True
    assert grader.grade_path("<Path> 9 + 8 = 17 + 5 = 22 no </Path>", chain) is False


# --- one response -----------------------------------------------------------------------------------------------------


def test_a_reference_answer_may_be_a_number():
    assert grade(boxed("4"), 4) == grade(boxed("4"), 4.0) == Grade("right", "4")
    assert grade(boxed("4"), 5) == Grade("wrong", "4")


@pytest.mark.parametrize(
    ("response", "answer", "said"),
    [
        (None, "4", "the response is null; it must be text"),
        ("4", None, "there is no reference answer"),
        ("4", True, "the reference has true or false"),
        ("4", [4, 5], "the reference has a list of 2"),
        ("4", float("inf"), "the reference has inf"),
    ],
)
def test_what_is_no_response_or_answer_is_one_sentence(response, answer, said):
    with pytest.raises(UserError, match=said):
        grade(response, answer)


@pytest.mark.slow
def test_one_response_is_graded_without_a_grader_of_ones_own():
    assert grade(boxed("1/2"), "0.5") == Grade("right", "1/2")
    assert grade(boxed("1+x"), "x+1").verdict == "right"
    assert grade("no answer", "1") == Grade("unparsed", None)
    assert grade(boxed("1 + 2"), "1 + 2", checker="countdown").verdict == "right"
    assert grade(boxed("2 + 1"), "1 + 2", checker="countdown").verdict == "wrong"
    summary = r"<think1>\boxed{1}</think1><summary>\boxed{2}</summary>"
    assert grade(summary, "2", dialect="parathinker").verdict == "right"
    assert grade(summary, "2", dialect=PARATHINKER).verdict == "right"
    assert grade(summary, "2").verdict == "right"  # there no tag of Parallel-R1, so plain text
    with pytest.raises(UserError, match="no checker 'maths'; did you mean 'math'"):
        grade("", "", checker="maths")
    with pytest.raises(UserError, match="no dialect"):
        grade("", "", dialect="parallel")


@pytest.mark.slow
def test_a_script_that_graded_ends_with_its_workers():
    code = r"from polythink.problems.answers import grade; print(grade(r'\boxed{1+x}', 'x+1').verdict)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("right\n", "", 0)


# --- rules for what is read as an answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So we have it. The final answer is 73.", "73"),
        ("The answer is $\\frac{1}{2}$. Done.", r"\frac{1}{2}"),
        ("Answer: 5", "5"),
        ("The answer is $5$ apples", "5"),
        (r"The answer is \(5\) apples. Done.", "5"),
        ("**Answer:** 5 apples", "5 apples"),
        ("The answer = 12, so we are done", "12"),
        ("some steps\n#### 5", "5"),
        ("#### Step 1\nadd\n#### 1,234", "1,234"),
        ("**Final Answer**\n\n5", "5"),
        ("## Answer\n$x = 5$", "x = 5"),
        (r"Thus \boxed 5", "5"),
        ("最终答案：5", "5"),
        ("答案是 7。", "7"),
        ("Answer: 4. No: Answer: 5.", "5"),
        ("I cannot answer this", None),
        ("5 is what I think", None),
        ("The answer is", None),
    ],
)
@pytest.mark.usefixtures("no_worker")
def test_lenient_reads_what_strict_leaves(text: str, answer: str | None):
    with Grader() as strict, Grader(answers="lenient") as lenient:
        wanted = problem(answer or "1")
        assert strict.grade(text, wanted) == Grade("unparsed", None)
        found = Grade("unparsed", None) if answer is None else Grade("right", answer)
        assert lenient.grade(text, wanted) == replace(found, lenient=True)
        assert lenient.grade(text + r" \boxed{8}", problem("8")) == Grade("right", "8")  # the strict form comes first
        cut = "Answer: 3 <Parallel><Path>Answer: 4"  # an open element: nothing is stated, under either rule
        assert lenient.grade(cut, problem("4")).verdict == "unparsed"


@pytest.mark.parametrize(
    ("text", "reference", "verdict"),
    [
        ("Final Answer: 5", "5", "right"),
        ("final answer :\n5", "5", "right"),
        ("Final Answer: $x = 5$", "5", "right"),
        ("Final Answer: 1,000 dollars", "1000", "right"),
        (r"Final Answer: \frac12", r"\frac{1}{2}", "right"),
        (r"Final Answer: 90^\circ", "90", "right"),
        ("<Parallel><Path>Final Answer: 5", "5", "right"),  # places do not count there
        (r"\boxed{5}", "5", "unparsed"),
        ("**Final Answer: 5**", "5", "wrong"),
        ("Final Answer: 5.", "5", "wrong"),
        ("Final Answer: 5.0", "5", "wrong"),
        ("Final Answer: $9.00", "9", "wrong"),
        ("Final Answer: 5%", "5", "wrong"),
        ("Final Answer: 5 apples", "5", "wrong"),
        ("Final Answer: 5" + " " * 300, "5", "unparsed"),
    ],
)
def test_the_published_check_of_the_math_family(text: str, reference: str, verdict: str):
    with Grader(answers="published") as grader:
        assert grader.grade(text, problem(reference)).verdict == verdict


def test_the_published_check_of_gsm8k():
    with Grader(answers="published_gsm8k") as grader:
        assert grader.grade("Final Answer: 5\nFinal Answer: 6", problem("5")).verdict == "right"
        assert grader.grade("Final Answer: 1,234", problem("1234")).verdict == "right"
        assert grader.grade("Final Answer: $5", problem("5")).verdict == "unparsed"
        assert grader.grade("Final Answer: 5.", problem("5")).verdict == "wrong"


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="no rule 'lax' for answers"):
        Grader(answers="lax")


def test_an_answer_that_ran_out_of_time_is_asked_again(monkeypatch):
    replies = [None, True]
    asked = []

    class Slow:
        alive = True

        def ask(self, given: str, reference: str, seconds: float) -> bool | None:
            asked.append(seconds)
            return replies.pop(0)

        def kill(self) -> None:
            pass

    monkeypatch.setattr(answers, "Worker", Slow)
    with Grader(workers=1, seconds=3) as grader:
        wanted = problem("x^2+2x+1")
        assert grader.grade(boxed("(x+1)^2"), wanted).verdict == "timeout"
        assert grader.grade(boxed("(x+1)^2"), wanted).verdict == "right"
        assert grader.grade(boxed("(x+1)^2"), wanted).verdict == "right"  # known now
    assert len(asked) == 2
    assert all(0 < seconds <= 3 for seconds in asked)


def test_the_formulas_of_one_answer_share_its_time(monkeypatch):
    left = []

    class Busy:
        alive = True

        def ask(self, given: str, reference: str, seconds: float) -> bool:
            left.append(seconds)
            clock[0] += 2.0
            return True

        def kill(self) -> None:
            pass

    clock = [0.0]
    monkeypatch.setattr(answers, "Worker", Busy)
    monkeypatch.setattr(answers.time, "monotonic", lambda: clock[0])
    with Grader(workers=1, seconds=5) as grader:
        pairs = "({}+1, {}+2, {}+3, {}+4)"
        assert grader.equal(pairs.format(*"abcd"), pairs.format(*"efgh")) is None
    assert left == [5.0, 3.0, 1.0]


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_boxes_of_the_math_solutions_equal_the_reference_answers(shared_data: Path, grader: Grader):
    rows = list(read_rows(shared_data / "math_test.parquet"))
    assert len(rows) == 5000
    cut = [i for i, row in enumerate(rows) if row["answer"].count("{") > row["answer"].count("}")]
    assert cut == CUT_ROWS
    intact = sorted(set(range(5000)) - set(cut))
    graded = grader.grade_many([(rows[i]["solution"], problem(rows[i]["answer"])) for i in intact])
    failures = {i: grade for i, grade in zip(intact, graded, strict=True) if grade.verdict != "right"}
    assert failures == {}
    assert all(last_box(rows[i]["solution"]).startswith(rows[i]["answer"]) for i in cut)

    completed = load_problems(shared_data / "math_test.parquet")
    verdicts = Counter(g.verdict for g in grader.grade_many([(p.solution, p) for p in completed]))
    assert verdicts["right"] >= 0.995 * 5000
    assert verdicts["timeout"] == 0


@pytest.mark.slow
def test_math_answers_in_another_form(shared_data: Path, grader: Grader):
    roots = [p.answer for p in load_problems(shared_data / "math_test.parquet") if p.answer.startswith(r"\sqrt{")][:12]
    asked = [(boxed(f"0 + {root}"), problem(root)) for root in roots]
    asked += [(boxed(f"1 + {root}"), problem(root)) for root in roots]
    assert [g.verdict for g in grader.grade_many(asked)] == ["right"] * 12 + ["wrong"] * 12


@pytest.mark.usefixtures("no_worker")
def test_real_traces_state_their_answers(shared_data: Path):
    with Grader() as grader:
        for row in read_rows(shared_data / "parallel_gsm8k.parquet"):
            for text in (row["trace"], row["trace_compact"]):
                assert grader.grade(text, problem(row["answer"])).verdict == "right"
