"""The section of a report with some traces or texts, chosen to show different outcomes, and a filter over them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from polythink.problems.tasks.table import task_of
from polythink.report.fork_drawing import flow_of_row
from polythink.report.fork_html import trace_html
from polythink.report.page import FILTERS, link, section
from polythink.report.provenance import relative
from polythink.report.runs import Stage, is_number
from polythink.trace.rollout import STOPPED, TRUNCATIONS

VERDICTS = {"right": "✓ right", "wrong": "✗ wrong", "unparsed": "no answer found", "timeout": "grading timed out"}


_TRACE_HINT = (
    "Read from top to bottom. At a fork the text branches into paths; at the join a summary reads all of them, and the "
    "text continues. Paths are sampled at the same time and do not see each other, except in mode sequential, where "
    "each sees the earlier ones. A grey line stands for paths that the join reads again as text."
)


def traces_section(stages: Sequence[Stage], page: Path, most: int = 24, arm: str = "") -> str:
    """Some traces of the last stage with samples; in a report on several arms, of the arm of that name.

    `page` is the file that links to the samples.
    """
    stage, rows, files = _last_samples(stages, lambda row: "reference" not in row)
    chosen = choose_samples(rows, most)
    if stage is None or not chosen:
        return ""
    hints = map(escape, task_hints(chosen))
    hint = " ".join([_source(stage, len(chosen), len(rows), files, page), _TRACE_HINT, *hints])
    drawn = [(_classes(row), _sample(row)) for row in chosen]
    content = f'<p class="soft small">{hint}</p>{_filtered(f"traces-{arm}", drawn)}'
    return section(f"Traces: {arm}" if arm else "Traces", content)


def _last_samples(
    stages: Sequence[Stage], wanted: Callable[[dict], bool]
) -> tuple[Stage | None, list[dict], list[Path]]:
    """The last stage with samples, and these: of its problem sets in turn, or of the last tenth of its training."""
    for stage in reversed(stages):
        names = list(stage.evals or {"": {}})
        sets = [[row for row in stage.samples(name) if wanted(row)] for name in names]
        rows = [row for group in zip_longest(*sets) for row in group if row is not None]
        if rows:
            last = max(row.get("step", 0) for row in rows)
            files = [stage.samples_file(name) for name, own in zip(names, sets, strict=True) if own]
            return stage, [row for row in rows if row.get("step", 0) >= 0.9 * last], files
    return None, [], []


def _source(stage: Stage, shown: int, of: int, files: Sequence[Path], page: Path) -> str:
    """Where the samples come from, with links to all of them."""
    links = ", ".join(link(relative(file, page), relative(file, page)) for file in files)
    return f"{shown} of {of} samples of stage <b>{escape(stage.name)}</b>; all of them: {links}."


def choose_samples(rows: Sequence[dict], most: int) -> list[dict]:
    """A few samples of each outcome: first one of each, then a second, and so on, of as many problems as there are.

    Outcomes in order: right although a path was wrong, right, wrong although a path was right, wrong, the same two
    without a block, then truncated ones and those without a verdict.
    """
    sorts: list[dict[str, dict]] = [{} for _ in range(8)]  # the first sample of each problem
    for row in rows:
        sorts[_sort_of(row)].setdefault(row.get("problem", ""), row)
    left, chosen, seen = [sort for sort in sorts if sort], [], set()
    while left and len(chosen) < most:
        for sort in left[: most - len(chosen)]:
            problem = next((key for key in sort if key not in seen), next(iter(sort)))
            seen.add(problem)
            chosen.append(sort.pop(problem))
        left = [sort for sort in left if sort]
    return sorted(chosen, key=_sort_of)


def _sort_of(row: Mapping) -> int:
    paths = {s.get("right") for s in row.get("segments") or [] if s.get("kind") == "path"}
    right, block = row.get("verdict") == "right", bool(row.get("blocks"))
    if row.get("verdict") not in ("right", "wrong"):
        return 7
    if not right and _is_cut(row):
        return 6
    if block and right:
        return 0 if paths >= {True, False} else 1
    if block:
        return 2 if True in paths else 3
    return 4 if right else 5


def _is_cut(row: Mapping) -> bool:
    """Was it cut by a budget? Paths that were stopped on purpose do not count."""
    return any(reason in TRUNCATIONS and reason not in STOPPED for reason in _reasons(row))


def _reasons(row: Mapping) -> list[str]:
    return [segment.get("finish_reason", "") for segment in row.get("segments") or []]


def _classes(row: Mapping) -> list[str]:
    block = "has-block" if row.get("blocks") else "no-block"
    return [f"is-{row.get('verdict', '')}", block, *(["is-cut"] if _is_cut(row) else [])]


def _filtered(name: str, drawn: Sequence[tuple[Sequence[str], str]]) -> str:
    """Samples with a row of filters above them that need no script: each hides the samples of other classes."""
    counts = {c: sum(c in classes for classes, _ in drawn) for c in FILTERS}
    buttons = [("all", f"all {len(drawn)}")]
    buttons += [(c, f"{FILTERS[c]} {n}") for c, n in counts.items() if 0 < n < len(drawn)]
    slug = re.sub(r"[^a-z0-9-]", lambda odd: f"-{ord(odd[0])}", name.lower())
    inputs = "".join(
        f'<input class="filter only-{c}" type="radio" name="{slug}" id="{slug}-{c}"'
        f'{" checked" if c == "all" else ""}><label for="{slug}-{c}">{escape(shown)}</label>'
        for c, shown in buttons
    )
    articles = "".join(f'<article class="sample {" ".join(classes)}">{html}</article>' for classes, html in drawn)
    return f'<div class="filtered">{inputs if len(buttons) > 1 else ""}<div class="samples">{articles}</div></div>'


def _sample(row: dict) -> str:
    verdict = row.get("verdict", "")
    costs = {"tokens": "tokens", "critical_path": "on the critical path"}
    facts = [f"{row[key]:.0f} {name}" for key, name in costs.items() if is_number(row.get(key))]
    facts += [row["reason"].replace("_", " ")] if row.get("well_formed") is False and row.get("reason") else []
    facts += ["truncated"] if _is_cut(row) else []
    stops = {reason: _reasons(row).count(reason) for reason in STOPPED}
    facts += [f"{n} path{'s' if n > 1 else ''} {reason}" for reason, n in stops.items() if n]
    answers = [f"answer {row['answer']}"] if row.get("answer") else []
    answers += [f"extracted {row['extracted']}"] if row.get("extracted") and verdict != "right" else []
    line = escape(" · ".join([*answers, *facts]))
    facts_html = f'<span class="soft">{line}</span>'
    return _head(verdict, VERDICTS.get(verdict, verdict), facts_html) + trace_html(flow_of_row(row))


def _head(verdict: str, shown: str, facts: str = "") -> str:
    return f'<div class="head"><span class="verdict {escape(verdict)}">{escape(shown)}</span>{facts}</div>'


def task_hints(rows: Iterable[Mapping]) -> list[str]:
    """What a reader of these rows should know about their tasks."""
    return list(dict.fromkeys(filter(None, (task_of(row).report_hint for row in rows))))


def held_paths(rows: Iterable[Mapping]) -> tuple[int, int] | None:
    """Of the right paths of tasks whose slips show: how many have only true equations, and how many there are."""
    tasks = [(row, task) for row in rows if (task := task_of(row)).shows_slips]
    right = [
        not task.slips(s.get("text", "")) for row, task in tasks for s in row.get("segments") or [] if _is_right_path(s)
    ]
    return (sum(right), len(right)) if right else None


def _is_right_path(segment: Mapping) -> bool:
    return segment.get("kind") == "path" and segment.get("right") is True


# ---- texts ----


def texts_section(stages: Sequence[Stage], page: Path, most: int = 24, arm: str = "") -> str:
    """Some texts of the last stage that has any: source, reference, output; half of them wrong if there are enough."""
    stage, rows, files = _last_samples([s for s in stages if s.evals], lambda row: "output" in row)
    if stage is None:
        return ""
    wrong, exact = ([row for row in rows if bool(row.get("exact")) is same] for same in (False, True))
    n_exact = min(len(exact), max(most // 2, most - len(wrong)))
    chosen = [*wrong[: most - n_exact], *exact[:n_exact]]
    hint = f'<p class="soft small">{_source(stage, len(chosen), len(rows), files, page)}</p>'
    drawn = [([f"is-{'right' if row.get('exact') else 'wrong'}"], _text(row)) for row in chosen]
    return section(f"Texts: {arm}" if arm else "Texts", hint + _filtered(f"texts-{arm}", drawn))


def _text(row: dict) -> str:
    verdict = ("right", "✓ equals the reference") if row.get("exact") else ("wrong", "✗ differs from the reference")
    lines = "".join(
        f"<tr><th>{name}</th><td>{escape(str(row.get(name, '')))}</td></tr>"
        for name in ("source", "reference", "output")
        if not (name == "output" and row.get("exact"))
    )
    return f"{_head(*verdict)}<table>{lines}</table>"
