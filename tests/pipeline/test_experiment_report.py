"""The reports of an experiment, written anew from its folder."""

from __future__ import annotations

import re
import shutil

import pytest

from polythink.errors import UserError
from polythink.evaluate.metrics import Estimate
from polythink.pipeline.experiment_report import is_experiment_folder, rewrite_reports
from polythink.pipeline.results_table import Column, Table, table_rows
from polythink.run.folder import write_json


def test_the_reports_of_an_experiment_can_be_written_anew(tmp_path) -> None:
    result = {"easy": {"mean@4": Estimate(0.25, 0.2, 0.3)}}
    columns = [Column((arm,), "final", "rl", -1, (0,), 9.0, result, {}, {}) for arm in ("a b", "c")]
    Table("mine", "What it is.", (0,), tuple(columns), *table_rows(columns)).write(tmp_path)
    assert not is_experiment_folder(tmp_path)
    for arm in ("a b", "c"):
        write_json(tmp_path / "runs" / f"{arm}-seed0" / "stages.json", [{"name": "final", "kind": "eval"}])
    assert is_experiment_folder(tmp_path)
    page = rewrite_reports(tmp_path)
    assert page == tmp_path / "report.html"
    html = page.read_text()
    assert "<h1>mine</h1>" in html
    assert "25.0% [20.0, 30.0]" in html
    assert 'href="runs/a%20b-seed0/report.html"' in html
    assert (tmp_path / "runs" / "c-seed0" / "report.html").is_file()
    for run in ("d-seed10", "d-seed2", "c-seed1", "other"):  # without an evaluation they stand in no column
        write_json(tmp_path / "runs" / run / "stages.json", [{"name": "rl", "kind": "grpo"}])
    rewrite_reports(tmp_path)
    found = re.findall(r'href="runs/([^"/]+)/report.html"', page.read_text())
    assert list(dict.fromkeys(found)) == ["a%20b-seed0", "c-seed0", "c-seed1", "d-seed2", "d-seed10"]
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="none of its runs"):
        rewrite_reports(tmp_path)
