"""How many paths a block has: policies that read the tokens drawn so far."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from helpers.states import A, B, C, Fed
from polythink.engine.params import SamplingParams
from polythink.engine.policies import last_answer
from polythink.engine.structured import StructuredState
from polythink.engine.width import WIDTHS, ForkState, wanted
from polythink.errors import UserError

BUDGETS = {"max_main_tokens": 6, "max_path_tokens": 5, "max_summary_tokens": 4, "max_trace_tokens": 120}


def one_more(state: ForkState) -> int:
    """Paths until one of them ends with an `a`, or as many as are allowed."""
    found = bool(state.drawn) and last_answer(state.decode(state.drawn[-1])) == "a"
    return len(state.drawn) + (not found)


def hundred(state: ForkState) -> int:
    return 100


def none(state: ForkState) -> int:
    return 0


def no_answer(text: str) -> None:
    return None


def fed(**params) -> Fed:
    return Fed(StructuredState, **params)


def test_two_paths_that_agree_are_enough():
    it = fed(width="agreement", paths=4).feed("<Parallel>", (A, A), ("</Path>", "</Path>"))
    assert it.kinds == ["fork", "fork", "join"]


def test_paths_without_an_answer_do_not_agree():
    it = fed(width="agreement", paths=4, path_answer=no_answer).feed("<Parallel>", (A, A), ("</Path>", "</Path>"))
    assert it.kinds == ["fork"] * 4


def test_paths_that_disagree_are_joined_by_more_from_the_same_fork():
    it = fed(width="agreement", paths=4).feed("<Parallel>", (A, B), ("</Path>", "</Path>"))
    assert it.kinds == ["fork"] * 4
    assert it.state.follows[2:] == [(1,)] * 4
    assert it.inputs.positions[-2:] == [4, 4]  # where the first two began
    it.feed((C, A), ("</Path>", "</Path>"))
    assert it.kinds == ["fork"] * 4 + ["join"]


def test_a_policy_is_asked_until_it_is_content_and_bounded():
    it = fed(width=one_more, max_paths=3).feed("<Parallel>", B, "</Path>", B, "</Path>", B, "</Path>")
    assert it.kinds == ["fork", "fork", "fork", "join"]
    assert it.state.records[1].bounded
    it = fed(width=one_more, max_paths=3).feed("<Parallel>", B, "</Path>", A, "</Path>")
    assert it.kinds == ["fork", "fork", "join"]
    assert not it.state.records[1].bounded
    assert fed(width=hundred, max_paths=5).feed("<Parallel>").kinds == ["fork"] * 5


def test_paths_that_no_longer_fit_are_not_forked():
    it = fed(width="agreement", paths=9, max_trace_tokens=24, max_path_tokens=50).feed("<Parallel>", (A, B))
    it.feed(("</Path>", "</Path>"))
    assert it.kinds == ["fork", "fork", "join"]
    assert it.state.records[1].bounded


def test_what_a_policy_may_be():
    assert SamplingParams(width=one_more).model_dump(mode="json")["width"] == f"{__name__}:one_more"
    again = SamplingParams.model_validate(SamplingParams(width=one_more).model_dump(mode="json"))
    assert WIDTHS.function(again.width) is one_more
    assert WIDTHS.function("fixed") is None
    with pytest.raises((ValidationError, UserError), match="has no function 'nothing'"):
        SamplingParams(width=f"{__name__}:nothing")
    with pytest.raises(UserError, match="returned 0; it must return a number of paths from 1 up"):
        wanted(none, None)


def test_the_answer_of_a_path_is_its_last_number_or_word():
    assert last_answer("<Path> 3 and 4.5 so</Path>") == "4.5"
    assert last_answer("<Path> so be it</Path>") == "it"
    assert last_answer("<think2></think2>") == ""


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        (("It costs 12,000.", r"$12{,}000", r"\boxed{12\,000}", "12 000 euros"), "12000"),
        (("It costs 1,045,000.50",), "1045000.50"),
        (("so 1/2.", r"is \frac{1}{2}", "1 / 2", r"\boxed{\dfrac{1}{2}}"), "1/2"),
        (("3 1/2 hours", r"3\frac{1}{2}"), "3 1/2"),
        (("the total is .5", "0.5 of them"), "0.5"),
        (("from -3 to -.25",), "-0.25"),
        (("(1,2)", "at 1,2"), "1,2"),
        (("it is 2^10",), "2^10"),
        (("in 2023 150 people",), "150"),
    ],
)
def test_numbers_are_whole_and_in_one_notation(texts, answer):
    """The end of a number is no answer: 12,000 and 45,000 would agree on 000, and 1/2 and 3/2 on 2."""
    assert {last_answer(text) for text in texts} == {answer}
