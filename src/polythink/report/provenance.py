"""What a report says about where its numbers come from: when, by which command, with which versions, on which model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from polythink.report.page import commands_block, counted, folded, link, section
from polythink.report.runs import RunRecord
from polythink.run.config import dump_yaml


def heading(run: RunRecord) -> str:
    """The title of a run or evaluation, where and when it ran first, and the command."""
    measured = run.provenance if not run.attempts else {}
    about = [(key, run.recipe.get(key, "")) for key in ("seed", "mode")] if run.recipe else []
    facts = [*_model_facts(measured), *_facts(run.environment or measured), *about]
    return _header(run.name, facts, [_command(run.environment or measured)], f"{_resumed(run.attempts)}")


def experiment_heading(title: str, arms: Mapping[str, Sequence[RunRecord]]) -> str:
    """The title of an experiment, its arms and seeds, when and where it ran, and its command."""
    records = [record for own in arms.values() for record in own]
    dated = sorted((r.environment for r in records if r.environment), key=lambda e: str(e.get("time", "")))
    commands = list(dict.fromkeys(_command(env) for env in dated))
    seeds = {record.recipe.get("seed") for record in records} - {None}
    sizes = ", ".join([counted(len(arms), "arm"), *([counted(len(seeds), "seed")] if seeds else [])])
    return _header(title, [("", sizes), *_facts(dated[0] if dated else {})], commands)


def _header(title: str, facts: Sequence[tuple[str, object]], commands: Sequence[str], more: str = "") -> str:
    line = " · ".join(f"{name} {value}".strip() for name, value in facts if value not in ("", None))
    block = commands_block([command for command in commands if command])
    return f'<header><h1>{escape(title)}</h1><p class="soft">{escape(line)}</p>{block}{more}</header>'


def _facts(env: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Of an environment, or of the provenance of an evaluation: both have flat keys."""
    packages = env.get("packages") or {}
    when = str(env.get("time") or env.get("date") or "")
    return [
        ("", when.replace("T", " ").replace("+00:00", " UTC")),
        ("polythink", env.get("version") or packages.get("polythink") or ""),
        ("commit", str(env.get("git") or env.get("commit") or "")[:12]),
        ("python", env.get("python") or ""),
        ("torch", env.get("torch") or ""),
        ("transformers", env.get("transformers") or packages.get("transformers") or ""),
        ("", str(env.get("platform") or "").split("-")[0]),
        ("", f"{env['cpus']} cores" if env.get("cpus") else ""),
        ("", " ".join(str(env[key]) for key in ("device", "dtype") if env.get(key))),
    ]


def _model_facts(measured: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [("model", measured.get("model") or ""), ("weights", str(measured.get("weights") or "")[:12])]


def _command(env: Mapping[str, Any]) -> str:
    """The command as it was typed; of a list, the program's own path is left out."""
    command = env.get("command")
    if isinstance(command, str):
        return command
    return " ".join(["polythink", *(shlex.quote(str(word)) for word in command[1:])]) if command and command[1:] else ""


def _resumed(attempts: Sequence[Mapping[str, Any]]) -> str:
    """The later attempts, folded: a run that was stopped and goes on may meet other versions."""
    lines = [
        " · ".join(f"{name} {value}".strip() for name, value in [*_facts(env), ("", _command(env))] if value)
        for env in attempts[1:]
    ]
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return folded(f"Resumed: {counted(len(lines), 'later attempt')}", f"<ol>{listed}</ol>") if lines else ""


def details(run: RunRecord) -> str:
    """How it was run: the recipe, the packages, and what the evaluation recorded, folded."""
    packages = run.environment.get("packages") or {}
    listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    parts = [folded("Recipe, resolved", f"<pre>{escape(dump_yaml(run.recipe))}</pre>")] if run.recipe else []
    parts += [folded("Packages", f"<p>{escape(listed)}</p>")] if listed else []
    if measured := run.provenance:
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(_plain(v))}</td></tr>" for k, v in measured.items())
        parts.append(folded("What was measured, with what", f'<div class="wide"><table>{rows}</table></div>'))
    return section("How it was run", "".join(parts)) if parts else ""


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)


def arms_details(arms: Mapping[str, Sequence[RunRecord]], out: Path) -> str:
    """For each arm: its recipe, folded, and the reports of its runs, as links from the page `out`."""
    parts = []
    for arm, records in arms.items():
        links = [
            link(relative(record.folder / "report.html", out), f"seed {record.recipe.get('seed', record.name)}")
            for record in records
            if (record.folder / "report.html").is_file()
        ]
        reports = f"reports of its runs: {', '.join(links)}" if links else "its runs have no reports of their own"
        parts.append(f"<h3>{escape(arm)}</h3><p>{escape(records[0].name)}; {reports}</p>" if records else "")
        if records and records[0].recipe:
            parts.append(folded("Recipe, resolved", f"<pre>{escape(dump_yaml(records[0].recipe))}</pre>"))
    return section("How it was run", "".join(parts))


def relative(file: Path, page: Path) -> str:
    """The way from a page to a file beside it, as a link says it."""
    return Path(os.path.relpath(file, page.parent)).as_posix()
