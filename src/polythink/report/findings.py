"""What `compare` and `tunnel` found, as tables and as curves with shaded intervals: from their JSON files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from polythink.report.page import grid, small, table
from polythink.report.plots import COLOURS, Line, Panel, chart, is_number

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = COLOURS


@dataclass(frozen=True)
class Style:
    """How an arm is named, os_errors and drawn."""

    head: str
    what: str
    colour: str
    dashed: bool = False


ARMS = {
    "parallel": Style("parallel", "P paths and a summary that reads their own keys and values", BLUE),
    "reread": Style("re-prefill", "the same paths as flat text, read again, and a new summary", ORANGE),
    "majority_paths": Style("majority of the paths", "the same paths' own answers, ties by their share", GREEN),
    "marked_path": Style("marked path", "one of the same paths that says of itself that it worked", GREEN, True),
    "oracle": Style("oracle", "a right one is among the same paths", GREY, True),
    "sequential": Style("sequential", "one response, as long as a response of one path may be", RED),
    "sequential_longer": Style("sequential, P times as long", "one response with the path budget of all", RED, True),
    "sequential_tokens": Style(
        "sequential, same tokens", "as many responses as the parallel one's tokens pay for, one chosen", PURPLE
    ),
    "majority_sequential": Style("majority of P sequential", "P responses drawn apart", PURPLE, True),
}


# ---- compare ----


def comparison_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: an arm a row, for one number of paths after another."""
    head = ["P", "arm", "drawn", "right", "parallel less this", "tokens", "critical path", "forwarded", "ms"]
    order, rows, last = list(ARMS), [], 0
    for arm in sorted(result["arms"], key=lambda arm: (arm["paths"], order.index(arm["arm"]))):
        rows.append([
            "" if arm["paths"] == last else arm["paths"], ARMS[arm["arm"]].head, arm["responses"],
            percent(arm["accuracy"]), percent(arm.get("difference"), "+"), amount(arm["tokens"]["value"]),
            amount(arm["critical_path"]["value"]), amount(arm["forwarded"]),
            amount(arm["seconds"] and 1000 * arm["seconds"]), percent(arm.get("summary_right")),
        ])  # fmt: skip
        last = arm["paths"]
    return [*head, "summary right"], rows


def comparison_section(result: Mapping) -> str:
    """One problem set's comparison as HTML: what was done, curves, table, legend."""
    used = [name for name in ARMS if any(arm["arm"] == name for arm in result["arms"])]
    meaning = "; ".join(f"<b>{escape(ARMS[name].head)}</b> {escape(ARMS[name].what)}" for name in used)
    said = (
        f"{result['n']} problems, {result['samples']} parallel responses each; bands and brackets: 95% intervals by "
        "bootstrap over problems, differences on the same problems. Drawn: responses for one answer. Tokens and "
        "critical path are those of an answer; "
        "forwarded counts what was run through the model for it, the prompt and what was read again included. "
        "Milliseconds are of one pass, many answers at once: no benchmark. Arms without them take the paths of the "
        "parallel arm."
    )
    return (
        f"<h3>{escape(result['problems'])}</h3>{notes(result)}{legend(ARMS[name] for name in used)}"
        f"{grid(comparison_charts(result))}"
        f"{table(comparison_table(result))}"
        f'<p class="soft small">{said} {meaning}.</p>'
    )


def comparison_charts(result: Mapping) -> list[str | None]:
    """Accuracy against P, against all tokens of an answer, and against its critical path: one curve an arm."""
    axes = {
        "paths": ("Accuracy by number of paths", "P"),
        "tokens": ("Accuracy by tokens", "tokens of an answer"),
        "critical_path": ("Accuracy by critical path", "steps one after another"),
    }
    return [
        share_chart(title, along, [line for name in ARMS if (line := _arm_line(result, name, key))])
        for key, (title, along) in axes.items()
    ]


def _arm_line(result: Mapping, name: str, key: str) -> Line | None:
    arms = [arm for arm in result["arms"] if arm["arm"] == name and is_number(arm["accuracy"]["value"])]
    if not arms:
        return None
    if name == "sequential" and key == "paths":  # the same whatever P
        arms = [{**arms[0], "paths": paths} for paths in result["paths"]]
    arms.sort(key=lambda arm: arm["paths"])
    along = [arm["paths"] if key == "paths" else arm[key]["value"] for arm in arms]
    return estimate_line(ARMS[name], along, [arm["accuracy"] for arm in arms])


# ---- tunnel ----

PREFIXES = {
    "fresh": Style("fresh", "the same problems from the beginning", GREY, True),
    "any": Style(
        "random prefix", "the control: of traces chosen among right and wrong ones of the same problems", BLUE
    ),
    "wrong": Style("wrong prefix", "of wrong traces", RED),
}


def way_style(way: str, number: int) -> Style:
    """How a way to spend a budget is drawn: `number` is that of its number of paths."""
    if way == "sequential":
        return Style("sequential", "one response of that many tokens, and room for its answer", GREY)
    paths = int(way.removeprefix("majority").removeprefix("paths"))
    colour = COLOURS[number % len(COLOURS)]
    if way.startswith("majority"):
        return Style(f"majority of {paths}", "the same paths' own answers", colour, True)
    shared = "one path" if paths == 1 else f"{paths} paths"
    return Style(shared, "and a summary" if paths == 1 else "that share the budget, and a summary", colour)


def budget_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a budget and a way to spend it a row."""
    head = ["budget", "spent on", "right", "tokens", "critical path"]
    rows = [
        [
            point["budget"], way_style(point["way"], 0).head, percent(point["accuracy"]),
            amount(point["tokens"]["value"]), amount(point["critical_path"]["value"]),
        ]
        for point in result["budget"] or ()
    ]  # fmt: skip
    return head, rows


def recovery_table(result: Mapping) -> tuple[list[str], list[list]]:
    """Head and rows: a length of prefix a row."""
    head = ["prefix", "problems", "continuations", *(style.head for style in PREFIXES.values())]
    rows = [
        [
            point["prefix"], point["problems"], point["continuations"],
            *(percent(point[kind]) for kind in PREFIXES), percent(point["difference"], "+"),
            f"{100 * point['control_right']:.1f}",
        ]
        for point in (result["recovery"] or {}).get("points", ())
    ]  # fmt: skip
    return [*head, "random less wrong", "right traces among random"], rows


def tunnel_section(result: Mapping) -> str:
    """One problem set's tunnel vision as HTML: both parts, each with its curves and its table."""
    ways = {point["way"]: style for point, style in _ways(result)}
    judged = "its path's own answer" if result["judged_by"] == "path" else "what the whole response came to"
    parts = [f"<h3>{escape(result['problems'])}</h3>", notes(result)]
    if result["budget"]:
        said = f"{result['n']} problems, {result['samples']} responses each. The budget is that of all paths together."
        parts += [legend(ways.values()), grid(budget_charts(result)), table(budget_table(result)), small(said)]
    if result["recovery"]:
        facts = result["recovery"]
        said = (
            f"{facts['traces']} traces of one path, {facts['wrong']} of them wrong, of a median length of "
            f"{facts['median']:g} tokens; right is {judged}. "
            + "; ".join(f"{style.head}: {style.what}" for style in PREFIXES.values())
            + ". All three on the same problems; a trace must be longer than the prefix. "
            "Brackets: 95% intervals by bootstrap over these problems."
        )
        parts += [legend(PREFIXES.values()), grid([recovery_chart(result)]), table(recovery_table(result)), small(said)]
    return "".join(parts)


def _ways(result: Mapping) -> list[tuple[Mapping, Style]]:
    numbers = sorted({point["paths"] for point in result["budget"] or ()})
    return [(point, way_style(point["way"], numbers.index(point["paths"]))) for point in result["budget"] or ()]


def budget_charts(result: Mapping) -> list[str | None]:
    """Accuracy against the budget, and against the tokens that were used of it: one curve a way to spend it."""
    curves: dict[str, tuple[Style, list[Mapping]]] = {}
    for point, style in _ways(result):
        curves.setdefault(point["way"], (style, []))[1].append(point)
    axes = {"budget": ("Accuracy by budget", "tokens of all paths together"), "tokens": ("Accuracy by tokens", "used")}
    return [
        share_chart(
            title,
            along,
            [
                estimate_line(
                    style,
                    [p["budget"] if key == "budget" else p["tokens"]["value"] for p in points],
                    [p["accuracy"] for p in points],
                )
                for style, points in curves.values()
            ],
        )
        for key, (title, along) in axes.items()
    ]


def recovery_chart(result: Mapping) -> str | None:
    """The rates against the length of the prefix."""
    points = result["recovery"]["points"]
    along = [point["prefix"] for point in points]
    lines = [estimate_line(style, along, [p[kind] for p in points]) for kind, style in PREFIXES.items()]
    return share_chart("Recovery", "tokens of the prefix", lines)


# ---- what both have in common ----


def share_chart(title: str, along: str, lines: Sequence[Line]) -> str | None:
    """Shares along some axis, which is logarithmic where it spans more than two doublings; None without lines."""
    if not lines:
        return None
    x = [x for line in lines for x in line.steps]
    return chart(lines, Panel(title, {}, percent=True, exact=True, along=along, doubling=max(x) > 4 * min(x)))


def estimate_line(style: Style, along: Sequence[float], estimates: Sequence[Mapping]) -> Line:
    """Estimates with their intervals as a line."""
    values, low, high = ([estimate[key] for estimate in estimates] for key in ("value", "low", "high"))
    return Line(style.head, style.colour, along, values, low=low, high=high, dashed=style.dashed)


def legend(styles: Sequence[Style]) -> str:
    """The names of the curves, each behind a piece of its line."""
    entries = (
        f'<span><i class="{"dashed" if style.dashed else ""}" style="color:{style.colour}"></i>'
        f"{escape(style.head)}</span>"
        for style in styles
    )
    return f'<p class="legend lines">{"".join(entries)}</p>'


def notes(result: Mapping) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in result.get("notes", ()))


def percent(estimate: Mapping | None, sign: str = "") -> str:
    """A share and its interval: `28.0 [23.0, 33.0]`."""
    found = [(estimate or {}).get(key) for key in ("value", "low", "high")]
    value, *ends = (f"{100 * x:{sign}.1f}" if is_number(x) else "" for x in found)
    return f"{value} [{', '.join(ends)}]" if all(ends) else value


def amount(value: float | None) -> str:
    return f"{value:.1f}" if is_number(value) else ""
