"""The reports of an experiment: one per run, and one page on all arms. They can be written anew from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from polythink.errors import UserError
from polythink.pipeline.curves import curves
from polythink.pipeline.results_table import Table, read_table
from polythink.report.report import compare_report, write_report
from polythink.run.progress import progress


def write_reports(table: Table, arms: Mapping[str, Sequence[Path]], out: Path) -> Path:
    """Write the report of every run, then that of the experiment; `arms` maps each arm to its runs, one per seed."""
    for folder in progress([folder for folders in arms.values() for folder in folders], "reports"):
        write_report(folder)
    found = {"table_html": table.html, "findings": curves(table.columns), "headline": table.headline_html}
    return compare_report(table.name, arms, out / "report.html", **found)


def is_experiment_folder(folder: Path) -> bool:
    return (folder / "table.json").is_file() and (folder / "runs").is_dir()


def rewrite_reports(out: Path) -> Path:
    """Write the reports of an experiment again, from its table and its runs."""
    table = read_table(out)
    names = dict.fromkeys(arm for column in table.columns for arm in column.arms)
    arms = {name: [out / "runs" / f"{name}-seed{seed}" for seed in table.seeds] for name in names}
    arms = {name: found for name, folders in arms.items() if (found := [f for f in folders if f.is_dir()])}
    if not arms:
        raise UserError(f"{str(out)!r} holds a table and none of its runs; run the experiment again in this folder")
    return write_reports(table, arms, out)
