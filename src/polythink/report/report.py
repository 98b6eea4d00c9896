"""The report of a run, and of several arms beside each other: one HTML file that opens from disk and asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from polythink.evaluate.metrics import AMOUNTS
from polythink.report.findings import comparison_section, tunnel_section
from polythink.report.page import commands_block, grid, page, paragraph, section
from polythink.report.plots import (
    COLOURS,
    MORE_PANELS,
    PANELS,
    Panel,
    RunRecord,
    Stage,
    arms_chart,
    is_number,
    read_run,
    stage_chart,
)
from polythink.report.samples import arm_traces_section, texts_section, traces_section
from polythink.run.config import dump_yaml
from polythink.run.folder import write_text
from polythink.run.table import html_table

# name in eval.json (@k and _n left out) -> heading, what it says; the order in which columns stand
METRICS = {
    "mean": ("mean@{k}", "share of right samples"),
    "pass": ("pass@{k}", "problems with a right one among k samples"),
    "maj": ("maj@{k}", "problems whose most frequent answer is right"),
    "greedy": ("greedy", "accuracy at temperature 0 (isolated paths are sampled all the same)"),
    "best_of": ("best of {k}", "accuracy of one of k samples, chosen by its own mark or by majority"),
    "parallel_ratio": ("parallel ratio", "traces with at least one well-formed block"),
    "well_formed": ("well formed", "traces that are valid under the strict rule"),
    "right_path": ("a path right", "of traces with a block, those that hold a right path"),
    "summary_right": ("summary right", "of traces with a right path, those whose final answer is right"),
    "tokens": ("tokens", "mean length of a response over all its paths"),
    "critical_path": ("critical path", "mean number of steps one after another"),
    "truncated": ("truncated", "segments cut by a budget, a trace"),
    "exact": ("exact match", "outputs that are the reference, word by word"),
    "bleu": ("BLEU", "n-grams shared with the reference, by sacrebleu"),
    "rouge1": ("ROUGE-1", "words shared with the reference, F1"),
    "rouge2": ("ROUGE-2", "pairs of words, F1"),
    "rougeL": ("ROUGE-L", "longest common sequence of words, F1"),
    "loss": ("loss", "nats a token, given all before it"),
    "perplexity": ("perplexity", "e to the loss"),
    "word_perplexity": ("perplexity, words", "the same for a word, the end of a text counted as one"),
}


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path. What the run has not reached is left out."""
    run = read_run(run_folder)
    body = [
        _heading(run),
        _pipeline(run.stages),
        _results(run.stages),
        *(_cold_start(stage) if stage.kind == "coldstart" else _curves(stage) for stage in run.stages),
        *(_findings(stage) for stage in run.stages if stage.findings),
        *(heads_section(stage.folder / "heads.npz", f"Heads, {stage.name}") for stage in run.stages),
        traces_section(run.stages),
        texts_section(run.stages),
        _details(run),
    ]
    path = run.folder / "report.html"
    write_text(path, page(run.name, body))
    return path


def compare_report(
    title: str,
    runs: Mapping[str, str | Path | Sequence[str | Path]],
    out: str | Path,
    table_html: str = "",
    intro: str = "",
    commands: Sequence[str] = (),
    findings: str = "",
) -> Path:
    """Write one file on several arms: table, findings, their learning curves over each other, a few traces of each.

    `runs` gives each arm its run folder, or one for each seed; `out` is the file. `table_html` and `findings`
    are parts of the page, `intro` is plain text.
    """
    arms = {
        label: [read_run(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
        for label, folders in runs.items()
    }
    body = [
        f"<header><h1>{escape(title)}</h1>{paragraph(intro)}{commands_block(commands)}</header>",
        section("Results", f'<div class="wide">{table_html}</div>') if table_html else "",
        findings,
        _arm_curves(arms),
        *(arm_traces_section(label, records[0].stages) for label, records in arms.items() if records),
        *(texts_section(records[0].stages, 2) for records in arms.values() if records),
    ]
    write_text(out, page(title, body))
    return Path(out)


# ---- the parts of a run's report ----


def _heading(run: RunRecord) -> str:
    env = run.environment
    facts = [
        ("", str(env.get("time", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("commit", str(env.get("git") or "")[:12]),
        ("python", env.get("python", "")),
        ("torch", env.get("torch") or ""),
        ("", str(env.get("platform", "")).split("-")[0]),
        ("", f"{env['cpus']} cores" if env.get("cpus") else ""),
        ("seed", run.recipe.get("seed", "")),
        ("mode", run.recipe.get("mode", "")),
    ]
    line = " · ".join(f"{name} {value}".strip() for name, value in facts if value != "")
    command = env.get("command")
    commands = [" ".join(["polythink", *map(str, command[1:])])] if isinstance(command, list) and command[1:] else []
    return f'<header><h1>{escape(run.name)}</h1><p class="soft">{escape(line)}</p>{commands_block(commands)}</header>'


def _pipeline(stages: Sequence[Stage]) -> str:
    """The stages in a row, each with what can be said in a word."""
    chips = "".join(
        f"<li><b>{escape(s.name)}</b><span>{escape(' · '.join([s.kind.strip('?'), *_in_a_word(s)]))}</span></li>"
        for s in stages
    )
    return f'<ol class="pipeline">{chips}</ol>'


def _in_a_word(stage: Stage) -> list[str]:
    last = stage.rows[-1] if stage.rows else {}
    said = [f"{last.get('step', len(stage.rows))} steps"] if stage.rows else []
    seconds = stage.result.get("seconds") or 0
    seconds = seconds or sum(
        row.get(k) or 0 for row in stage.rows for k in ("seconds", "draw_seconds", "train_seconds")
    )
    said += [f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"] if seconds else []
    said += [f"{len(stage.evals)} problem sets"] if len(stage.evals) > 1 else []
    return said


def _results(stages: Sequence[Stage]) -> str:
    """One table: problem sets one after another, in each the evaluations in the order of the run."""
    by_set: dict[str, list[tuple[str, dict]]] = {}
    for stage in stages:
        for name, result in stage.evals.items():
            by_set.setdefault(result.get("problems") or name or "problems", []).append((stage.name, result))
    if not by_set and any(stage.findings for stage in stages):
        return ""
    if not by_set:
        return section("Results", '<p class="soft">No evaluation has finished yet.</p>')
    everything = [result for results in by_set.values() for _, result in results]
    columns = metric_columns(name for result in everything for name in result.get("metrics", {}))
    heads = "".join(f'<th class="number" title="{escape(what)}">{escape(head)}</th>' for _, head, what in columns)
    rows = [
        f'<tr class="set"><th colspan="{len(columns) + 1}">{escape(name)} <span>{_size(results[0][1])}</span></th></tr>'
        + "".join(_result_row(stage, result, [key for key, *_ in columns]) for stage, result in _labelled(results))
        for name, results in by_set.items()
    ]
    table = f"<table><thead><tr><th>after</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    meaning = "; ".join(f"<b>{escape(head)}</b> {escape(what)}" for _, head, what in columns)
    notes = dict.fromkeys(note for result in everything for note in result.get("notes", []))
    warned = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    legend = (
        f'<p class="soft small">Below each value its 95% interval, by bootstrap over problems or texts. {meaning}.</p>'
    )
    return section("Results", f'{_in_short(by_set)}<div class="wide">{table}</div>{warned}{legend}')


def _in_short(by_set: Mapping[str, Sequence[tuple[str, dict]]]) -> str:
    """From the first evaluation to the last, in a line a problem set."""
    said = []
    for name, results in by_set.items():
        (first, a), (last, b) = results[0], results[-1]
        key = next((k for k in a.get("metrics", {}) if k.startswith("mean@") and k in b.get("metrics", {})), None)
        if key is None or len(results) < 2:
            continue
        before, after = (_shown(key, r["metrics"][key].get("value")) for r in (a, b))
        said.append(f"<b>{escape(name)}</b>: {key} {before} after {escape(first)}, <b>{after}</b> after {escape(last)}")
    return "".join(f"<p>{line}</p>" for line in said)


def _size(result: dict) -> str:
    if "samples" not in result:
        return f"{result.get('n', '?')} texts"
    return f"{result.get('n', '?')} problems, {result['samples']} samples each"


def _labelled(results: Sequence[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """The stages' names, with the prompt's where several prompts were tried on the set."""
    prompts = [(result.get("prompt") or {}).get("name", "") for _, result in results]
    several = len(set(prompts)) > 1
    return [(f"{s}, prompt {p}" if several else s, result) for (s, result), p in zip(results, prompts, strict=True)]


def _result_row(stage: str, result: dict, keys: Sequence[str]) -> str:
    cells = "".join(_estimate_cell(key, result.get("metrics", {}).get(key)) for key in keys)
    return f"<tr><td>{escape(stage)}</td>{cells}</tr>"


def _estimate_cell(key: str, estimate: dict | None) -> str:
    if not estimate or not is_number(estimate.get("value")):
        return '<td class="number"></td>'
    ends = [_shown(key, estimate.get(end)).rstrip("%") for end in ("low", "high")]
    interval = f"<small>{ends[0]}–{ends[1]}</small>" if all(ends) and ends[0] != ends[1] else ""
    return f'<td class="number">{_shown(key, estimate["value"])}{interval}</td>'


def _shown(key: str, value: object) -> str:
    if not is_number(value):
        return ""
    return f"{value:.3g}" if key in AMOUNTS else _share(value)


def metric_columns(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(key, heading, meaning) of each metric that occurs, in the order of `METRICS`, unknown ones last."""
    order = list(METRICS)
    found = []
    for key in dict.fromkeys(names):
        base, k = key, ""
        if "@" in key:
            base, k = key.split("@", 1)
        elif key.startswith("best_of_"):
            base, k = "best_of", key.removeprefix("best_of_")
        head, what = METRICS.get(base, (key, ""))
        rank = order.index(base) if base in order else len(order)
        found.append((rank, int(k) if k.isdigit() else 0, key, head.format(k=k), what))
    return [entry[2:] for entry in sorted(found, key=lambda entry: entry[:2])]


def _cold_start(stage: Stage) -> str:
    """The teacher's table: how much of what it wrote was well formed, right and kept, and why the rest was not."""
    columns = ("problems", "responses", "valid_rate", "right_rate", "kept", "rejected")
    rows = [
        [
            _because(row[key]) if key == "rejected" else _share(row[key]) if "rate" in key else row[key]
            for key in columns
        ]
        for row in stage.result.get("table") or []
        if set(columns) <= row.keys()
    ]
    heads = [key.replace("_", " ") for key in columns]
    return section(f"Stage {stage.name}", f'<div class="wide">{html_table(heads, rows)}</div>') if rows else ""


def _share(value: object) -> str:
    return f"{100 * value:.1f}%" if is_number(value) else ""


def _because(counts: object) -> str:
    pairs = counts.items() if isinstance(counts, dict) else ()
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in pairs)


def _findings(stage: Stage) -> str:
    """What the stage found on each problem set: a comparison, or a look for tunnel vision."""
    sections = {"compare": comparison_section, "tunnel": tunnel_section}
    return section(f"Stage {stage.name}", "".join(sections[found["kind"]](found) for found in stage.findings))


def _curves(stage: Stage) -> str:
    charts = [stage_chart(stage, panel) for panel in PANELS.get(stage.kind, ())]
    if not any(charts):
        return ""
    more = [stage_chart(stage, panel) for panel in MORE_PANELS.get(stage.kind, ())]
    folded = f"<details><summary>More curves</summary>{grid(more)}</details>" if any(more) else ""
    hint = _shading_hint(stage)
    return section(f"Stage {stage.name}", hint + grid(charts) + folded)


def _shading_hint(stage: Stage) -> str:
    names = list(dict.fromkeys(row["reward_name"] for row in stage.rows if row.get("reward_name")))
    if not names:
        return ""
    shaded = f"; shaded steps: <b>{escape(', '.join(names[1:]))}</b>" if len(names) > 1 else ""
    return (
        f'<p class="soft small">Reward: <b>{escape(names[0])}</b>{shaded}. Pale: each step; bold: moving average.</p>'
    )


def heads_section(path: Path, title: str) -> str:
    """What `heads.save` wrote there, drawn: the measures by layer, the rest folded; nothing without the file."""
    if not path.is_file():
        return ""
    from polythink.evaluate.heads import load  # the only part that needs torch
    from polythink.report.heads import figures

    analysis = load(path)
    (_, summary), *rest = figures(analysis)
    hint = (
        f"From {analysis.texts} texts. Maps are alike (1) where two heads give every key the same weight, and unlike "
        "(0) where they attend no key in common: 1 - Jensen-Shannon divergence in bits. Outputs are alike where two "
        "heads add the same direction to the layer's output. Entropy: 1 for even weights, 0 for a single key."
    )
    folded = "".join(f"<h3>{escape(name)}</h3>{svg}" for name, svg in rest)
    more = f"<details><summary>Which heads are alike, and attention maps</summary>{folded}</details>"
    return section(title, f'<p class="soft small">{hint}</p>{summary}{more}')


def _details(run: RunRecord) -> str:
    packages = run.environment.get("packages") or {}
    listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    recipe = f"<details><summary>Recipe, resolved</summary><pre>{escape(dump_yaml(run.recipe))}</pre></details>"
    machine = f"<details><summary>Packages</summary><p>{escape(listed)}</p></details>" if listed else ""
    return section("How it was run", (recipe if run.recipe else "") + machine) if run.recipe or machine else ""


# ---- arms beside each other ----


def _arm_curves(arms: Mapping[str, Sequence[RunRecord]]) -> str:
    """For each training stage: one chart a metric, one colour an arm. What all arms share is drawn once."""
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
        charts = [arms_chart(by_arm, _first_metric(panel)) for panel in PANELS[kind]]
        sections.append(section(f"Stage {name}", _legend(by_arm) + grid(charts)) if any(charts) else "")
    return "".join(sections)


def _first_metric(panel: Panel) -> Panel:
    """The panel with its first metric alone, and that metric's label in the title where there were several."""
    key, label = next(iter(panel.keys.items()))
    title = f"{panel.title} ({label})" if len(panel.keys) > 1 else panel.title
    return replace(panel, title=title, keys={key: label})


def _legend(arms: Mapping[str, Sequence[Stage]]) -> str:
    entries = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(label)}</span>'
        for i, (label, stages) in enumerate(arms.items())
        if stages
    )
    return f'<p class="legend">{entries}</p>'
