"""The section of a report with some traces or texts, chosen to show different outcomes, and a filter over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from polythink.problems.tasks.table import task_of
from polythink.report.filters import Drawn, filtered
from polythink.report.fork_drawing import flow_of_row
from polythink.report.fork_html import trace_html
from polythink.report.page import folded, link, section
from polythink.report.prose import MOST_CHARACTERS, words_html
from polythink.report.provenance import relative
from polythink.report.runs import Stage, is_number
from polythink.trace.rollout import STOPPED, TRUNCATIONS

VERDICTS = {"right": "✓ right", "wrong": "✗ wrong", "unparsed": "no answer found", "timeout": "grading timed out"}
MOST_SAMPLES = 60  # of a page; one that compares arms has fewer of each
MOST_TEXT = 1_500_000  # characters of all of them
OF_EACH = 24  # samples that are chosen by their outcomes; the others are of the same problems
STEPS, A_STEP = 6, 2  # of an earlier stage that trained: steps that are shown, and samples of each

_TRACE_HINT = (
    "Read from top to bottom. At a fork the text branches into paths; at the join a summary reads all of them, and the "
    "text continues. Paths are sampled at the same time and do not see each other, except in mode sequential, where "
    "each sees the earlier ones. A grey line stands for paths that the join reads again as text. A path is marked "
    "right or wrong where it states an answer of its own. Mathematics is shown as the model wrote it."
)


def traces_section(stages: Sequence[Stage], page: Path, most: int = MOST_SAMPLES, arm: str = "") -> str:
    """Some traces of the last stage with samples; in a report on several arms, of the arm of that name.

    `page` is the file that links to the samples.
    """
    stage, rows, files = _last_samples(stages, _is_trace)
    chosen = sorted(within_text(choose_with_siblings(rows, most)), key=_sort_of)
    if stage is None or not chosen:
        return ""
    hints = map(escape, task_hints(chosen))
    hint = " ".join([_source(stage, len(chosen), len(rows), files, page), _TRACE_HINT, *hints])
    content = f'<p class="soft small">{hint}</p>{filtered(f"traces-{arm}", [_drawn(row) for row in chosen])}'
    return section(f"Traces: {arm}" if arm else "Traces", content)


def training_section(stages: Sequence[Stage], page: Path) -> str:
    """What the model wrote while it trained: of every stage but that of `traces_section`, a few samples, by step."""
    last, _ = _last_stage(stages, _is_trace)
    parts = []
    for stage in stages:
        rows = [] if stage is last or stage.evals else [row for row in stage.samples() if is_number(row.get("step"))]
        if chosen := sorted(within_text(spread_over_steps(rows)), key=lambda row: row["step"]):
            hint = f"{_source(stage, len(chosen), len(rows), [stage.samples_file()], page)} By step."
            drawn = filtered(f"trained-{stage.name}", [_drawn(row) for row in chosen])
            parts.append(folded(f"Stage {stage.name}", f'<p class="soft small">{hint}</p>{drawn}'))
    return section("Samples while training", "".join(parts)) if parts else ""


def _drawn(row: Mapping) -> Drawn:
    return Drawn(_classes(row), _sample(row), str(row.get("problem", "")), row.get("question") or "")


def spread_over_steps(rows: Sequence[dict]) -> list[dict]:
    """The first rows of a few steps, evenly spread from the first step to the last.

    In order of choice: the first of each step, then the second, so that a page without room loses no whole step. The
    last step comes right after the first one, then those between.
    """
    steps = sorted({row["step"] for row in rows})
    n = min(STEPS, len(steps))
    shown = {steps[round(i * (len(steps) - 1) / max(1, n - 1))] for i in range(n)}
    order = _ends_first(sorted(shown))
    by_step = [[row for row in rows if row["step"] == step][:A_STEP] for step in order]
    return [row for turn in zip_longest(*by_step) for row in turn if row is not None]


def _ends_first(steps: Sequence[float]) -> list[float]:
    """The first, the last, the middle, then what is between these: the first N are spread, whatever N is."""
    order, gaps = [0, len(steps) - 1], [(0, len(steps) - 1)]
    for low, high in gaps:  # grows as it is read: halves come after all wider gaps
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [steps[i] for i in dict.fromkeys(order)] if steps else []


def within_text(rows: Iterable[dict], most: int = MOST_TEXT) -> list[dict]:
    """The rows whose text fits a page of that many characters; the first always does.

    They come in order of choice and are sorted for display afterwards: sorted before, whole sorts would be cut off.
    """
    kept: list[dict] = []
    for row in rows:
        texts = (s.get("text", "") for s in row.get("segments") or [row])
        most -= sum(min(len(text), MOST_CHARACTERS) for text in texts)
        if most < 0 and kept:
            break
        kept.append(row)
    return kept


def _is_trace(row: Mapping) -> bool:
    return bool(row) and "reference" not in row


def _is_text(row: Mapping) -> bool:
    return "output" in row


def _last_stage(stages: Sequence[Stage], wanted: Callable[[Mapping], bool]) -> tuple[Stage | None, list[str]]:
    """The last stage with samples of that kind, and the names of its files that have them."""
    for stage in reversed(stages):
        if names := [name for name in stage.evals or {"": {}} if wanted(stage.first_sample(name))]:
            return stage, names
    return None, []


def _last_samples(
    stages: Sequence[Stage], wanted: Callable[[Mapping], bool]
) -> tuple[Stage | None, list[dict], list[Path]]:
    """The last stage with samples, and these: of its problem sets in turn, or of the last tenth of its training."""
    stage, names = _last_stage(stages, wanted)
    if stage is None:
        return None, [], []
    rows = [row for group in zip_longest(*map(stage.samples, names)) for row in group if row is not None]
    last = max(row.get("step", 0) for row in rows)
    return stage, [row for row in rows if row.get("step", 0) >= 0.9 * last], list(map(stage.samples_file, names))


def _source(stage: Stage, shown: int, of: int, files: Sequence[Path], page: Path) -> str:
    """Where the samples come from, with links to all of them."""
    links = ", ".join(link(relative(file, page), relative(file, page)) for file in files)
    return f"{shown:,} of {of:,} samples of stage <b>{escape(stage.name)}</b>; all of them: {links}."


def choose_with_siblings(rows: Sequence[dict], most: int) -> list[dict]:
    """Some samples of each outcome (`choose_samples`), then others of the same problems, as many as there is room.

    In order of choice.
    """
    first = choose_samples(rows, min(most, OF_EACH))
    taken, problems = {id(row) for row in first}, {row.get("problem", "") for row in first}
    others = [row for row in rows if id(row) not in taken]
    more = sorted(others, key=lambda row: row.get("problem", "") not in problems)
    return [*first, *more[: most - len(first)]]


def choose_samples(rows: Sequence[dict], most: int) -> list[dict]:
    """A few samples of each outcome: first one of each, then a second, and so on, of as many problems as there are.

    Outcomes in order: right although a path was wrong, right, wrong although a path was right, wrong, the same two
    without a block, then truncated ones and those without a verdict. The samples are in order of choice.
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
    return chosen


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
    malformed = ["is-malformed"] if row.get("well_formed") is False else []
    return [f"is-{escape(str(row.get('verdict', '')))}", block, *malformed, *(["is-cut"] if _is_cut(row) else [])]


def _sample(row: dict) -> str:
    verdict = row.get("verdict", "")
    costs = {"tokens": "tokens", "critical_path": "on the critical path"}
    facts = [f"{row[key]:.0f} {name}" for key, name in costs.items() if is_number(row.get(key))]
    if row.get("well_formed") is False:
        facts.append(f"malformed: {row['reason'].replace('_', ' ')}" if row.get("reason") else "malformed")
    facts += ["truncated"] if _is_cut(row) else []
    stops = {reason: _reasons(row).count(reason) for reason in STOPPED}
    facts += [f"{n} path{'s' if n > 1 else ''} {reason}" for reason, n in stops.items() if n]
    answers = [f"correct answer {row['answer']}"] if row.get("answer") else []
    answers += [f"its answer {row['extracted']}"] if row.get("extracted") and verdict != "right" else []
    step = [f"step {row['step']}"] if is_number(row.get("step")) else []
    line = escape(" · ".join([*step, *map(_short, answers), *facts]))
    facts_html = f'<span class="soft">{line}</span>'
    return _head(verdict, VERDICTS.get(verdict, verdict), facts_html) + trace_html(flow_of_row(row))


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


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
    stage, rows, files = _last_samples([s for s in stages if s.evals], _is_text)
    if stage is None:
        return ""
    wrong, exact = ([row for row in rows if bool(row.get("exact")) is same] for same in (False, True))
    n_exact = min(len(exact), max(most // 2, most - len(wrong)))
    chosen = [*wrong[: most - n_exact], *exact[:n_exact]]
    hint = f'<p class="soft small">{_source(stage, len(chosen), len(rows), files, page)}</p>'
    drawn = [Drawn([f"is-{'right' if row.get('exact') else 'wrong'}"], _text(row)) for row in chosen]
    return section(f"Texts: {arm}" if arm else "Texts", hint + filtered(f"texts-{arm}", drawn))


def _text(row: dict) -> str:
    verdict = ("right", "✓ equals the reference") if row.get("exact") else ("wrong", "✗ differs from the reference")
    lines = "".join(
        f"<tr><th>{name}</th><td>{words_html(str(row.get(name, '')))}</td></tr>"
        for name in ("source", "reference", "output")
        if not (name == "output" and row.get("exact"))
    )
    return f'{_head(*verdict)}<table class="prose">{lines}</table>'
