"""The report of a run, and of several arms beside each other: one HTML file that opens from disk and asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from polythink.evaluate.charts import comparison_section, tunnel_section
from polythink.evaluate.dynamics import (
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
from polythink.evaluate.metrics import AMOUNTS
from polythink.evaluate.picture import TRACE_CSS, trace_html
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
    "valid": ("well formed", "traces that are valid under the strict rule"),
    "right_path": ("a path right", "of traces with a block, those that hold a right path"),
    "summary_right": ("summary right", "of traces with a right path, those whose final answer is right"),
    "tokens": ("tokens", "mean length of a response over all its paths"),
    "critical_path": ("critical path", "mean number of steps one after another"),
    "cuts": ("cuts", "segments cut by a budget, a trace"),
    "exact": ("exact match", "outputs that are the reference, word by word"),
    "bleu": ("BLEU", "n-grams shared with the reference, by sacrebleu"),
    "rouge1": ("ROUGE-1", "words shared with the reference, F1"),
    "rouge2": ("ROUGE-2", "pairs of words, F1"),
    "rougeL": ("ROUGE-L", "longest common sequence of words, F1"),
    "loss": ("loss", "nats a token, given all before it"),
    "perplexity": ("perplexity", "e to the loss"),
    "word_perplexity": ("perplexity, words", "the same for a word, the end of a text counted as one"),
}
VERDICTS = {"right": "✓ right", "wrong": "✗ wrong", "unparsed": "no answer found", "timeout": "grading timed out"}


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
        _traces(run.stages),
        _texts(run.stages),
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
) -> Path:
    """Write one file on several arms: `table_html`, their learning curves over each other, and a few traces of each.

    `runs` gives each arm its run folder, or one for each seed; `out` is the file. `intro` is plain text.
    """
    arms = {
        label: [read_run(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
        for label, folders in runs.items()
    }
    body = [
        f"<header><h1>{escape(title)}</h1>{_paragraph(intro)}{_commands(commands)}</header>",
        _section("Results", f'<div class="wide">{table_html}</div>') if table_html else "",
        _arm_curves(arms),
        *(_arm_traces(label, records[0].stages) for label, records in arms.items() if records),
        *(_texts(records[0].stages, 2) for records in arms.values() if records),
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
    return f'<header><h1>{escape(run.name)}</h1><p class="soft">{escape(line)}</p>{_commands(commands)}</header>'


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
        return _section("Results", '<p class="soft">No evaluation has finished yet.</p>')
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
    return _section("Results", f'{_in_short(by_set)}<div class="wide">{table}</div>{warned}{legend}')


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
    return _section(f"Stage {stage.name}", f'<div class="wide">{html_table(heads, rows)}</div>') if rows else ""


def _share(value: object) -> str:
    return f"{100 * value:.1f}%" if is_number(value) else ""


def _because(counts: object) -> str:
    pairs = counts.items() if isinstance(counts, dict) else ()
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in pairs)


def _findings(stage: Stage) -> str:
    """What the stage found on each problem set: a comparison, or a look for tunnel vision."""
    sections = {"compare": comparison_section, "tunnel": tunnel_section}
    return _section(f"Stage {stage.name}", "".join(sections[found["kind"]](found) for found in stage.findings))


def _curves(stage: Stage) -> str:
    charts = [stage_chart(stage, panel) for panel in PANELS.get(stage.kind, ())]
    if not any(charts):
        return ""
    more = [stage_chart(stage, panel) for panel in MORE_PANELS.get(stage.kind, ())]
    folded = f"<details><summary>More curves</summary>{_grid(more)}</details>" if any(more) else ""
    hint = _shading_hint(stage)
    return _section(f"Stage {stage.name}", hint + _grid(charts) + folded)


def _shading_hint(stage: Stage) -> str:
    names = list(dict.fromkeys(row["reward_name"] for row in stage.rows if row.get("reward_name")))
    if not names:
        return ""
    shaded = f"; shaded steps: <b>{escape(', '.join(names[1:]))}</b>" if len(names) > 1 else ""
    return (
        f'<p class="soft small">Reward: <b>{escape(names[0])}</b>{shaded}. Pale: each step; bold: moving average.</p>'
    )


def _grid(charts: Iterable[str | None]) -> str:
    return '<div class="charts">' + "".join(f"<figure>{c}</figure>" for c in charts if c) + "</div>"


def heads_section(path: Path, title: str) -> str:
    """What `heads.save` wrote there, drawn: the measures by layer, the rest folded; nothing without the file."""
    if not path.is_file():
        return ""
    from polythink.evaluate import heads  # the only part that needs torch

    analysis = heads.load(path)
    (_, summary), *rest = heads.figures(analysis)
    hint = (
        f"From {analysis.texts} texts. Maps are alike (1) where two heads give every key the same weight, and unlike "
        "(0) where they attend no key in common: 1 - Jensen-Shannon divergence in bits. Outputs are alike where two "
        "heads add the same direction to the layer's output. Entropy: 1 for even weights, 0 for a single key."
    )
    folded = "".join(f"<h3>{escape(name)}</h3>{svg}" for name, svg in rest)
    more = f"<details><summary>Which heads are alike, and attention maps</summary>{folded}</details>"
    return _section(title, f'<p class="soft small">{hint}</p>{summary}{more}')


def _details(run: RunRecord) -> str:
    packages = run.environment.get("packages") or {}
    listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    recipe = f"<details><summary>Recipe, resolved</summary><pre>{escape(dump_yaml(run.recipe))}</pre></details>"
    machine = f"<details><summary>Packages</summary><p>{escape(listed)}</p></details>" if listed else ""
    return _section("How it was run", (recipe if run.recipe else "") + machine) if run.recipe or machine else ""


# ---- traces ----

_TRACE_HINT = (
    "Read downwards. At a fork the text branches into paths, at a join a summary reads them all and the text goes on. "
    "In the mode structured paths are drawn at the same time and do not see each other; in sequential they follow one "
    "another."
)


def _traces(stages: Sequence[Stage], most: int = 6) -> str:
    stage, rows = _last_samples(stages)
    chosen = choose_samples(rows, most)
    if stage is None or not chosen:
        return ""
    hint = f'<p class="soft small">From stage <b>{escape(stage.name)}</b>. {_TRACE_HINT}</p>'
    return _section("Traces", hint + "".join(map(_sample, chosen)))


def _arm_traces(label: str, stages: Sequence[Stage], most: int = 2) -> str:
    chosen = choose_samples(_last_samples(stages)[1], most)
    hint = f'<p class="soft small">{_TRACE_HINT}</p>'
    return _section(f"Traces: {label}", hint + "".join(map(_sample, chosen))) if chosen else ""


def _last_samples(stages: Sequence[Stage]) -> tuple[Stage | None, list[dict]]:
    """The samples of the last stage that has any: of all its problem sets, or of the end of its training."""
    for stage in reversed(stages):
        rows = [row for name in (stage.evals or {"": {}}) for row in stage.samples(name) if "reference" not in row]
        if rows:
            last = max(row.get("step", 0) for row in rows)
            return stage, [row for row in rows if row.get("step", 0) >= 0.9 * last]
    return None, []


def choose_samples(rows: Sequence[dict], most: int) -> list[dict]:
    """A few samples of every sort, the telling sorts first: one of each, then a second, each of another problem."""

    def sort_of(row: dict) -> int:
        paths = {s.get("right") for s in row.get("segments") or [] if s.get("kind") == "path"}
        right, block = row.get("verdict") == "right", bool(row.get("blocks"))
        if block and right:
            return 0 if paths >= {True, False} else 1
        if block:
            return 2 if True in paths else 3
        return 4 if right else 5

    sorts: list[list[dict]] = [[] for _ in range(6)]
    seen: set[tuple[int, str]] = set()
    for row in rows:
        if (sort_of(row), row.get("problem", "")) not in seen:
            sorts[sort_of(row)].append(row)
            seen.add((sort_of(row), row.get("problem", "")))
    rounds = [sort[i] for i in range(most) for sort in sorts if i < len(sort)]
    return sorted(rounds[:most], key=sort_of)


def _sample(row: dict) -> str:
    verdict = row.get("verdict", "")
    facts = [
        f"{row[key]:.0f} {name}"
        for key, name in (("tokens", "tokens"), ("critical_path", "on the critical path"))
        if is_number(row.get(key))
    ]
    facts += [row["reason"].replace("_", " ")] if row.get("valid") is False and row.get("reason") else []
    answers = [f"answer {row['answer']}"] if row.get("answer") else []
    answers += [f"extracted {row['extracted']}"] if row.get("extracted") and verdict != "right" else []
    return (
        f'<article class="sample"><div class="head"><span class="verdict {escape(verdict)}">'
        f"{escape(VERDICTS.get(verdict, verdict))}</span>"
        f'<span class="soft">{escape(" · ".join([*answers, *facts]))}</span></div>{trace_html(row)}</article>'
    )


# ---- texts ----


def _texts(stages: Sequence[Stage], most: int = 12) -> str:
    """The first texts of the last stage that wrote any: source, reference, output; wrong ones before right ones."""
    for stage in reversed(stages):
        rows = [row for name in stage.evals for row in stage.samples(name) if "output" in row]
        if rows:
            chosen = sorted(rows[:most], key=lambda row: bool(row.get("exact")))
            hint = f'<p class="soft small">The first {len(chosen)} of stage <b>{escape(stage.name)}</b>.</p>'
            return _section("Texts", hint + "".join(map(_text, chosen)))
    return ""


def _text(row: dict) -> str:
    verdict = ("right", "✓ the reference") if row.get("exact") else ("wrong", "✗ not the reference")
    lines = "".join(
        f"<tr><th>{name}</th><td>{escape(str(row.get(name, '')))}</td></tr>"
        for name in ("source", "reference", "output")
        if not (name == "output" and row.get("exact"))
    )
    return (
        f'<article class="sample"><div class="head"><span class="verdict {verdict[0]}">{verdict[1]}</span></div>'
        f"<table>{lines}</table></article>"
    )


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
        sections.append(_section(f"Stage {name}", _legend(by_arm) + _grid(charts)) if any(charts) else "")
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


# ---- the page ----


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; everything it needs is inside."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_CSS}{TRACE_CSS}</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _commands(commands: Sequence[str]) -> str:
    return f'<pre class="command">{escape(chr(10).join(commands))}</pre>' if commands else ""


_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #24292f;
  background: #fff; max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 8px; }
h3 { font-size: 14px; margin: 14px 0 2px; }
section { margin-top: 34px; border-top: 1px solid #e5e7eb; padding-top: 18px; }
p { margin: 6px 0; } .soft { color: #6b7280; } .small { font-size: 13px; }
.small b { font-weight: 600; color: #4b5563; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
pre.command { background: #f6f7f9; border-radius: 6px; padding: 8px 12px; margin: 10px 0 0; overflow-x: auto; }
details { margin-top: 8px; } details summary { cursor: pointer; color: #4b5563; font-size: 14px; }
details pre { background: #f6f7f9; border-radius: 6px; padding: 10px 12px; overflow-x: auto; }
.pipeline { list-style: none; display: flex; flex-wrap: wrap; gap: 8px 24px; padding: 0; margin: 20px 0 0; }
.pipeline li { position: relative; border: 1px solid #d9dde3; border-radius: 6px; padding: 4px 10px; }
.pipeline li b { display: block; font-size: 13.5px; } .pipeline li span { font-size: 11.5px; color: #6b7280; }
.pipeline li:not(:last-child)::after { content: "→"; position: absolute; right: -20px; top: 11px; color: #9aa1ab; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: #6b7280; font-size: 13px; padding-bottom: 6px; }
th, td { text-align: left; padding: 5px 9px; vertical-align: top; border-bottom: 1px solid #edeff2; }
thead th { font-size: 12.5px; font-weight: 600; color: #4b5563; border-bottom: 1px solid #c9ced6;
  vertical-align: bottom; }
th.number, td.number { text-align: right; } td small { display: block; color: #8a93a0; font-size: 11.5px;
  white-space: nowrap; }
tr.set th { padding-top: 14px; } tr.set span { font-weight: 400; color: #6b7280; font-size: 13px; }
.note { background: #fdf6e3; border-left: 3px solid #d8a73a; padding: 6px 12px; font-size: 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px 20px;
  margin-top: 10px; }
.charts figure { margin: 0; } .charts svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; }
.legend i { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; }
.legend.lines i { height: 0; border-top: 3px solid; border-radius: 0; width: 24px; }
.legend.lines i.dashed { border-top-style: dashed; }
.wide td.number { white-space: nowrap; } h3 { font-size: 15px; margin: 14px 0 4px; }
.sample { border: 1px solid #e5e7eb; border-radius: 8px; background: #fafbfc; padding: 12px 14px; margin: 14px 0; }
.sample .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-bottom: 12px; }
.sample .head .soft { font-size: 13px; }
.verdict { font-size: 12.5px; font-weight: 600; border-radius: 4px; padding: 1px 8px; background: #eceef1; }
.verdict.right { background: #e2f2e8; color: #22663f; } .verdict.wrong { background: #f9e5e3; color: #95302a; }
@media print { details { display: none; } section { break-inside: avoid; } }
"""
