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
        "gsm8k", "dapo", "math", "math500", "math300", "aime24", "aime25", "amc23", "stories-one",
        "stories-two", "stories-three", "countdown-mini", "countdown-easy", "countdown-hard", "attribution",
        "multiply-easy", "multiply-hard", "code-mini",
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
        pytest.param(
            "dapo_math_train",
            {"several answers": 20, "minus one": 71, "shared": 885, "lost text": 2},
            marks=pytest.mark.long,  # tests/problems/test_audit.py counts them too
        ),
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


# ---- the dialect and the checker of a file ----


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def graded_as(file: Path, *more: object, status: int = 0) -> tuple[list[str], dict]:
    """The verdict of each row, and the counts."""
    result = invoke(app, "grade", file, "--text", "text", "--answer", "answer", "--each", "--json", *more)
    assert result.exit_code == status
    *rows, counts = map(json.loads, result.stdout.splitlines())
    return [row["verdict"] for row in rows], counts


def test_an_answer_in_a_path_alone_counts_in_no_dialect(tmp_path: Path):
    numbered = "<think1>\\boxed{5}</think1><think2>\\boxed{5}</think2><summary>both agree</summary>"
    stated = numbered.replace("both agree", "so \\boxed{5}")
    tagged = "<Parallel><Path>\\boxed{5}</Path><Path>\\boxed{5}</Path></Parallel>\n<Summary>\\boxed{5}</Summary>"
    file = write(tmp_path / "numbered.jsonl", *({"text": text, "answer": "5"} for text in (numbered, stated)))
    for more in ((), ("--dialect", "parathinker")):
        verdicts, counts = graded_as(file, *more)
        assert verdicts == ["unparsed", "right"]
        assert counts["dialect"] == "parathinker"
    with pytest.raises(UserError, match="hold the tags of parathinker: add --dialect parathinker"):
        graded_as(file, "--dialect", "parallel_r1")
    verdicts, _ = graded_as(write(tmp_path / "tagged.jsonl", {"text": tagged, "answer": "5"}), status=1)
    assert verdicts == ["unparsed"]


def test_attribution_is_graded_by_the_numbers_of_its_paths(tmp_path: Path):
    text = "<think9> . . . k . . </think9><think2> . . . a . . </think2><summary> 2 a 9 k </summary>"
    rows = [{"text": text, "answer": 4}, {"text": text.replace("9 k <", "9 a <"), "answer": "4"}]
    file = write(tmp_path / "said.jsonl", *rows)
    verdicts, counts = graded_as(file, "--checker", "attribution")
    assert verdicts == ["right", "wrong"]
    assert counts["checkers"] == ["attribution"]
    with pytest.raises(UserError, match="attribution needs paths with numbers, dialect parallel_r1 has none"):
        graded_as(write(tmp_path / "plain.jsonl", {"text": "plain", "answer": 4}), "--checker", "attribution",
                  "--dialect", "parallel_r1")  # fmt: skip
    assert graded_as(tmp_path / "plain.jsonl", "--checker", "attribution", status=1)[0] == ["unparsed"]
    with pytest.raises(UserError, match=r"row 0 of .*line 1 has the reference answer 'k'; for the checker attribution"):
        graded_as(write(tmp_path / "letter.jsonl", {"text": text, "answer": "k"}), "--checker", "attribution")


def test_the_file_says_its_checker(tmp_path: Path):
    rows = [
        {"text": r"\boxed{ 8 * 2 + 1 }", "answer": "1 + 8 * 2", "checker": "countdown"},
        {"text": r"\boxed{2 + 1}", "answer": "1 + 2", "checker": None},
    ]
    file = write(tmp_path / "samples.jsonl", *rows)
    verdicts, counts = graded_as(file)
    assert (verdicts, counts["checkers"]) == (["wrong", "right"], ["countdown", "math"])
    with pytest.raises(UserError, match=r"line 1 is graded by the checker countdown, .* but --checker is math"):
        graded_as(file, "--checker", "math")
    rows[0]["checker"] = "countdwon"
    with pytest.raises(UserError, match="has checker 'countdwon'; did you mean 'countdown'"):
        graded_as(write(file, *rows))


@pytest.mark.parametrize("checker", ["math", "countdown"])
def test_the_number_zero_is_a_reference(tmp_path: Path, checker: str):
    rows = [{"text": r"\boxed{0}", "answer": answer} for answer in (0, [0], "0")]
    verdicts, _ = graded_as(write(tmp_path / "zero.jsonl", *rows), "--checker", checker)
    assert verdicts == ["right"] * 3


@pytest.mark.parametrize("answer", [[1, 2], {"value": 5}, True])
def test_grade_names_the_line_of_a_reference_that_is_none(tmp_path: Path, answer: object):
    file = write(tmp_path / "rows.jsonl", {"text": "", "answer": 1}, {"text": "", "answer": answer})
    with pytest.raises(UserError, match=r"row 1 of .*rows\.jsonl, line 2 has .* in its column 'answer'"):
        graded_as(file)


def test_texts_without_an_answer_are_noticed(tmp_path: Path):
    rows = [{"text": "#", "answer": "1"}, {"text": None, "answer": "1"}]
    file = write(tmp_path / "none.jsonl", *rows)
    result = invoke(app, "grade", file, "--text", "text", "--answer", "answer")
    assert result.exit_code == 1
    assert "2 of 2 texts are unparsed: no answer that is read stands after their last block" in result.stderr
    assert "lenient" not in result.stderr
    spoken = write(tmp_path / "spoken.jsonl", {"text": "So it is 5.\n#### 5", "answer": "5"})
    result = invoke(app, "grade", spoken, "--text", "text", "--answer", "answer")
    assert result.exit_code == 1
    assert "1 state one in another form, which --answers lenient reads" in result.stderr
    assert graded_as(spoken, "--answers", "lenient")[0] == ["right"]
    with pytest.raises(UserError, match="no rule 'lenent' for answers; did you mean 'lenient'"):
        graded_as(spoken, "--answers", "lenent")
    result = invoke(app, "grade", write(file, *rows, {"text": "Final Answer: 1", "answer": "1"}), "--text", "text",
                    "--answer", "answer")  # fmt: skip
    assert result.exit_code == 0
    assert "2 of 3 texts are unparsed" in result.stderr
    assert "checker math; dialect parallel_r1, by the tags" in result.stdout


def test_half_a_character_is_found_before_anything_is_printed(tmp_path: Path):
    file = write(tmp_path / "rows.jsonl", {"text": "a", "answer": 1})
    file.write_text(file.read_text() + '{"text": "\\ud83d", "answer": 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 holds \\ud83d"):
        graded_as(file)


# ---- texts, help, the data folder ----


def test_show_texts(tmp_path: Path):
    shown = run("show", "grammar", "--limit", 2)
    assert shown.startswith("grammar:train: ")
    assert shown.count("\n  -> ") == 2
    assert len(json.loads(run("show", "sort:long", "--json", "--limit", 1))["first"]) == 1
    for end, text in (("en", "\ufeffa dog\n"), ("de", "\ufeffein Hund\n")):
        (tmp_path / f"t.{end}").write_text(text, encoding="utf-8")
    pairs = json.loads(run("show", tmp_path / "t.{en,de}", "--json"))["first"]
    assert pairs == [{"source": "a dog", "target": "ein Hund"}]
    with pytest.raises(UserError, match="grammar has no split 'heldout'"):
        run("show", "grammar:heldout")
    with pytest.raises(UserError, match="grammar is a set of texts"):
        run("show", "grammar", "--against", "amc23")


@pytest.mark.parametrize("command", [(), ("show",), ("list",), ("coldstart",), ("assemble",)])
def test_help_names_the_data_folder(command: tuple[str, ...]):
    assert "POLYTHINK_DATA" in run(*command, "--help")


def test_a_published_set_is_shown_from_the_data_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("POLYTHINK_DATA", "~/sets")
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets" / "aime24.jsonl", {"problem": "How many of the first 9 primes are odd?", "answer": "8"})
    assert "answer: 8" in run("show", "aime24")
    assert str(tmp_path / "sets" / "aime24.jsonl") in run("list")
