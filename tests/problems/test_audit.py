"""The audit: faults planted in a small set, and those of the published sets, found again in the real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from polythink.problems.audit import audit, bare, faults, fingerprint
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.sets import load_problems


def of(*questions: str, answers: tuple[str, ...] = ()) -> ProblemSet:
    answers = answers or ("1",) * len(questions)
    return ProblemSet(
        "set", tuple(Problem(str(i), q, a) for i, (q, a) in enumerate(zip(questions, answers, strict=True)))
    )


@pytest.fixture(scope="module")
def dapo(shared_data: Path) -> ProblemSet:
    return load_problems(shared_data / "dapo_math_train.parquet", keep_repeats=True)


# --- planted faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "question"),
    [
        ("colon", "Evaluate the integral of the following function:"),
        ("colon", "已知 $x = 2$，求下列各数的和的所有可能值中最大的一个："),
        ("open end", "Which real numbers do not lie in the domain of"),
        ("open end", "It is known that, for all positive integers $k$,"),
        ("stub", "Find $x.$"),
        ("stub", r"$\frac{2020}{6063}$"),
        ("open figure", "What is the area of the shaded region? [asy] size(4cm);"),
        ("broken tex", "The answer is in the form \x0crac{m}{n} with $m, n$ coprime. Find $m + n$."),
    ],
)
def test_a_fault_in_the_text_is_found(fault: str, question: str):
    found = audit(of("How many divisors does 196 have?", question))
    assert [(finding.fault, finding.keys) for finding in found.findings] == [(fault, ("1",))]


def test_whole_problems_have_no_faults():
    whole = of(
        "Compute $54 \\times 46$.", "What is $x$ if $2x = 4$?", "Find it. [asy] dot(); [/asy]", "Is 7 prime:\tyes?"
    )
    assert audit(whole).findings == ()


def test_repeats_near_repeats_and_conflicts():
    found = audit(
        of(
            "Find $a + b$ if 2.", "Find $a + b$ if 2.", "Find a+b, if 2", "Find $a - b$ if 2.",
            "Add $1, 2$.", "Add 1 2?",
            answers=("1", "2", "1", "1", "3", "4"),
        )
    )  # fmt: skip
    groups = {finding.fault: finding.groups for finding in found.findings}
    assert groups["repeat"] == groups["conflict"] == (("0", "1"),)
    assert groups["near repeat"] == (("0", "2"), ("4", "5"))  # a + b is not a - b
    assert groups["near conflict"] == (("4", "5"),)
    assert found.find("near conflict") == ("4", "5")
    assert found.find("colon") == ()


def test_answers_that_are_cut_or_differ_from_their_solution():
    problems = (
        Problem("a", "What is half of 3?", r"\frac{\sqrt{3"),
        Problem("b", "What is half of 4?", "3", solution=r"That is \boxed{2}."),
        Problem("c", "What is half of 5?", "5/2", solution=r"That is \boxed{2.5}."),
    )
    found = audit(ProblemSet("set", problems))
    assert [(f.fault, f.keys) for f in found.findings] == [("cut answer", ("a",)), ("other box", ("b",))]


def test_overlap_with_another_set():
    one, other = of("What is $\\left(1 + 1\\right)$?", "And 2 + 2?"), of("what is (1+1)")
    assert audit(one, other).find("against") == ("0",)
    assert audit(other, of("Something else?")).findings[-1].groups == ()  # asked for, so it is said


def test_copies_of_a_question_share_their_fingerprint():
    assert bare(r"Find $\left(\dfrac{1}{2}\right) + X_1$.") == bare(r"find \frac{1}{2}+x1")
    assert fingerprint("a + b") != fingerprint("a - b")
    assert len(fingerprint("a")) == 8


# --- the published sets --------------------------------------------------------------------------------------------


def test_documented_rows_of_the_evaluation_sets(shared_data: Path):
    math300 = audit(load_problems(shared_data / "math300.parquet"))
    assert [int(key) for key in math300.find("lost text")] == [
        6, 8, 38, 56, 60, 64, 76, 98, 105, 120, 135, 152, 154, 161, 181, 190, 193, 206, 237, 251, 279, 282, 299, 308,
        312, 313,
    ]  # fmt: skip
    assert math300.find("lost base") == ("16", "44", "45", "89", "218")
    assert audit(load_problems(shared_data / "aime24.parquet")).find("lost text") == ("12",)
    assert audit(load_problems(shared_data / "aime25.parquet")).find("broken tex") == ("18", "19", "27")
    amc23 = audit(load_problems(shared_data / "amc23.parquet"))
    assert amc23.find("shared") == ("3", "5", "8", "13", "14", "17", "27", "28")


def test_a_repaired_label_is_not_reported(shared_data: Path):
    row = load_problems(shared_data / "math300.parquet").problems[16]
    assert audit(ProblemSet("x", (row,))).find("lost base") == ("16",)
    assert audit(ProblemSet("x", (Problem("16", row.question, "52_8"),))).find("lost base") == ()


@pytest.mark.slow
def test_documented_faults_of_dapo(dapo: ProblemSet):
    found = audit(dapo)
    assert {key[:8] for key in found.find("several answers")} == faults()["ids"]["several answers"]
    assert faults()["ids"]["minus one"] < faults()["ids"]["several answers"]
    assert {key[:8] for key in found.find("minus one")} > faults()["ids"]["minus one"]
    counts = {finding.fault: len(finding.groups) for finding in found.findings}
    assert counts["colon"] == 287
    assert counts["minus one"] == 71
    assert counts["several answers"] == 20
    assert 900 < counts["near repeat"] < 960  # the data's own notes count 922 under another normal form
    assert 15 < counts["near conflict"] < 25
    assert "repeat" not in counts  # the file has had them taken out
    stubs = {problem.question for problem in dapo if problem.key in found.find("stub")}
    assert {"Find $x.$", "Evaluate the integral:"} <= stubs


@pytest.mark.slow
def test_overlaps_of_dapo_are_exactly_those_in_the_package(shared_data: Path, dapo: ProblemSet):
    marks = {fingerprint(problem.question) for problem in dapo}
    found = set()
    for stem, shared in {"math_test": 828, "math300": 8, "amc23": 8, "aime24": 0, "aime25": 0}.items():
        questions = load_problems(shared_data / f"{stem}.parquet")
        both = marks & {fingerprint(problem.question) for problem in questions}
        assert len(both) == shared == len(audit(questions, dapo).find("against"))
        found |= both
    assert found == faults()["questions"]["shared"]


def test_the_heuristics_are_quiet_on_clean_sets(shared_data: Path):
    quiet = ("colon", "open end", "stub", "open figure", "broken tex", "cut answer", "other box")
    for stem, flagged in {"math_test": 1, "gsm8k_test": 0}.items():
        found = audit(load_problems(shared_data / f"{stem}.parquet"))
        assert sum(len(found.find(fault)) for fault in quiet) == flagged


def test_an_audit_is_json(shared_data: Path):
    found = audit(load_problems(shared_data / "amc23.parquet")).to_json()
    assert (found["name"], found["problems"]) == ("amc23", 40)
    (finding,) = found["findings"]
    assert (finding["fault"], finding["count"]) == ("shared", 8)
    assert finding["meaning"] == faults()["meanings"]["shared"]
