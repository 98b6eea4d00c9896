"""The section of a report with a few traces or texts, chosen to show different outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from polythink.report.fork_drawing import flow_of_row, trace_html
from polythink.report.page import section
from polythink.report.runs import Stage, is_number

VERDICTS = {"right": "✓ right", "wrong": "✗ wrong", "unparsed": "no answer found", "timeout": "grading timed out"}

_TRACE_HINT = (
    "Read from top to bottom. At a fork the text branches into paths; at the join a summary reads all of them, and the "
    "text continues. In mode structured, paths are sampled at the same time and do not see each other; in mode "
    "sequential, each path sees the earlier ones."
)


def traces_section(stages: Sequence[Stage], most: int = 6, arm: str = "") -> str:
    """A few traces of the last stage with samples; in a report on several arms, of the arm of that name."""
    stage, rows = _last_samples(stages)
    chosen = choose_samples(rows, most)
    if stage is None or not chosen:
        return ""
    source = "" if arm else f"From stage <b>{escape(stage.name)}</b>. "
    hint = f'<p class="soft small">{source}{_TRACE_HINT}</p>'
    return section(f"Traces: {arm}" if arm else "Traces", hint + "".join(map(_sample, chosen)))


def _last_samples(stages: Sequence[Stage]) -> tuple[Stage | None, list[dict]]:
    """The last stage with samples, and these: of all its problem sets, or of the last tenth of its training."""
    for stage in reversed(stages):
        rows = [row for name in (stage.evals or {"": {}}) for row in stage.samples(name) if "reference" not in row]
        if rows:
            last = max(row.get("step", 0) for row in rows)
            return stage, [row for row in rows if row.get("step", 0) >= 0.9 * last]
    return None, []


def choose_samples(rows: Sequence[dict], most: int) -> list[dict]:
    """A few samples of each outcome: first one of each, then a second, and so on, all of different problems.

    Outcomes in order: right although a path was wrong, right, wrong although a path was right, wrong, and the same two
    without a block.
    """

    def sort_of(row: dict) -> int:
        paths = {s.get("right") for s in row.get("segments") or [] if s.get("kind") == "path"}
        right, block = row.get("verdict") == "right", bool(row.get("blocks"))
        if block and right:
            return 0 if paths >= {True, False} else 1
        if block:
            return 2 if True in paths else 3
        return 4 if right else 5

    sorts: list[dict[str, dict]] = [{} for _ in range(6)]  # the first sample of each problem
    for row in rows:
        sorts[sort_of(row)].setdefault(row.get("problem", ""), row)
    rounds = [row for group in zip_longest(*(sort.values() for sort in sorts)) for row in group if row is not None]
    return sorted(rounds[:most], key=sort_of)


def _sample(row: dict) -> str:
    verdict = row.get("verdict", "")
    costs = {"tokens": "tokens", "critical_path": "on the critical path"}
    facts = [f"{row[key]:.0f} {name}" for key, name in costs.items() if is_number(row.get(key))]
    facts += [row["reason"].replace("_", " ")] if row.get("well_formed") is False and row.get("reason") else []
    answers = [f"answer {row['answer']}"] if row.get("answer") else []
    answers += [f"extracted {row['extracted']}"] if row.get("extracted") and verdict != "right" else []
    line = escape(" · ".join([*answers, *facts]))
    facts = f'<span class="soft">{line}</span>'
    return _article(verdict, VERDICTS.get(verdict, verdict), facts, trace_html(flow_of_row(row)))


def _article(verdict: str, shown: str, facts: str, content: str) -> str:
    head = f'<div class="head"><span class="verdict {escape(verdict)}">{escape(shown)}</span>{facts}</div>'
    return f'<article class="sample">{head}{content}</article>'


# ---- texts ----


def texts_section(stages: Sequence[Stage], most: int = 12) -> str:
    """The first texts of the last stage that has any: source, reference, output; wrong ones first."""
    for stage in reversed(stages):
        rows = [row for name in stage.evals for row in stage.samples(name) if "output" in row]
        if rows:
            chosen = sorted(rows[:most], key=lambda row: bool(row.get("exact")))
            hint = f'<p class="soft small">The first {len(chosen)} texts of stage <b>{escape(stage.name)}</b>.</p>'
            return section("Texts", hint + "".join(map(_text, chosen)))
    return ""


def _text(row: dict) -> str:
    verdict = ("right", "✓ equals the reference") if row.get("exact") else ("wrong", "✗ differs from the reference")
    lines = "".join(
        f"<tr><th>{name}</th><td>{escape(str(row.get(name, '')))}</td></tr>"
        for name in ("source", "reference", "output")
        if not (name == "output" and row.get("exact"))
    )
    return _article(*verdict, "", f"<table>{lines}</table>")
