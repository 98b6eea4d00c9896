"""Loading problem sets: real files, the columns of the hub, names, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from polythink.errors import UserError
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.sets import load_problems, sources
from polythink.run.jsonl import read_rows

SIZES = {
    "gsm8k_train": 7473,
    "gsm8k_test": 1319,
    "dapo_math_train": 17228,
    "math_test": 5000,
    "math300": 316,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "parallel_gsm8k": 241,
}


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("POLYTHINK_DATA", raising=False)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the `datasets` package: `hub.rows` is what it serves, `hub.asked` what it was asked for."""
    fake = SimpleNamespace(rows=[], asked=None)

    def load_dataset(repo, config=None, split=None):
        fake.asked = (repo, config, split)
        if isinstance(fake.rows, Exception):
            raise fake.rows
        return iter(fake.rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return fake


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- real files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, ProblemSet]:
    return {stem: load_problems(shared_data / f"{stem}.parquet") for stem in SIZES}


@pytest.mark.parametrize("stem", SIZES)
def test_real_files(real: dict[str, ProblemSet], stem: str):
    problem_set = real[stem]
    assert problem_set.name == stem
    assert len(problem_set) == SIZES[stem] == len({problem.key for problem in problem_set})
    for problem in problem_set:
        assert problem.question == problem.question.strip() != ""
        assert problem.answer == problem.answer.strip() != ""
        assert problem.checker == "math"
        assert problem.source == stem
        assert problem.answer.count("{") == problem.answer.count("}")
        if stem not in ("math_test", "parallel_gsm8k"):
            assert re.fullmatch(r"-?\d+(\.\d+)?", problem.answer), problem.answer


def test_gsm8k_keeps_the_worked_solution(shared_data: Path, real: dict[str, ProblemSet]):
    rows = list(read_rows(shared_data / "gsm8k_test.parquet"))
    problems = real["gsm8k_test"].problems
    assert sum("," in row["answer"].rpartition("#### ")[2] for row in rows) == 14
    for row, problem in zip(rows, problems, strict=True):
        assert problem.solution == row["answer"]
        assert problem.answer == row["answer"].rpartition("#### ")[2].replace(",", "")


def test_ids_are_keys_and_rows_are_keys_without_ids(real: dict[str, ProblemSet]):
    assert [problem.key[:8] for problem in real["dapo_math_train"].problems[:2]] == ["9a9b6eb4", "b426d104"]
    assert [problem.key for problem in real["amc23"].problems[:2]] == ["0", "1"]


def test_cut_answers_are_completed_from_the_solution(shared_data: Path, real: dict[str, ProblemSet]):
    rows = list(read_rows(shared_data / "math_test.parquet"))
    problem_set = real["math_test"]
    changed = [i for i, row in enumerate(rows) if row["answer"] != problem_set.problems[i].answer]
    assert len(changed) == 66
    assert all(problem_set.problems[i].answer.startswith(rows[i]["answer"]) for i in changed)
    assert problem_set.notes[0] == "66 answers were cut inside a brace and are completed from their solutions"


def test_notes_say_what_is_not_clean(shared_data: Path, real: dict[str, ProblemSet]):
    notes = {stem: " ".join(problem_set.notes) for stem, problem_set in real.items()}
    assert (
        "828 of 5,000 problems occur both in DAPO-Math-17k and in the test set of MATH or AMC23" in notes["math_test"]
    )
    assert "8 of 40 problems occur both in DAPO-Math-17k" in notes["amc23"]
    assert "8 of 316 problems occur both in DAPO-Math-17k" in notes["math300"]
    assert "26 of 316 problems lost the text" in notes["math300"]
    assert "5 of 316 problems have a reference answer that lost its base" in notes["math300"]
    assert "1 of 30 problems lost the text" in notes["aime24"]
    assert "20 of 17,228 problems were published several times" in notes["dapo_math_train"]
    assert load_problems(shared_data / "amc23.parquet", limit=1).notes == real["amc23"].notes  # of the whole set
    assert notes["gsm8k_test"] == notes["gsm8k_train"] == notes["aime25"] == notes["parallel_gsm8k"] == ""


def test_names_find_files_in_the_data_folder(shared_data: Path, real: dict[str, ProblemSet], monkeypatch):
    monkeypatch.setenv("POLYTHINK_DATA", str(shared_data))
    expected = {"gsm8k": "gsm8k_test", "gsm8k:train": "gsm8k_train", "dapo": "dapo_math_train", "math": "math_test"}
    for name in ("math300", "aime24", "aime25", "amc23"):
        expected[name] = name
    for name, stem in expected.items():
        by_name, by_file = load_problems(name), real[stem]
        assert by_name.name == name
        assert [(p.key, p.answer) for p in by_name] == [(p.key, p.answer) for p in by_file]
        assert by_name.notes == by_file.notes
    assert load_problems("gsm8k", split="test", limit=3).problems == load_problems("gsm8k:test", limit=3).problems


def test_math_500_is_a_set_of_its_own(hub):
    hub.rows = [{"problem": "1 + 1?", "solution": "it is \\boxed{2}", "answer": "2", "subject": "Algebra", "level": 1}]
    assert [(p.question, p.answer) for p in load_problems("math500")] == [("1 + 1?", "2")]
    assert hub.asked == ("HuggingFaceH4/MATH-500", None, "test")


def test_a_limit_takes_the_first_or_a_seeded_choice(shared_data: Path):
    file = shared_data / "gsm8k_test.parquet"
    everything = load_problems(file).problems
    assert load_problems(file, limit=5).problems == everything[:5]
    assert load_problems(file, limit=10_000).problems == everything
    chosen = load_problems(file, limit=5, seed=3).problems
    assert chosen == load_problems(file, limit=5, seed=3).problems != everything[:5]
    assert [int(p.key) for p in chosen] == sorted(int(p.key) for p in chosen)
    assert chosen != load_problems(file, limit=5, seed=4).problems


# --- the columns of the hub ----------------------------------------------------------------------------------------


def test_hub_columns(hub):
    hub.rows = [{"question": "How many?", "answer": "They are 6 * 200.\n#### 1,200"}]
    (problem,) = load_problems("gsm8k")
    assert hub.asked == ("openai/gsm8k", "main", "test")
    assert problem == Problem("0", "How many?", "1200", "math", "gsm8k", "They are 6 * 200.\n#### 1,200")

    hub.rows = [
        {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}
    ]
    (problem,) = load_problems("math:train")
    assert hub.asked == ("DigitalLearningGmbH/MATH-lighteval", None, "train")
    assert (problem.answer, problem.solution) == (r"\frac{1}{2}", r"It is $\boxed{\frac{1}{2}}$.")

    hub.rows = [
        {"id": 60, "problem": "Find it.", "solution": r"\boxed{204}", "answer": "204", "url": "", "year": "2024"}
    ]
    (problem,) = load_problems("aime24")
    assert hub.asked == ("HuggingFaceH4/aime_2024", None, "train")
    assert (problem.key, problem.answer) == ("60", "204")

    hub.rows = [{"id": 0, "question": "A?", "answer": 27.0}, {"id": 1, "question": "B?", "answer": "36"}]
    assert [(p.key, p.answer) for p in load_problems("amc23")] == [("0", "27.0"), ("1", "36")]


@pytest.mark.parametrize("bare", [True, False])
def test_hub_columns_of_dapo(hub, bare: bool):
    wrapped = (
        'Solve the following math problem. The last ...\n\nWhat is $1+1$?\n\nNow.\n\nRemember ... after "Answer:".'
    )
    chat = [{"role": "system", "content": "Think."}, {"role": "user", "content": wrapped}]
    hub.rows = [
        {
            "prompt": "What is $1+1$?\n\nNow." if bare else chat,
            "reward_model": {"ground_truth": "2", "style": "rule"},
            "extra_info": {"index": "9a9b6eb4-a1cb"},
            **({"solution": "2"} if bare else {}),
        }
    ]
    (problem,) = load_problems("dapo")
    assert hub.asked == ("open-r1/DAPO-Math-17k-Processed", "all", "train")
    assert problem == Problem("9a9b6eb4-a1cb", "What is $1+1$?\n\nNow.", "2", "math", "dapo")


def test_without_datasets_or_a_network_the_user_is_told_what_to_do(hub, monkeypatch):
    hub.rows = ConnectionError("Couldn't reach 'math-ai/amc23' on the Hub\nmore")
    with pytest.raises(
        UserError, match=r"cannot load math-ai/amc23 .*Couldn't reach.*amc23\.parquet in POLYTHINK_DATA"
    ):
        load_problems("amc23")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[data\]'.*gsm8k_train\.parquet in POLYTHINK_DATA"):
        load_problems("gsm8k:train")
    with pytest.raises(UserError, match=r"math300 is on no hub .*math300\.parquet in POLYTHINK_DATA"):
        load_problems("math300")


# --- files of one's own --------------------------------------------------------------------------------------------


def test_jsonl_files_with_keys_and_checkers(tmp_path: Path):
    file = write(
        tmp_path / "mine.jsonl",
        {"key": "a", "question": " 9 8 5 -> 5 ", "answer": "9 - 8 * 5", "checker": "countdown"},
        {"id": 7, "prompt": "1+1?", "answer": 2},
    )
    assert load_problems(file).problems == (
        Problem("a", "9 8 5 -> 5", "9 - 8 * 5", "countdown", "mine"),
        Problem("7", "1+1?", "2", "math", "mine"),
    )


def test_repeats_are_dropped_and_counted(tmp_path: Path):
    rows = [{"question": q, "answer": a} for q, a in [("A?", 1), ("B?", 2), ("A?", 1), ("A?", 3)]]
    file = write(tmp_path / "twice.jsonl", *rows)
    problem_set = load_problems(file)
    assert [(p.key, p.answer) for p in problem_set] == [("0", "1"), ("1", "2")]
    assert problem_set.notes == ("2 repeated questions were dropped, 1 with another answer",)
    assert [p.key for p in load_problems(file, keep_repeats=True)] == ["0", "1", "2", "3"]


def test_rows_are_taken_as_a_files_are(tmp_path: Path):
    first = {"question": "A?", "answer": 1}
    rows = [first, {"problem": "B?", "answer": "2", "id": "b"}, first]
    given, read = load_problems(iter(rows)), load_problems(write(tmp_path / "problems.jsonl", *rows))
    assert given.problems == read.problems
    assert (given.name, given.notes) == (read.name, read.notes)
    for wrong, message in (
        ([*rows, "C?"], "problem 3 is str; a row is a mapping with question and answer"),
        (None, "the problems are null; give the name of a set, a file, or rows"),
        (5, "the problems are a number; give"),
        ([{"question": "A?"}], "row 0 of problems has no answer"),
        ([], "problems holds no problems"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load_problems(wrong)
    with pytest.raises(UserError, match="rows have no splits; leave the split 'train' out"):
        load_problems(rows, split="train")


def test_answers_that_are_prose_are_noted_with_where_an_answer_may_stand(tmp_path: Path):
    note = load_problems([{"question": "A?", "answer": "That depends on what one means by it."}]).notes[0]
    assert r"needs its answer in \boxed{..}, after ####" in note


def test_countdown_comes_by_name():
    held, trained = load_problems("countdown-easy"), load_problems("countdown-easy:train", limit=50, seed=1)
    assert held.name == "countdown-easy:heldout"
    assert len(trained) == 50
    assert all(p.checker == "countdown" and len(p.answer.split()) == 5 for p in (*held, *trained))
    assert not {p.key for p in held} & {p.key for p in load_problems("countdown-easy:train")}
    assert all(len(p.answer.split()) == 7 for p in load_problems("countdown-hard", limit=5))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "bad holds no problems"),
        ([{"text": "A?", "answer": 1}], "row 0 of bad has no question"),
        ([{"prompt": [{"role": "system", "content": "A?"}], "answer": 1}], "row 0 of bad has no question"),
        ([{"question": "A?", "answer": 1}, {"question": "B?", "answer": ""}], "row 1 of bad has no answer"),
        ([{"question": "A?", "answer": None, "solution": None}], "row 0 of bad has no answer"),
        ([{"question": "A?", "answer": 1, "checker": "maths"}], "checker 'maths'; did you mean 'math'"),
        ([{"id": 1, "question": q, "answer": 1} for q in "AB"], "2 problems with the id '1'"),
    ],
)
def test_bad_files(tmp_path: Path, rows: list[dict], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        load_problems(write(tmp_path / "bad.jsonl", *rows))


def test_bad_names(tmp_path: Path, monkeypatch):
    for call, message in [
        (lambda: load_problems("gms8k"), "no problem set 'gms8k'; did you mean 'gsm8k'"),
        (lambda: load_problems("gsm8k:tset"), "gsm8k has no split 'tset'; did you mean 'test'"),
        (lambda: load_problems("countdown-easy", split="test"), "countdown-easy has no split 'test'"),
        (lambda: load_problems("gsm8k:train", split="test"), "gsm8k:train names another split than 'test'"),
        (lambda: load_problems(tmp_path / "none.parquet"), "no file"),
        (lambda: load_problems(tmp_path), "is not a problem file"),
        (lambda: load_problems(write(tmp_path / "a.jsonl"), split="test"), "is a file and has no splits"),
        (lambda: load_problems("countdown-easy", limit=0), "a limit of 0 leaves no problems"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            call()
    monkeypatch.setenv("POLYTHINK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not a folder"):
        load_problems("aime25")


def test_every_source_says_where_it_comes_from():
    for name, source in sources().items():
        assert source.about, name
        assert source.splits, name
        assert bool(source.task) != bool(source.stem), name
        assert set(source.hub_splits) <= set(source.splits), name
