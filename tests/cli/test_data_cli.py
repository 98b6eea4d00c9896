"""`polythink data list | show | grade`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.program import invoke
from polythink.cli.data import app
from polythink.errors import UserError


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("POLYTHINK_DATA", raising=False)


def run(*arguments: object) -> str:
    """What the command prints."""
    result = invoke(app, *arguments)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    rows = [
        {"text": r"so \boxed{1/2}", "answer": "0.5"},
        {"text": "Final Answer: 7", "answer": "8"},
        {"text": "I do not know", "answer": "8"},
        {"text": None, "answer": "8"},
        {"text": r"\boxed{1+x}", "answer": "x+1"},
        {"text": r"\boxed{9^{9^{9^9}}}", "answer": "x+1"},
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_list_names_every_set_and_its_file(shared_data: Path, monkeypatch):
    assert "hub: openai/gsm8k" in run("list")
    monkeypatch.setenv("POLYTHINK_DATA", str(shared_data))
    listed = run("list")
    assert str(shared_data / "gsm8k_test.parquet") in listed
    problems, texts = listed.split("\n\n")
    assert "grammar" in texts
    assert [line.split()[1] for line in problems.splitlines()[2:]] == [
        "gsm8k", "dapo", "math", "math500", "math300", "aime24", "aime25", "amc23", "countdown-mini", "countdown-easy",
        "countdown-hard", "attribution",
    ]  # fmt: skip


@pytest.mark.slow
def test_show_reports_known_faults(shared_data: Path):
    shown = run("show", shared_data / "math300.parquet", "--limit", 1)
    assert shown.startswith("math300: 316 problems\n")
    assert "[0] How many positive whole-number divisors does 196 have?\n  answer: 9\n" in shown
    assert "lost the text after their first blank line" in shown
    assert "16 44 45 89 218" in shown
    assert "occur both in DAPO-Math-17k" in shown
    assert "66 answers were cut inside a brace" in run("show", shared_data / "math_test.parquet", "--limit", 0)


PUBLISHED = ("several answers", "minus one", "shared", "lost text", "lost base")  # faults that need another set to see


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "counts"),
    [
        ("dapo_math_train", {"several answers": 20, "minus one": 71, "shared": 885, "lost text": 2}),
        ("math_test", {"shared": 828}),
        ("amc23", {"shared": 8}),
        ("math300", {"shared": 8, "lost text": 26, "lost base": 5}),
        ("aime24", {"lost text": 1}),
        ("gsm8k_test", {}),
    ],
)
def test_show_reports_the_documented_faults_of_each_set(shared_data: Path, stem: str, counts: dict[str, int]):
    shown = json.loads(run("show", shared_data / f"{stem}.parquet", "--json", "--limit", 0))
    found = {finding["fault"]: finding["count"] for finding in shown["findings"]}
    assert {fault: count for fault, count in found.items() if fault in PUBLISHED} == counts


def test_show_against_another_set_as_json(shared_data: Path):
    amc23, dapo = shared_data / "amc23.parquet", shared_data / "dapo_math_train.parquet"
    shown = json.loads(run("show", amc23, "--against", dapo, "--json", "--limit", 2))
    assert (shown["name"], shown["problems"], len(shown["first"])) == ("amc23", 40, 2)
    against = shown["findings"][-1]
    assert (against["fault"], against["count"], against["where"]) == ("against", 8, "dapo_math_train")
    assert len(shown["notes"]) == 1


def test_show_a_synthetic_set():
    shown = run("show", "countdown-easy:train", "--limit", 1)
    assert shown.startswith("countdown-easy:train: ")
    assert "no faults found" in shown


@pytest.mark.slow
def test_grade_counts_all_verdicts(graded: Path):
    columns = ("--text", "text", "--answer", "answer", "--deadline", 2.5)
    printed = run("grade", graded, *columns, "--json", "--each").splitlines()
    rows, counts = [json.loads(line) for line in printed[:-1]], json.loads(printed[-1])
    assert rows == [
        {"row": 0, "verdict": "right", "extracted": "1/2"},
        {"row": 1, "verdict": "wrong", "extracted": "7"},
        {"row": 2, "verdict": "unparsed", "extracted": None},
        {"row": 3, "verdict": "unparsed", "extracted": None},
        {"row": 4, "verdict": "right", "extracted": "1+x"},
        {"row": 5, "verdict": "timeout", "extracted": "9^{9^{9^9}}"},
    ]
    assert counts["verdicts"] == {"right": 2, "wrong": 1, "unparsed": 2, "timeout": 1}
    assert counts["rows"] == 6


@pytest.mark.slow
def test_grade_the_math_solutions(shared_data: Path):
    file = shared_data / "math_test.parquet"
    counts = json.loads(run("grade", file, "--text", "solution", "--answer", "answer", "--json"))
    assert counts["rows"] == 5000
    assert counts["verdicts"]["right"] >= 0.995 * 5000
    assert (counts["completed"], counts["cut"]) == (66, 0)


def test_grade_prints_a_table_and_says_what_is_cut(tmp_path: Path):
    file = tmp_path / "cut.jsonl"
    rows = [
        {"text": r"\boxed{\frac{\sqrt{3}}{3}}", "answer": r"\frac{\sqrt{3"},
        {"text": "#### 1", "answer": "#### 1,000"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = run("grade", file, "--text", "text", "--answer", "answer")
    assert [line.split()[1:4:2] for line in printed.splitlines()[2:6]] == [
        ["right", "0"], ["wrong", "1"], ["unparsed", "1"], ["timeout", "0"],
    ]  # fmt: skip
    assert "1 reference answers are cut inside a brace: no answer can equal them" in printed


def test_grade_countdown(tmp_path: Path):
    file = tmp_path / "countdown.jsonl"
    file.write_text(json.dumps({"text": r"\boxed{ 9 - 8 * 5 }", "answer": "9 - 8  * 5"}) + "\n")
    counts = json.loads(run("grade", file, "--text", "text", "--answer", "answer", "--checker", "countdown", "--json"))
    assert counts["verdicts"]["right"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "amc32"), "did you mean 'amc23'"),
        (("show", "missing.parquet"), "no file missing.parquet"),
        (("grade", "FILE", "--text", "txt", "--answer", "answer"), "no column 'txt'; did you mean 'text'"),
        (("grade", "FILE", "--text", "text", "--answer", "gold"), "no column 'gold'"),
        (("grade", "FILE", "--text", "text", "--answer", "answer", "--checker", "mat"), "no checker 'mat'"),
        (("grade", "EMPTY", "--text", "text", "--answer", "answer"), "holds no rows"),
        (("grade", "NUMBERS", "--text", "text", "--answer", "answer"), "text is no text but a int"),
        (("grade", "BLANK", "--text", "text", "--answer", "answer"), "row 0 .* has no reference answer"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, graded: Path, arguments: tuple[str, ...], message: str):
    files = {"FILE": graded}
    for name, content in {
        "EMPTY": "",
        "NUMBERS": '{"text": 1, "answer": 1}',
        "BLANK": '{"text": "", "answer": ""}',
    }.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        run(*(files.get(argument, argument) for argument in arguments))
    assert "\n" not in str(caught.value)
