"""The report of a run, or of several arms side by side: one self-contained HTML file (no network requests)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from polythink.evaluate.config import problems_of
from polythink.evaluate.metrics import METRICS, Metric, compute_metrics, describe, difference, general_key, show
from polythink.report.findings import apart, change, comparison_section, notes, shown, tunnel_section
from polythink.report.heads import heads_section
from polythink.report.page import MANY_COLUMNS, counted, folded, grid, legend, page, section, switched, table, wide
from polythink.report.plots import COLOURS, MORE_PANELS, PANELS, arms_chart, stage_chart
from polythink.report.provenance import arms_details, details, experiment_heading, heading
from polythink.report.runs import SAMPLED, RunRecord, Stage, read_run
from polythink.report.samples import held_paths, task_hints, texts_section, traces_section, training_section
from polythink.run.folder import write_text
from polythink.trace.modes import MODES
from polythink.train.config import trained_inexactly

TOLD_IF_SHOWN = ("parallel_ratio", "well_formed")  # besides accuracy: whether the form of traces has changed
HOLDS = "arithmetic of correct paths holds"  # a column of tasks whose slips show, counted from the samples


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path. Stages that have not run yet are left out."""
    run = read_run(run_folder)
    path = run.folder / "report.html"
    body = [
        heading(run),
        _pipeline(run.stages) if len(run.stages) > 1 else "",
        _results(run.stages),
        *(_cold_start(stage) if stage.kind == "coldstart" else _curves(stage) for stage in run.stages),
        *(_findings(stage) for stage in run.stages if stage.findings),
        *(heads_section(stage.folder / "heads.npz", f"Heads, {stage.name}") for stage in run.stages),
        traces_section(run.stages, path),
        texts_section(run.stages, path),
        training_section(run.stages, path),
        details(run),
    ]
    write_text(path, page(run.name, body))
    return path


def compare_report(
    title: str,
    runs: Mapping[str, Sequence[Path]],
    out: str | Path,
    table_html: str = "",
    findings: str = "",
    headline: str = "",
) -> Path:
    """Write one file that compares arms: a table, findings, learning curves in common charts, a few traces of each.

    `runs` maps each arm to its run folders, one per seed; `out` is the file. `table_html`, `findings`
    and `headline`, which stands over the table, are HTML.
    """
    arms = {label: [read_run(folder) for folder in folders] for label, folders in runs.items()}
    out = Path(out)
    body = [
        experiment_heading(title, arms),
        section("Results", headline + wide(table_html, MANY_COLUMNS + 1)) if table_html else "",
        findings,
        _arm_curves(arms),
        *(traces_section(records[0].stages, out, 6, label) for label, records in arms.items() if records),
        *(texts_section(records[0].stages, out, 6, label) for label, records in arms.items() if records),
        arms_details(arms, out),
    ]
    write_text(out, page(title, body))
    return out


# ---- the parts of a run's report ----


def _pipeline(stages: Sequence[Stage]) -> str:
    """The stages in a row, each with its kind, steps and seconds."""
    chips = "".join(
        f"<li><b>{escape(s.name)}</b><span>{escape(' · '.join([s.kind.strip('?'), *_facts(s)]))}</span></li>"
        for s in stages
    )
    return f'<ol class="pipeline">{chips}</ol>'


def _facts(stage: Stage) -> list[str]:
    facts = [f"{stage.rows[-1].get('step', len(stage.rows))} steps"] if stage.rows else []
    timed = (row.get(key) or 0 for row in stage.rows for key in ("seconds", "draw_seconds", "train_seconds"))
    seconds = stage.result.get("seconds") or sum(timed)
    facts += [f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"] if seconds else []
    facts += [f"{len(stage.evals)} problem sets"] if len(stage.evals) > 1 else []
    return facts


def _results(stages: Sequence[Stage]) -> str:
    """A table per problem set, its evaluations in the order of the run."""
    by_set: dict[str, list[tuple[str, dict]]] = {}
    for stage in stages:
        for name, result in stage.evals.items():
            rows = stage.samples(name)
            held = {"held_paths": held_paths(rows), "hints": task_hints(rows), "measured": _measured(result, rows)}
            by_set.setdefault(result.get("problems") or name or "problems", []).append((stage.name, result | held))
    if not by_set and any(stage.findings for stage in stages):
        return ""
    if not by_set:
        return section("Results", '<p class="soft">No evaluation has finished yet.</p>')
    everything = [result for results in by_set.values() for _, result in results]
    columns = {key: describe(key) for key in ordered(key for result in everything for key in result.get("metrics", {}))}
    holds = any(result["held_paths"] for result in everything)
    head = ["after", *(info.label for info in columns.values()), *([HOLDS] if holds else [])]

    def row(stage: str, result: Mapping) -> list[str]:
        return [stage, *(_cell(key, result) for key in columns), *([_share(result["held_paths"])] if holds else [])]

    def caption(name: str, results: Sequence[tuple[str, dict]]) -> str:
        sizes = _sizes(results)
        return f"{name}: {', '.join(sizes)}" if len(sizes) == 1 else name  # several stand beside the stages

    body = "".join(
        table((head, [row(stage, result) for stage, result in _labelled(results)]), caption(name, results))
        for name, results in by_set.items()
    )
    meaning = " ".join(f"<b>{escape(m.label)}</b>: {escape(m.meaning)}" for m in columns.values() if m.meaning)
    if holds:
        hints = dict.fromkeys(hint for result in everything if result["held_paths"] for hint in result["hints"])
        said = f"<b>{HOLDS}</b>: share of the correct paths that hold no false equation."
        meaning = " ".join([meaning, said, *map(escape, hints)])
    warnings = notes({"notes": dict.fromkeys(note for result in everything for note in result.get("notes", []))})
    how = "Below each value its 95% interval, by bootstrap over problems or texts."
    return section("Results", f'{_summary(by_set)}{body}{warnings}<p class="soft small">{how} {meaning}</p>')


def ordered(keys: Iterable[str]) -> list[str]:
    """The metrics in the order of `METRICS`, unknown ones last."""
    order = list(METRICS)

    def place(key: str) -> tuple[int, int]:
        general = general_key(key)
        number = key.removeprefix("best_of_").rpartition("@")[2]
        return (order.index(general) if general in order else len(order), int(number) if number.isdigit() else 0)

    return sorted(dict.fromkeys(keys), key=place)


def _summary(by_set: Mapping[str, Sequence[tuple[str, dict]]]) -> str:
    """From the first evaluation to the last: a line per problem set and prompt, with what else has clearly changed.

    Problem by problem where the samples of both are there, otherwise by their intervals; evaluations of different
    problems are not compared.
    """
    lines = []
    for name, results in _by_prompt(by_set):
        (first, a), (last, b) = results[0], results[-1]
        key = next((k for k in a.get("metrics", {}) if k.startswith("mean@") and k in b.get("metrics", {})), None)
        if key is None or len(results) < 2:
            continue
        asked = [{problem for metric in r["measured"].values() for problem in metric.keys} for r in (a, b)]
        if problems_of(a) != problems_of(b) or (all(asked) and asked[0] != asked[1]):
            said = f"{first} and {last} were measured on different problems, so their numbers are not compared"
            lines.append(f"<p><b>{escape(name)}</b>: {escape(said)}.</p>")
            continue
        gains = _gains(a, b, (key, *TOLD_IF_SHOWN))
        ends = {k: [r["metrics"].get(k) or {} for r in (a, b)] for k in (key, *TOLD_IF_SHOWN)}
        told = [key] + [k for k in TOLD_IF_SHOWN if (shown(gains[k]) if k in gains else apart(*ends[k]))]
        found = (change(k, *ends[k], escape(first), escape(last), gains.get(k)) for k in told)
        lines.append(f"<p><b>{escape(name)}</b>: {'; '.join(found)}.</p>")
    return "".join(lines)


def _by_prompt(by_set: Mapping[str, Sequence[tuple[str, dict]]]) -> Iterator[tuple[str, list[tuple[str, dict]]]]:
    """The evaluations of each set with one prompt; the name says which prompt where the set has several."""
    for name, results in by_set.items():
        groups: dict[str, list[tuple[str, dict]]] = {}
        for stage, result in results:
            groups.setdefault(_prompt(result), []).append((stage, result))
        for prompt, own in groups.items():
            yield f"{name}, prompt {prompt}" if len(groups) > 1 else name, own


def _prompt(result: Mapping) -> str:
    return (result.get("prompt") or {}).get("name", "")


def _measured(result: Mapping, rows: Sequence[dict]) -> dict[str, Metric]:
    """What `_summary` compares, problem by problem, where all samples of an evaluation are there."""
    whole = rows and len(rows) == result.get("n", 0) * (result.get("samples") or 0)
    return compute_metrics(rows, wanted=("mean@k", *TOLD_IF_SHOWN)) if whole else {}


def _gains(a: Mapping, b: Mapping, keys: Sequence[str]) -> dict[str, Mapping]:
    """The paired differences b - a, of the metrics that the samples of both give."""
    one, other = a["measured"], b["measured"]
    both = [key for key in keys if key in one and key in other and one[key].keys == other[key].keys]
    return {key: vars(difference(other[key], one[key])) for key in both}


def _sizes(results: Iterable[tuple[str, dict]]) -> list[str]:
    """The different sizes of the evaluations of one set."""
    return list(dict.fromkeys(_size(result) for _, result in results))


def _size(result: dict) -> str:
    n, each = result.get("n", "?"), result.get("samples")
    counts = (counted(n, "problem"), counted(each, "sample")) if each else ()
    return f"{counts[0]}, {counts[1]} per problem" if counts else counted(n, "text")


def _labelled(results: Sequence[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """The stages' names, with the prompt's name and the size where these are not the same for all."""
    prompts = {_prompt(result) for _, result in results}
    sizes = _sizes(results)

    def label(stage: str, result: Mapping) -> str:
        return ", ".join(
            [stage, *[f"prompt {_prompt(result)}"] * (len(prompts) > 1), *[_size(result)] * (len(sizes) > 1)]
        )

    return [(label(stage, result), result) for stage, result in results]


def _cell(key: str, result: Mapping) -> str:
    """The value, and its interval below it where it has one."""
    value, _, interval = show(key, result.get("metrics", {}).get(key) or {}).partition(" ")
    value, low, high = map(_short, (value, *interval.strip("[]").partition(", ")[::2]))
    return f"{value}\n{low}–{high}" if low != high else value


def _short(number: str) -> str:
    """A small amount with two digits that count: `0.0083` for `0.008333`."""
    return re.sub(r"^-?0\.0*[1-9]\d+$", lambda found: f"{float(found[0]):.2g}", number)


def _share(counts: tuple[int, int] | None) -> str:
    """A share of counted things, and the counts below it."""
    return f"{100 * counts[0] / counts[1]:.1f}%\n{counts[0]} of {counts[1]}" if counts else ""


def _cold_start(stage: Stage) -> str:
    """The teacher's table: how many responses were well formed, right and kept, and why the others were not kept."""
    columns = {"problems": "problems", "responses": "responses", "well_formed_rate": "well formed",
               "right_rate": "right", "kept": "kept", "rejected": "rejected"}  # fmt: skip

    def cell(key: str, value: Any) -> object:
        return _reasons(value) if key == "rejected" else f"{100 * value:.1f}%" if "rate" in key else value

    listed = [row for row in stage.result.get("table") or [] if row.keys() >= columns.keys()]
    rows = [[cell(key, row[key]) for key in columns] for row in listed]
    return section(f"Stage {stage.name}", table((list(columns.values()), rows))) if rows else ""


def _reasons(counts: object) -> str:
    pairs = counts.items() if isinstance(counts, dict) else ()
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in pairs)


def _findings(stage: Stage) -> str:
    """What the stage found on each problem set: a comparison of methods, or tunnel vision."""
    sections = {"compare": comparison_section, "tunnel": tunnel_section}
    return section(f"Stage {stage.name}", "".join(sections[found["kind"]](found) for found in stage.findings))


def _curves(stage: Stage) -> str:
    charts = [stage_chart(stage, panel) for panel in PANELS.get(stage.kind, ())]
    if not any(charts):
        return ""
    panels = {panel: svg for panel in MORE_PANELS.get(stage.kind, ()) if (svg := stage_chart(stage, panel))}
    names = [panel.title.partition(" (")[0] for panel in panels]
    listed = ", ".join(name if name[1].isupper() else name[0].lower() + name[1:] for name in names)
    more = folded(f"More curves: {listed}", grid(panels.values())) if panels else ""
    views = {"by step": grid(charts)}
    if stage.places(name := _tokens([stage])):
        views[f"by {name}"] = grid(stage_chart(stage, panel, name) for panel in PANELS[stage.kind])
    shown = switched(f"curves-{stage.name}", views)
    return section(f"Stage {stage.name}", _shading_hint(stage) + _mismatch(stage) + shown + more)


def _tokens(stages: Sequence[Stage]) -> str:
    """What is counted along the other axis of the curves of a stage, in one run or in several: the same in all."""
    if any(stage.kind != "grpo" for stage in stages):
        return "tokens trained on"
    return SAMPLED if all(stage.places(SAMPLED) for stage in stages) else "tokens of whole responses"


def _mismatch(stage: Stage) -> str:
    """That what was sampled is not what was trained, and how far apart they were; "" where they are the same."""
    mode = stage.plan.get("mode", "")
    said = trained_inexactly(mode, stage.plan.get("stage", {}).get("train_mode")) if mode in MODES else ""
    if not (said and stage.kind == "grpo"):
        return ""
    (_, gaps), (_, mismatch) = stage.series("logprob_gap"), stage.series("mismatch_kl")
    found = ""
    if gaps and mismatch:
        found = f" Largest gap {max(gaps):.2g} nats, mean mismatch KL {fmean(mismatch):.2g} nats per token."
    return f'<p class="note">{escape(said[0].upper() + said[1:])}.{found}</p>'


def _shading_hint(stage: Stage) -> str:
    names = list(dict.fromkeys(row["reward_name"] for row in stage.rows if row.get("reward_name")))
    if not names:
        return ""
    shaded = f"; shaded steps: <b>{escape(', '.join(names[1:]))}</b>" if len(names) > 1 else ""
    hint = f"Reward: <b>{escape(names[0])}</b>{shaded}. Pale: each step; bold: moving average."
    return f'<p class="soft small">{hint}</p>'


# ---- arms side by side ----


def _arm_curves(arms: Mapping[str, Sequence[RunRecord]]) -> str:
    """For each training stage: one chart per metric, one colour per arm. A stage that all arms share is drawn once."""
    stages = [stage for records in arms.values() for record in records for stage in record.stages]
    kinds = {stage.name: stage.kind for stage in stages if stage.kind in PANELS and stage.rows}
    sections = []
    for name, kind in kinds.items():
        by_arm = {
            label: [stage for record in records for stage in record.stages if stage.name == name]
            for label, records in arms.items()
        }
        folders = [{stage.folder.resolve() for stage in own} for own in by_arm.values()]
        if len(by_arm) > 1 and all(own == folders[0] for own in folders):
            by_arm = {"all arms": next(iter(by_arm.values()))}
        if any(charts := [arms_chart(by_arm, panel) for panel in PANELS[kind]]):
            names = [(arm, COLOURS[i % len(COLOURS)], False) for i, (arm, own) in enumerate(by_arm.items()) if own]
            drawn = [stage for own in by_arm.values() for stage in own if stage.rows]
            views, along = {"by step": grid(charts)}, _tokens(drawn)
            if all(stage.places(along) for stage in drawn):
                views[f"by {along}"] = grid(arms_chart(by_arm, panel, along) for panel in PANELS[kind])
            sections.append(section(f"Stage {name}", legend(names) + switched(f"curves-{name}", views)))
    return "".join(sections)
