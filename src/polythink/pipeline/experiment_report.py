"""The reports of an experiment: one per run, and one page on all arms. They can be written anew from its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from polythink.errors import UserError
from polythink.pipeline.curves import curves
from polythink.pipeline.results_table import Table, read_table
from polythink.report.report import compare_report, write_report
from polythink.run.progress import progress


def write_reports(
    table: Table, arms: Mapping[str, Sequence[Path]], out: Path, failures: MutableMapping[str, str]
) -> Path | None:
    """Write the report of every run, then that of the experiment; `arms` maps each arm to its runs, one per seed.

    A run of which no report can be written is added to `failures` and left out; None if that is so of all.
    """
    written: dict[str, list[Path]] = {}
    for arm, folder in progress([(arm, folder) for arm, folders in arms.items() for folder in folders], "reports"):
        try:
            write_report(folder)
        except UserError as error:
            failures[f"report of {folder.name}"] = f"no report of {folder.name}: {error}"
        else:
            written.setdefault(arm, []).append(folder)
    if not written:
        return None
    found = {"table_html": table.html, "findings": curves(table.columns), "headline": table.headline_html}
    return compare_report(table.name, written, out / "report.html", **found)


def is_experiment_folder(folder: Path) -> bool:
    return (folder / "table.json").is_file() and (folder / "runs").is_dir()


def rewrite_reports(out: Path) -> Path:
    """Write the reports of an experiment again, from its table and its runs."""
    table = read_table(out)
    arms: dict[str, list[Path]] = {arm: [] for column in table.columns for arm in column.arms}  # in their order
    runs = [(re.fullmatch(r"(.+)-seed(\d+)", folder.name), folder) for folder in (out / "runs").iterdir()]
    for found, folder in sorted(((found, folder) for found, folder in runs if found), key=lambda x: int(x[0][2])):
        arms.setdefault(found[1], []).append(folder)  # those without an evaluation stand in no column
    arms = {name: folders for name, folders in arms.items() if folders}
    if not arms:
        raise UserError(f"{str(out)!r} holds a table and none of its runs; run the experiment again in this folder")
    failures: dict[str, str] = {}
    page = write_reports(table, arms, out, failures)
    if page is None:
        raise UserError("; ".join(failures.values()))
    return page
