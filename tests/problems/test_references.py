"""Reference answers of rows: where they stand, what is refused, and which are hardly answers."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from polythink.errors import UserError
from polythink.problems.audit import audit
from polythink.problems.references import is_prose, reference_answer
from polythink.problems.sets import load_problems
from polythink.run.jsonl import read_rows


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        # #### begins the answer only in the last line
        ({"solution": "#### Step 1\nAdd.\n#### Step 2\nSo we get $\\boxed{12}$."}, "12"),
        ({"solution": "#### Sketch\nTwo cases.\n\n#### Cases\nBoth give the same.\nFinal Answer: 31"}, "31"),
        ({"answer": "#### Step 1\nIt is 4.\n#### 4\n\n"}, "4"),
        ({"answer": "They sold 72. #### 72"}, "72"),
        ({"answer": "Add.\n#### so it is $\\boxed{7}$."}, "7"),
        ({"answer": "Add.\n##### Part 5\nAnswer: 9"}, "9"),
        # commas between digits and groups of three only
        ({"answer": "x\n#### (1, 2)"}, "(1, 2)"),
        ({"answer": "x\n#### 3, 5"}, "3, 5"),
        ({"answer": "x\n#### 12,34"}, "12,34"),
        ({"answer": "x\n#### 1,2,3"}, "1,2,3"),
        ({"answer": "x\n#### (100,200)"}, "(100,200)"),
        ({"answer": "x\n#### (1,234, 5)"}, "(1234, 5)"),
        ({"answer": "x\n#### -1,234,567.50"}, "-1234567.50"),
        # labels, as in responses
        ({"solution": "We add 2 and 3.\nFinal Answer: 5"}, "5"),
        ({"solution": "We add 2 and 3.\n**Answer:** $x+1$\n"}, "x+1"),
        ({"answer": "Answer: 5"}, "5"),
        ({"solution": "There are 3 and 4.\nThe answer is 7."}, "7"),
        ({"solution": "So it is\n\\boxed 5"}, "5"),
        ({"solution": "An answer of 6 is wrong. Answer: 8"}, "8"),
        # one item, numbers
        ({"answer": ["5"]}, "5"),
        ({"answer": [[r"\frac12"]]}, r"\frac12"),
        ({"answer": 0}, "0"),
        ({"answer": 2.5}, "2.5"),
        ({"answer": Decimal("2.50")}, "2.50"),
        ({"answer": None, "reward_model": {"ground_truth": ["34"]}}, "34"),
        ({"answer": float("nan"), "solution": r"so \boxed{3}"}, "3"),
        # none
        ({"answer": float("nan")}, ""),
        ({"answer": []}, ""),
        ({}, ""),
    ],
)
def test_the_reference_of_a_row(row: dict, answer: str):
    assert reference_answer(row)[0] == answer


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": ["1", "2"]}, "has a list of 2 in its column 'answer'"),
        ({"answer": {"value": 5}}, "has a mapping in its column 'answer'"),
        ({"answer": b"5"}, "has a value of type bytes"),
        ({"answer": False}, "has true or false in"),
        ({"answer": float("inf")}, "has inf in"),
        ({"reward_model": {"ground_truth": ["3", "4"]}}, "a list of 2 in its column 'reward_model.ground_truth'"),
    ],
)
def test_what_is_no_single_answer_is_refused(row: dict, words: str):
    with pytest.raises(UserError, match=words):
        reference_answer(row)


def test_a_set_names_the_file_the_row_and_the_columns(tmp_path: Path):
    file = write(tmp_path / "mine.jsonl", {"question": "A?", "answer": 1}, {"question": "B?", "answer": [1, 2]})
    file.write_text("\n" + file.read_text())
    with pytest.raises(UserError) as caught:
        load_problems(file)
    assert str(caught.value) == (
        "row 1 of mine has a list of 2 in its column 'answer'; an answer is one text or one finite number "
        f"({file}, line 3)"
    )
    file = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"quesion": ["A?", "B?"], "answer": [b"1", b"2"]}), file)
    with pytest.raises(UserError) as caught:
        load_problems(file)
    assert str(caught.value) == (
        "row 0 of mine has no question: needed is a column question or problem or prompt, its columns are quesion, "
        f"answer; did you mean 'quesion'? ({file}) (1 more rows cannot be used)"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": 5}, "has a number in its column 'question'; a question is text"),
        ({"question": {"text": "A?"}}, "has a mapping in its column 'question'"),
        ({"prompt": [{"role": "user", "content": 5}]}, "has a number in its column 'prompt.content'"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a chat turn with parts that are no text"),
        ({"question": "a b c d e f -> 4 of 6", "answer": "x", "checker": "attribution"}, "'x'; for the checker attrib"),
        ({"question": "a b c d e f -> 4 of 6", "answer": "²", "checker": "attribution"}, "for the checker attrib"),
    ],
)
def test_questions_that_are_no_text_are_refused(tmp_path: Path, row: dict, words: str):
    with pytest.raises(UserError, match=r"row 0 of mine .*line 1") as caught:
        load_problems(write(tmp_path / "mine.jsonl", {"answer": 1, **row}))
    assert words in str(caught.value)


def test_the_text_parts_of_a_chat_turn_are_the_question(tmp_path: Path):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]
    file = write(tmp_path / "chat.jsonl", {"prompt": [{"role": "user", "content": parts}], "answer": 2})
    (problem,) = load_problems(file)
    assert problem.question == "What is 1 + 1?"


def test_the_formula_of_the_last_sentence_is_the_reference():
    for last in ("Final Answer: $5$ apples", r"Answer: Sam has \(5\).", "The answer is $5$ apples."):
        assert reference_answer({"answer": f"We add 2 and 3. \n{last}"})[0] == "5"


PROSE = "We add 2 and 3 and obtain 5, so there are 5 apples."


def test_references_that_are_prose_are_counted_and_found(tmp_path: Path):
    rows = [PROSE, "7 + " * 30 + "7", r"\text{June 20}", r"\frac{\sqrt{3}}{2}", "['5']", "nan", "Friday"]
    file = write(tmp_path / "mine.jsonl", *({"problem": f"{i}?", "solution": text} for i, text in enumerate(rows)))
    problem_set = load_problems(file)
    (note,) = problem_set.notes
    assert note.startswith("2 reference answers are sentences or longer than 100 characters")
    found = audit(problem_set)
    assert found.find("prose answer") == ("0", "1")
    assert found.find("printed answer") == ("4", "5")


@pytest.mark.parametrize("stem", ["math_test", "gsm8k_test", "amc23", "aime24"])
def test_no_real_reference_is_taken_for_prose(shared_data: Path, stem: str):
    answers = [reference_answer(row)[0] for row in read_rows(shared_data / f"{stem}.parquet")]
    assert [answer for answer in answers if is_prose(answer)] == []
