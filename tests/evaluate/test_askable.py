"""Problems that cannot be asked, answers that cannot be compared, budgets that leave no room: found, named, counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.backends import CannedBackend
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.compare import compare
from polythink.evaluate.config import CompareConfig
from polythink.evaluate.metrics import Metric, few_cases_note
from polythink.evaluate.run import evaluate
from polythink.evaluate.samples import askable, fitting
from polythink.models.build import ModelConfig, from_config
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.folder import read_json

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
SHORT = Prompt("short", "{problem}")
SET = ProblemSet("sums", (Problem("a", "1+1", "2"), Problem("b", "9" * 90, "3"), Problem("c", "2+2", "4")))


def silent(line: str) -> None:
    pass


class Small(CannedBackend):
    context = 60


def small() -> Small:
    return Small({key: ["Final Answer: 2"] * 3 for key in "abc"})


def test_what_fits_is_kept_in_order_and_the_rest_has_a_reason() -> None:
    kept, dropped = fitting(small(), SET, SHORT)
    assert [problem.key for problem in kept] == ["a", "c"]
    assert dropped == {"b": "the prompt has 90 tokens and the model's context holds 60"}
    exact = Problem("d", "1" * 59, "1"), Problem("e", "1" * 60, "1")
    assert [p.key for p in fitting(small(), exact, SHORT)[0]] == ["d"], "a prompt leaves one position at least"


def test_a_problem_must_fit_under_every_prompt() -> None:
    kept, dropped = fitting(small(), SET, SHORT, Prompt("long", "x" * 58 + "{problem}"))
    assert (kept, list(dropped)) == ((), ["a", "b", "c"])


def test_a_word_that_a_closed_vocabulary_lacks_is_named_with_its_problem() -> None:
    lm = from_config(ModelConfig(**SHAPE), "parallel_r1", VOCABULARY)
    own = (*problems("mini", "heldout", 2), Problem("eggs", "How many eggs?", "3"))
    kept, dropped = fitting(lm, own, SHORT)
    assert [p.key for p in kept] == [p.key for p in own[:2]]
    assert "no token for 'How', 'many'" in dropped["eggs"]


def test_skipped_problems_are_counted_and_no_part_of_any_number(tmp_path) -> None:
    backend, said = small(), []
    result = evaluate(backend, SET, prompt=SHORT, samples=3, out=tmp_path / "out", log=said.append)
    reason = "the prompt has 90 tokens and the model's context holds 60"
    assert {request.problem for requests, *_ in backend.asked for request in requests} == {"a", "c"}
    assert (result["n"], result["skipped"]) == (2, {"b": reason})
    assert result["metrics"]["mean@3"]["value"] == 1 / 2
    note = f"1 of 3 problems cannot be asked and were skipped; what is counted are the other 2 ('b': {reason})"
    assert note in result["notes"]
    assert f"note on sums: {note}" in said
    assert read_json(tmp_path / "out" / "eval.json")["skipped"] == {"b": reason}


def test_refused_before_anything_is_sampled_or_written_if_that_is_wanted(tmp_path) -> None:
    backend = small()
    with pytest.raises(UserError, match="1 of the 3 problems of sums cannot be asked: 'b': the prompt has 90 tokens"):
        evaluate(backend, SET, prompt=SHORT, overlong_prompts="refuse", out=tmp_path / "out", log=silent)
    with pytest.raises(UserError, match="overlong_prompts is skip or refuse, not 'drop'"):
        evaluate(backend, SET, prompt=SHORT, overlong_prompts="drop", out=tmp_path / "out", log=silent)
    with pytest.raises(UserError, match="none of the 1 problems of sums can be asked: 'b'"):
        evaluate(backend, ProblemSet("sums", SET.problems[1:2]), prompt=SHORT, out=tmp_path / "out", log=silent)
    alike = ProblemSet("sums", (SET.problems[1], replace(SET.problems[1], key="d")))
    with pytest.raises(
        UserError, match="none of the 2 problems of sums can be asked: 'b', like the others: the prompt"
    ):
        evaluate(backend, alike, prompt=SHORT, out=tmp_path / "out", log=silent)
    assert not backend.asked
    assert not (tmp_path / "out").exists()


def test_of_many_three_are_named() -> None:
    many = [Problem(f"long{i}", "9" * 99, "1") for i in range(7)]
    note = askable(small(), (*SET, *many), SHORT)[2]
    assert "'b': " in note
    assert "'long1': " in note
    assert "'long2'" not in note
    assert note.endswith("; and 5 more)")


def test_a_comparison_leaves_a_problem_out_of_every_method() -> None:
    lm = from_config(ModelConfig(**SHAPE), "parallel_r1", VOCABULARY)
    own = ProblemSet("mini", (*problems("mini", "heldout", 2), Problem("eggs", "How many eggs?", "3")))
    params = SamplingParams(paths=2, max_blocks=1, max_main_tokens=4, max_path_tokens=4, max_summary_tokens=4)
    options = CompareConfig(sequential_prompt="none", paths=(1,), samples=1)
    result = compare(Engine(lm), own, options, prompt=SHORT, params=params, log=silent)
    assert (result["n"], list(result["skipped"])) == (2, ["eggs"])


# ---- answers that are not compared in time ----


class Slow(Grader):
    """A grader that finds no time for answers that hold an x."""

    def equal(self, given: str, reference: str, checker: str = "math") -> bool | None:
        return None if "x" in given else super().equal(given, reference, checker)


def test_timeouts_are_counted_named_and_stay_in_the_denominator() -> None:
    backend = CannedBackend({"a": [r"\boxed{2}", r"\boxed{x}"], "c": [r"\boxed{x^2}", r"\boxed{5}"]})
    with Slow() as grader:
        result = evaluate(backend, [SET.problems[0], SET.problems[2]], samples=2, grader=grader, log=silent)
    assert result["verdicts"] == {"timeout": 2, "right": 1, "wrong": 1}
    assert result["metrics"]["mean@2"]["value"] == 1 / 4
    (note,) = [note for note in result["notes"] if "timeout" in note]
    assert note.startswith("2 answers could not be compared with the reference in time (verdict timeout; problems 'a',")
    assert "stay in the denominator" in note
    with Slow() as grader:
        assert grader.grade(r"\boxed{x}", SET.problems[0]) == Grade("timeout", "x")


# ---- nothing was sampled ----


def test_budgets_without_room_for_a_token_are_refused(tmp_path) -> None:
    lm = from_config(ModelConfig(**SHAPE), "parallel_r1", VOCABULARY)
    params = SamplingParams(paths=3, max_trace_tokens=1, fork_at=0)
    with pytest.raises(UserError, match=r"max_trace_tokens.* paths"):
        evaluate(Engine(lm), problems("mini", "heldout", 2), prompt=SHORT, params=params, samples=1,
                 out=tmp_path / "out", log=silent)  # fmt: skip
    assert not (tmp_path / "out" / "eval.json").exists()


# ---- intervals that are too narrow ----


def test_shares_of_few_cases_are_said_to_have_narrow_intervals() -> None:
    def metric(*denominators: float) -> Metric:
        import numpy as np

        return Metric(tuple(map(str, range(len(denominators)))), np.zeros(len(denominators)), np.array(denominators))

    few = {"mean@8": metric(1, 1, 1), "right_path": metric(3, 0, 2), "summary_right": metric(*[8.0, 3.0] * 30)}
    assert few_cases_note(few).endswith(": right_path (5)")
    assert few_cases_note({"mean@8": metric(1, 1), "tokens": metric(4, 4)}) is None
