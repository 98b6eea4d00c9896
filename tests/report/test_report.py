"""Reports: every section is there, the page is self-contained, and a broken or unfinished run still gets one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from helpers.report_page import no_charts, outline  # noqa: F401
from polythink.errors import UserError
from polythink.report.plots import MORE_PANELS, PANELS, Line, Panel, chart, smooth, stage_chart, value_range
from polythink.report.report import compare_report, ordered, write_report
from polythink.report.runs import Stage
from polythink.report.samples import MOST_SAMPLES, choose_samples, held_paths
from polythink.run.folder import read_attempts, record_attempt, write_json


@pytest.fixture(scope="module")
def report(run_folder):
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    return outline(path)


def test_the_report_has_every_section(report):
    assert report.heads == [
        "countdown", "Results", "Stage cold_start", "Stage sft", "Stage rl_easy", "Stage rl_hard", "Traces",
        "How it was run",
    ]  # fmt: skip
    assert "polythink train countdown.yaml" in report.text
    assert "310" in report.text  # kept by the cold start


def test_the_report_draws_the_learning_curves(report, run_folder):
    html = (run_folder / "report.html").read_text()
    drawn = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    main = [panel.title for panel in PANELS["grpo"]]
    assert [name for name in drawn if name in main] == main * 2
    assert "Loss (nats per token)" in drawn
    assert "shaded steps: tiered" in report.text


def test_the_report_shows_every_value_with_its_interval(report, run_folder):
    evals = [run_folder / stage / f"eval-{name}.json" for stage in ("eval_sft", "eval_rl") for name in ("easy", "hard")]
    for path in evals:
        metric = json.loads(path.read_text())["metrics"]["mean@4"]
        assert f"{100 * metric['value']:.1f}%" in report.text
        assert f"{100 * metric['low']:.1f}–{100 * metric['high']:.1f}" in report.text
    assert "40 problems, 4 samples per problem" in report.text


def test_the_report_draws_traces_of_several_sorts(report, run_folder):
    html = (run_folder / "report.html").read_text()
    assert html.count('<article class="sample ') == MOST_SAMPLES
    assert '<span class="verdict right">' in html
    assert '<span class="verdict wrong">' in html
    assert 'class="card path right"' in html
    assert 'class="card path wrong"' in html
    assert "truncated: length" in report.text


@pytest.mark.slow
def test_an_unfinished_run_is_shown_as_far_as_it_goes(run_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    for gone in ("eval_rl", "eval_sft", "environment.json", "recipe.yaml", "cold_start"):
        shutil.rmtree(run / gone) if (run / gone).is_dir() else (run / gone).unlink()
    metrics = run / "rl_hard" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + '\n{"step": 2, "rew')  # killed in mid-line
    found = outline(write_report(run))
    assert found.heads == ["run", "Results", "Stage sft", "Stage rl_easy", "Stage rl_hard"]
    assert "No evaluation has finished yet" in found.text


def test_an_empty_folder_and_a_missing_one(tmp_path):
    for folder, message in ((tmp_path, "holds no run"), (tmp_path / "nowhere", "no run folder")):
        with pytest.raises(UserError, match=message):
            write_report(folder)
    assert not list(tmp_path.iterdir())


def test_a_lone_eval_folder_is_a_run_of_one(run_folder, tmp_path):
    for name in ("eval-hard.json", "samples-hard.jsonl"):
        shutil.copy(run_folder / "eval_rl" / name, tmp_path / name)
    found = outline(write_report(tmp_path))
    assert found.heads == [tmp_path.name, "Results", "Traces"]


def test_metrics_without_a_value_leave_an_empty_cell(tmp_path):
    metrics = {"mean@2": {"value": 0.5, "low": None, "high": None}, "right_path": {"value": None}, "mine": {"value": 1}}
    (tmp_path / "eval.json").write_text(json.dumps({"problems": "x", "metrics": metrics, "notes": ["on <DAPO>"]}))
    found = outline(write_report(tmp_path))
    assert "50.0%" in found.text
    assert "on <DAPO>" in found.text
    assert "None" not in found.text


def test_arms_are_compared_on_one_page(arm_folders, tmp_path):
    out = compare_report("Three arms", arm_folders, tmp_path / "compare.html", "<table><tr><td>42.0</td></tr></table>")
    found = outline(out)
    assert found.heads[:2] == ["Three arms", "Results"]
    assert {"Stage rl_easy", "Stage rl_hard", "Stage sft"} <= set(found.heads)
    assert [head for head in found.heads if head.startswith("Traces: ")] == [f"Traces: {arm}" for arm in arm_folders]
    assert "42.0" in found.text
    assert "polythink train accuracy.yaml" in found.text
    assert out.read_text().count('aria-label="Parallel ratio (% of traces)"') == 2
    assert all(found.text.count(arm) >= 3 for arm in arm_folders)


def test_what_all_arms_share_is_drawn_once(run_folder, tmp_path):
    found = outline(compare_report("Twins", {"a": [run_folder], "b": [run_folder]}, tmp_path / "twins.html"))
    assert found.text.count("all arms") == 3  # one legend for each training stage


def test_samples_are_chosen_by_sort_and_by_problem():
    def row(problem, verdict, paths=()):
        segments = [{"kind": "path", "right": right} for right in paths]
        return {"problem": problem, "verdict": verdict, "blocks": int(bool(paths)), "segments": segments}

    mixed, lost, failed = row("p", "right", (True, False)), row("q", "wrong", (True,)), row("q", "wrong", (False,))
    plain = row("r", "right")
    many = [mixed, row("p", "right", (False, True)), row("s", "right", (False, True)), failed, lost, plain]
    assert choose_samples(many, 4) == [mixed, lost, failed, plain]
    assert choose_samples(many, 5) == [mixed, lost, failed, plain, many[2]]
    assert choose_samples([], 3) == []


def test_columns_stand_in_a_fixed_order():
    keys = ["truncated", "own", "best_of_3", "pass@8", "greedy", "mean@8", "mean@4", "well_formed", "mean@8"]
    assert ordered(keys) == ["mean@4", "mean@8", "pass@8", "greedy", "best_of_3", "well_formed", "truncated", "own"]


def test_no_chart_is_shown_twice():
    for kind in MORE_PANELS:
        titles = [panel.title for panel in (*PANELS[kind], *MORE_PANELS[kind])]
        assert len(set(titles)) == len(titles)


def test_smoothing_keeps_constants_and_the_length():
    assert smooth([2.0] * 9, 3) == [2.0] * 9
    assert smooth([0, 3, 0, 3], 3) == [1.5, 1, 2, 1.5]


def test_rows_without_a_metric_leave_a_gap(tmp_path):
    rows = [
        {"step": 1, "first_block": 0.1},
        {"step": 2, "first_block": None},
        {"step": 3},
        {"step": 4, "first_block": 0.3},
    ]
    stage = Stage("rl", "grpo", tmp_path, rows, {}, {})
    assert stage.series("first_block") == ([1, 4], [0.1, 0.3])
    assert stage_chart(stage, Panel("KL", ("kl",))) is None


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0], [0.0] * 20, [1e-7, 1e-3], [-1.0, 1.0]])
def test_charts_of_awkward_values(values):
    for panel in (
        Panel("t", ("a",)),
        Panel("t", ("a",), percent=True),
        Panel("t", ("a", "b"), log=True),
    ):
        svg = chart([Line("a", "#123456", range(len(values)), values)], panel)
        assert svg.startswith("<svg ")
        assert "#123456" in svg


@pytest.mark.slow
def test_a_report_needs_no_torch(run_folder):
    code = "import sys, polythink.report.report as r; r.write_report(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_samples_are_of_different_problems_and_of_every_outcome():
    def row(problem, verdict, cut=False):
        segments = [{"kind": "main", "finish_reason": "length" if cut else "eos"}]
        return {"problem": problem, "verdict": verdict, "blocks": 0, "segments": segments}

    rows = [row(p, v) for p in ("p", "q", "r") for v in ("right", "wrong", "unparsed")] + [row("p", "wrong", cut=True)]
    chosen = choose_samples(rows, 4)
    assert [r["verdict"] for r in chosen] == ["right", "wrong", "wrong", "unparsed"]
    assert len({r["problem"] for r in chosen}) == 3
    assert chosen[2]["segments"][0]["finish_reason"] == "length"
    assert len(choose_samples(rows, 99)) == len(rows)


def test_samples_can_be_filtered_without_a_script(report, run_folder):
    html = (run_folder / "report.html").read_text()
    inputs = dict(re.findall(r'<input class="filter only-([\w-]+)" type="radio" name="traces-" id="([^"]+)"', html))
    assert {"all", "is-right", "is-wrong", "is-cut", "has-block"} <= inputs.keys()
    for name, ident in inputs.items():
        shown = re.search(rf'<label for="{ident}">(.*?)</label>', html)[1]
        if name != "all":
            assert f".only-{name}:checked ~ .samples > .sample:not(.{name}) {{ display: none; }}" in html
            classes = re.findall(r'<article class="sample ([^"]*)"', html)
            assert int(shown.split()[-1]) == sum(name in given.split() for given in classes)
    assert "eval_rl/samples-easy.jsonl" in report.links
    assert "countdown-easy" in html


def test_a_right_path_is_explained_and_its_arithmetic_counted(report):
    assert "arithmetic of correct paths holds" in report.text
    assert "a path is right if its chain of operators gives the target" in report.text
    path = {"kind": "path", "right": True}
    rows = [
        {
            "question": "7 8 7 -> 8",
            "segments": [path | {"text": "7 + 8 = 15 - 7 = 8 ok"}, path | {"text": "7 + 8 = 9"}],
        },
        {"question": "7 8 7 -> 8", "segments": [{"kind": "path", "right": False, "text": "7 * 8 = 1"}]},
        {"question": "Something else", "segments": [path | {"text": "1 + 1 = 3"}]},
    ]
    assert held_paths(rows) == (1, 2)
    assert held_paths(rows[1:]) is None


def test_impressions_are_checked_against_the_intervals(tmp_path):
    for name, (low, value, high), ratio in (("a", (0.18, 0.24, 0.3), 0.9), ("b", (0.2, 0.29, 0.37), 0.0)):
        metrics = {
            "mean@4": {"value": value, "low": low, "high": high},
            "parallel_ratio": {"value": ratio, "low": max(0.0, ratio - 0.1), "high": ratio},
            "well_formed": {"value": 0.9, "low": 0.8, "high": 0.95 + ratio / 20},
            "bleu": {"value": 0.259, "low": 0.2, "high": 0.3},
        }
        write_json(tmp_path / name / "eval.json", {"problems": "x", "n": 1, "samples": 1, "metrics": metrics})
    write_json(tmp_path / "stages.json", [{"name": name, "kind": "eval"} for name in "ab"])
    text = outline(write_report(tmp_path)).text
    assert "24.0% [18.0, 30.0] after a, 29.0% [20.0, 37.0] after b: intervals overlap; " in text
    assert "overlap; parallel ratio 90.0% [80.0, 90.0] after a, 0.0% [0.0, 0.0] after b: the" in text
    assert "well formed 90.0% [80.0, 99.5] after a" not in text, "nothing of what has not changed"
    assert "1 problem, 1 sample per problem" in text
    assert "25.9" in text, "a BLEU score"
    assert "25.9%" not in text


def test_a_resumed_run_shows_its_first_attempt_and_the_later_ones(run_folder, tmp_path, monkeypatch):
    first, later = (
        {"time": f"2026-01-0{day}T10:00:00+00:00", "torch": f"2.{day}", "git": f"{day}" * 40,
         "command": ["/usr/bin/polythink", "train", "my recipe.yaml", *more]}
        for day, more in ((1, []), (2, ["--resume"]))
    )  # fmt: skip
    write_json(tmp_path / "stages.json", [{"name": "sft", "kind": "sft", "folder": str(run_folder / "sft")}])
    assert read_attempts(tmp_path) == []
    for attempt in (first, later):  # as `train` writes them
        monkeypatch.setattr("polythink.run.folder.environment", lambda attempt=attempt: attempt)
        record_attempt(tmp_path)
    assert read_attempts(tmp_path) == [first, later]
    text = outline(write_report(tmp_path)).text
    before, _, after = text.partition("Resumed: 1 later attempt")
    assert "2026-01-01 10:00:00 UTC" in before
    assert "2026-01-02" not in before
    assert "polythink train 'my recipe.yaml'" in before
    assert "2026-01-02 10:00:00 UTC" in after
    assert "--resume" in after


def test_an_evaluation_names_the_model_that_was_measured(tmp_path):
    provenance = {
        "model": "runs/a <b>", "weights": "0123456789abcdef", "version": "9.9", "commit": "f" * 40, "seed": 3,
        "command": "polythink eval runs/a", "date": "2026-02-03T04:05:06+00:00", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    write_json(tmp_path / "eval.json", {"problems": "x", "n": 2, "metrics": {}, "provenance": provenance})
    found = outline(write_report(tmp_path))
    for part in (
        "model runs/a <b>",
        "weights 0123456789ab ",
        "2026-02-03 04:05:06 UTC",
        "cpu float32",
        "polythink 9.9",
    ):
        assert part in found.text
    assert "polythink eval runs/a" in found.text
    assert "0123456789abcdef" in found.text.partition("How it was run")[2]


@pytest.mark.parametrize(
    ("low", "high", "percent", "ends"),
    [
        (0, 0.5, True, (0, 0.56)), (0.5, 1, True, (0.44, 1)), (0, 0, True, (0, 0.04)), (1, 1, True, (0.96, 1)),
        (-0.2, 1.3, True, (0, 1)), (0.1, 3, False, (0, 3.232)), (-1, 1, False, (-1.16, 1.16)), (2, 2, False, (0, 4)),
        (0, 0, False, (0, 1)), (-3, -3, False, (-6, 0)),
    ],
)  # fmt: skip
def test_no_axis_leaves_what_is_possible(low, high, percent, ends):
    assert value_range(low, high, percent) == pytest.approx(ends)


def test_a_single_step_has_one_tick():
    svg = chart([Line("a", "#123456", [1.0], [0.4])], Panel("t", ("a",), percent=True))
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [label for label in labels if re.fullmatch(r"[\d.]+", label)] == ["1"]


def test_every_axis_has_its_unit():
    for panel in (panel for panels in (*PANELS.values(), *MORE_PANELS.values()) for panel in panels):
        assert re.search(r" \(.+\)$", panel.title), panel.title
        assert ("%" in panel.title) == panel.percent


def test_more_curves_says_which(report):
    assert re.search(r"More curves: well formed, groups without spread, truncated, entropy", report.text)


@pytest.mark.usefixtures("no_charts")
def test_an_experiment_says_when_and_how_it_was_run(arm_folders, tmp_path):
    for folders in arm_folders.values():
        for folder in folders:
            write_report(folder)
    found = outline(compare_report("Arms", arm_folders, tmp_path / "x.html", "<table></table>", headline="<p>Hm</p>"))
    assert re.search(r"3 arms, 4 seeds · \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", found.text)
    assert sum(link.endswith("/report.html") for link in found.links) == 4
    assert found.text.count("Recipe, resolved") == 3
    assert found.heads[-1] == "How it was run"
    assert found.text.index("Hm") < found.text.index("Stage sft")


@pytest.mark.parametrize(
    ("mode", "train_mode", "trained"),
    [("structured", None, ""), ("reread", None, ""), ("seen_published", None, "sequential"),
     ("unseen_published", None, "structured"), ("unseen_published", "reread", ""),
     ("reread", "structured", "structured")],
)  # fmt: skip
@pytest.mark.usefixtures("no_charts")
def test_a_stage_whose_mode_is_not_exact_says_so_with_its_gap(run_folder, tmp_path, mode, train_mode, trained):
    shutil.copytree(run_folder, tmp_path / "run")
    stage = tmp_path / "run" / "rl_easy"
    write_json(stage / "stage.json", {"plan": {"mode": mode, "stage": {"train_mode": train_mode}}})
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"logprob_gap": 0.5 + (i == 3), "mismatch_kl": 0.02}
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = outline(write_report(tmp_path / "run")).text
    said = f"in the layout of mode {trained}, so what is sampled is not what is trained"
    assert (said in text) == bool(trained)
    assert ("Largest gap 1.5 nats, mean mismatch KL 0.02 nats per token." in text) == bool(trained)
