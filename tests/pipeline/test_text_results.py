"""Experiments on plain text: their evaluations stand in the table, losses as they are, scores in percent."""

from __future__ import annotations

from pathlib import Path

import pytest

from polythink.pipeline.arms import Experiment
from polythink.pipeline.experiment import collect, evaluations, resolve
from polythink.pipeline.recipe import load_recipe
from polythink.pipeline.results_table import headlines, make_table
from polythink.run.config import parse_config
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl
from polythink.text.scores import score_rows

METRICS = ("exact", "bleu", "loss", "perplexity")


def experiment(seeds: tuple[int, ...]) -> Experiment:
    arms = {
        name: {"recipe": "translation-reverse", "overrides": [f"model.architecture={name}", "test.data=[reverse:test]"]}
        for name in ("vanilla", "eit")
    }
    return parse_config(Experiment, {"name": "two", "seeds": list(seeds), "arms": arms, "jobs": 1}, "test")


def finish(folder: Path, kind: str, right: int, nll: float) -> None:
    """What a stage leaves: `right` of four outputs are the reference."""
    if kind == "text_eval":
        rows = [
            {"reference": "a b c d e", "output": "a b c d e" if i < right else "a b c x e", "exact": i < right,
             "nll": nll, "tokens": 6}
            for i in range(4)
        ]  # fmt: skip
        metrics = {name: vars(score.estimate(100)) for name, score in score_rows(rows, METRICS, "none").items()}
        write_jsonl(folder / "samples-reverse-test.jsonl", rows)
        write_json(folder / "eval-reverse-test.json", {"problems": "reverse:test", "n": 4, "metrics": metrics})
    write_json(folder / "result.json", {"seconds": 5.0, "evaluations": {"reverse-test": {}}})


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_table_of_two_architectures(tmp_path, seeds):
    runs = resolve(experiment(seeds), load_recipe)
    assert [run.name for run in runs][:2] == ["vanilla-seed0", "eit-seed0"], "all arms with one seed come first"
    stages = collect(runs, tmp_path)
    for run in runs:
        for plan in run.plans.values():
            right = (1 if run.arm == "vanilla" else 3) + (run.seed if run.arm == "eit" else 0)
            finish(stages[plan.digest].folder, plan.stage.kind, right, 12.0 if run.arm == "vanilla" else 9.0)
    found = [one for run in runs for one in evaluations(run, stages)]
    assert {one.after for one in found} == {"train"}
    table = make_table("two", "vanilla", found, ("exact", "bleu", "loss"))
    vanilla, eit = table.columns
    assert vanilla.results["reverse-test"]["loss"].value == pytest.approx(2.0), "amounts are not cut at one"
    assert eit.results["reverse-test"]["exact"].value == pytest.approx(0.75 + 0.125 * (len(seeds) - 1))
    differences = eit.differences["reverse-test"]
    assert differences["loss"].value == pytest.approx(-0.5)
    assert differences["exact"].value == pytest.approx(0.5 + 0.125 * (len(seeds) - 1))
    assert ("bleu" in differences) == (len(seeds) > 1), "one seed: BLEU is no ratio of sums, pair by pair"
    assert " 2 [2, 2] " in table.markdown
    below = [row[1:] for row in table.rows]
    assert [row[0] for row in below if row[0] != "seconds"] == (
        ["exact", "difference", "bleu", "difference", "loss", "difference"]
        if len(seeds) > 1
        else ["exact", "difference", "bleu", "loss", "difference"]
    )
    assert below[1][2].startswith("+50.0 [" if len(seeds) == 1 else "+62.5 [")
    assert [row for row in below if row[0] == "difference"][-1][2].startswith("-0.5")
    assert ", difference to the first arm: eit +" in headlines(table.columns)[0]
    assert "25.0%" in table.markdown
