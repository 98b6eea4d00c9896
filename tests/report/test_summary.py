"""The summary of a run's report: from the first evaluation to the last, on the same problems or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.report_page import no_charts, outline  # noqa: F401
from polythink.evaluate.metrics import compute_metrics
from polythink.report.report import write_report
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl

pytestmark = pytest.mark.usefixtures("no_charts")


def evaluated(folder: Path, right: list[int], well_formed: list[int] | None = None, first: int = 0, **facts) -> None:
    """An evaluation with 100 samples of each problem, so many of them right and well formed."""
    forms = well_formed or right
    rows = [
        {"problem": f"p{first + p}", "verdict": "right" if i < n else "wrong", "extracted": str(i >= n),
         "checker": "math", "well_formed": i < forms[p], "blocks": 0, "complete_blocks": 0, "segments": [],
         "tokens": 5, "critical_path": 5, "truncated": 0}
        for p, n in enumerate(right) for i in range(100)
    ]  # fmt: skip
    found = compute_metrics(rows, wanted=("mean@k", "well_formed"))
    metrics = {key: vars(metric.estimate) for key, metric in found.items()}
    facts = {"problems": "x", "n": len(right), "samples": 100, "metrics": metrics} | facts
    write_json(folder / "eval.json", facts)
    write_jsonl(folder / "samples.jsonl", rows)


def text_of(run: Path) -> str:
    write_json(run / "stages.json", [{"name": name, "kind": "eval"} for name in ("before", "after")])
    return outline(write_report(run)).text


SPREAD = [10, 20, 30, 50, 70, 90] * 5  # what is right of 100: the interval over problems is wide


def test_a_gain_on_every_problem_is_shown_though_the_intervals_overlap(tmp_path) -> None:
    evaluated(tmp_path / "before", SPREAD, [n + 5 for n in SPREAD])
    evaluated(tmp_path / "after", [n + 7 for n in SPREAD], [n + 9 for n in SPREAD])
    text = text_of(tmp_path)
    assert "after before, 52.0% [" in text
    assert "after after: on the same problems +7.0 points [+7.0, +7.0]; well formed" in text
    assert "on the same problems +4.0 points [+4.0, +4.0]." in text
    assert "overlap" not in text
    assert "x: 30 problems, 100 samples per problem" in text


def test_a_difference_that_may_be_chance_is_not_shown(tmp_path) -> None:
    evaluated(tmp_path / "before", SPREAD)
    evaluated(tmp_path / "after", [n + d for n, d in zip(SPREAD, [9, -9, 3] * 10, strict=True)])
    text = text_of(tmp_path)
    assert "on the same problems +1.0 points [" in text
    assert "], no difference shown." in text
    assert "; well formed" not in text


@pytest.mark.parametrize("with_samples", [True, False])
def test_a_part_of_a_set_is_not_compared_with_the_whole_and_both_sizes_are_said(with_samples, tmp_path) -> None:
    evaluated(tmp_path / "before", SPREAD[:6])
    evaluated(tmp_path / "after", SPREAD)
    if not with_samples:
        (tmp_path / "before" / "samples.jsonl").unlink()
    text = text_of(tmp_path)
    assert "x: before and after were measured on different problems, so their numbers are not compared." in text
    assert "before, 6 problems, 100 samples per problem" in text
    assert "after, 30 problems, 100 samples per problem" in text
    assert "x: 6 problems" not in text


@pytest.mark.parametrize(("first", "editions"), [(30, ("a", "a")), (0, ("a", "b"))])
def test_as_many_other_problems_are_other_problems(first, editions, tmp_path) -> None:
    evaluated(tmp_path / "before", SPREAD, problem_hash=editions[0])
    evaluated(tmp_path / "after", SPREAD, first=first, problem_hash=editions[1])
    assert "measured on different problems" in text_of(tmp_path)


def test_a_stage_that_asks_with_several_prompts_is_not_compared_with_itself(tmp_path) -> None:
    for stage, gains in (("before", (0, 5)), ("after", (7, 9))):
        for prompt, gain in zip(("plain", "parallel"), gains, strict=True):
            evaluated(tmp_path / stage, [n + gain for n in SPREAD], prompt={"name": prompt})
            for file in ("eval.json", "samples.jsonl"):
                stem, dot, end = file.partition(".")
                (tmp_path / stage / file).rename(tmp_path / stage / f"{stem}-{prompt}{dot}{end}")
    text = text_of(tmp_path)
    assert "x, prompt plain: mean@100 45.0% [" in text
    assert "after after: on the same problems +7.0 points" in text
    assert "x, prompt parallel: mean@100 50.0% [" in text
    assert "after after: on the same problems +4.0 points" in text
    assert "after after, 5" not in text


def test_without_all_samples_the_intervals_are_compared(tmp_path) -> None:
    for name, gain in (("before", 0), ("after", 7)):
        evaluated(tmp_path / name, [n + gain for n in SPREAD])
    samples = tmp_path / "after" / "samples.jsonl"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    assert "after after: intervals overlap." in text_of(tmp_path)
