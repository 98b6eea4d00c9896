"""Learning curves and other line charts as inline SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any

from polythink.evaluate.metrics import METRICS
from polythink.report.runs import Stage
from polythink.report.theme import COLOURS as THEME
from polythink.report.theme import SERIES as COLOURS
from polythink.report.theme import with_variables


@dataclass(frozen=True)
class Panel:
    """One small chart: its title (the quantity, its unit in brackets), the metrics in it, and its axes."""

    title: str
    keys: tuple[str, ...]
    percent: bool = False
    log: bool = False
    exact: bool = False  # the values are not noisy: no smoothing
    along: str = "step"  # label of the horizontal axis
    doubling: bool = False  # the horizontal axis is logarithmic, base 2


_NORM = Panel("Gradient norm (L2, before clipping)", ("grad_norm",))
_OPTIMISER = (_NORM, Panel("Learning rate (step size, no unit)", ("lr",), exact=True))
PANELS: dict[str, tuple[Panel, ...]] = {
    "text": (Panel("Loss (nats per token)", ("valid_loss", "loss")), *_OPTIMISER),
    "sft": (Panel("Loss (nats per token)", ("loss",)), *_OPTIMISER),
    "grpo": (
        Panel("Reward (points per trace, mean)", ("reward",)),
        Panel("Accuracy (% of traces)", ("accuracy",), percent=True),
        Panel("Parallel ratio (% of traces)", ("parallel_ratio",), percent=True),
        Panel("Length (tokens per trace)", ("tokens", "critical_path")),
        Panel("Position of the first block (% of the trace)", ("first_block",), percent=True),
        Panel("Log-probability gap (nats)", ("logprob_gap",), log=True),
    ),
}
MORE_PANELS: dict[str, tuple[Panel, ...]] = {
    "grpo": (
        Panel("Well formed (% of traces)", ("well_formed",), percent=True),
        Panel("Groups without spread (% of groups)", ("zero_spread",), percent=True),
        Panel("Truncated (segments per trace)", ("truncated",)),
        Panel("Entropy (nats per token)", ("entropy",)),
        _NORM,
        Panel("KL to the reference (nats per token)", ("kl",)),
        Panel("Mismatch KL, sampler to trainer (nats per token)", ("mismatch_kl",), log=True),
    ),
}
INK, SOFT, GRID, SHADE = (THEME[name][0] for name in ("ink", "soft", "grid", "shade"))


@dataclass(frozen=True)
class Line:
    """One metric over steps. `weight`: "full" shows the raw values too, "thin" and "bold" only the smoothed ones.

    With `low` and `high`, the ends of the values' intervals, the line has a band, and its points are marked.
    """

    label: str
    colour: str
    steps: Sequence[float]
    values: Sequence[float]
    weight: str = "full"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


def stage_chart(stage: Stage, panel: Panel, along: str = "steps") -> str | None:
    """The panel of one stage over its steps or tokens; None where none of its metrics was written."""
    lines = [Line(label(key), COLOURS[i], *stage.series(key, along)) for i, key in enumerate(panel.keys)]
    lines = [line for line in lines if line.values]
    return chart(lines, over(panel, along), shaded=_other_reward_spans(stage, along)) if lines else None


def over(panel: Panel, along: str) -> Panel:
    """The panel with the axis of that name."""
    return panel if along == "steps" else replace(panel, along=along)


def label(key: str) -> str:
    return METRICS[key].label if key in METRICS else key.replace("_", " ")


def arms_chart(arms: Mapping[str, Sequence[Stage]], panel: Panel, along: str = "steps") -> str | None:
    """The panel's first metric for several arms, one colour per arm; None where no arm has it.

    Each arm has one stage per seed. With several seeds, each is a thin line and their mean is bold.
    """
    key, *others = panel.keys
    panel = replace(panel, title=f"{panel.title}: {label(key)}" if others else panel.title, keys=(key,))
    lines = []
    for i, (arm, stages) in enumerate(arms.items()):
        colour = COLOURS[i % len(COLOURS)]
        seeds = [(places, values) for places, values in (stage.series(key, along) for stage in stages) if values]
        if len(seeds) > 1:
            lines += [Line("", colour, *series, weight="thin") for series in seeds]
            steps = [stage.series(key)[0] for stage in stages if stage.series(key, along)[1]]
            lines.append(Line(arm, colour, *_mean_series(steps, seeds), weight="bold"))
        elif seeds:
            lines.append(Line(arm, colour, *seeds[0]))
    return chart(lines, over(panel, along)) if lines else None


def _mean_series(
    steps: Sequence[list[float]], seeds: Sequence[tuple[list[float], list[float]]]
) -> tuple[list[float], list[float]]:
    """The means over seeds, of places and of values, at the steps that all of them have."""
    by_step = [dict(zip(own, zip(*series, strict=True), strict=True)) for own, series in zip(steps, seeds, strict=True)]
    common = sorted(set.intersection(*(set(one) for one in by_step)))
    return tuple([sum(one[step][i] for one in by_step) / len(by_step) for step in common] for i in (0, 1))


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average; the window shrinks at both ends."""
    half = window // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(w) / len(w) for w in windows]


def _other_reward_spans(stage: Stage, along: str = "steps") -> list[tuple[float, float]]:
    """The spans of steps, or of tokens, with another reward than that of the first step."""
    names = [row.get("reward_name") for row in stage.rows]
    places = stage.places(along)
    spans: list[tuple[float, float]] = []
    for i, (place, name) in enumerate(zip(places, names, strict=True)):
        if name != names[0]:
            start, end = (place - 0.5, place + 0.5) if along == "steps" else (places[i - 1], place)
            joined = spans and spans[-1][1] == start
            spans[-1:] = [(spans[-1][0], end)] if joined else [*spans[-1:], (start, end)]
    return spans


def chart(lines: Sequence[Line], panel: Panel, shaded: Sequence[tuple[float, float]] = ()) -> str:
    """A small line chart as an SVG element. Lines with many steps are smoothed, over pale raw values.

    Arms share stages, and the report of each run shows their charts: each is drawn once.
    """
    series = ("steps", "values", "low", "high")
    fixed = [replace(line, **{name: tuple(getattr(line, name)) for name in series}) for line in lines]
    return _chart(tuple(fixed), panel, tuple(shaded))


@lru_cache(maxsize=512)
def _chart(lines: Sequence[Line], panel: Panel, shaded: Sequence[tuple[float, float]]) -> str:
    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.12, 0.185, 0.86, 0.64))
        style_axes(axes, panel.title, panel.along)
        _scale_axes(axes, panel, lines)
        for start, end in shaded:
            axes.axvspan(start, end, color=SHADE, linewidth=0)
        for line in lines:
            _draw(axes, line, smoothed=len(line.values) >= 12 and not panel.exact)
        if len(panel.keys) > 1:
            axes.legend(frameon=False, labelcolor=INK, fontsize=7, loc="best", handlelength=1.2)

    return svg_figure(panel.title, (3.5, 2.1), draw)


def svg_figure(title: str, inches: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """A self-contained SVG element with what `draw` paints on an empty figure of that size."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 8}):
        figure = Figure(figsize=inches)
        FigureCanvasSVG(figure)
        draw(figure)
        file, nothing = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), title)


def _draw(axes: Any, line: Line, smoothed: bool) -> None:
    values = line.values
    if smoothed and line.weight == "full":
        axes.plot(line.steps, values, color=line.colour, alpha=0.28, linewidth=0.8)
    if smoothed:
        values = smooth(values, max(3, len(values) // 10))
    width, alpha = (0.8, 0.5) if line.weight == "thin" else (1.7, 1.0)
    dot = "o" if len(values) == 1 or line.low else None
    if line.low:
        axes.fill_between(line.steps, line.low, line.high, color=line.colour, alpha=0.13, linewidth=0)
    bottom, top = axes.get_ylim()
    inside = all(bottom <= value <= top for value in line.values)  # a line on the edge keeps its full width
    axes.plot(
        line.steps, values, clip_on=not inside, color=line.colour, linewidth=width, alpha=alpha,
        label=line.label or None, marker=dot, markersize=3, linestyle="--" if line.dashed else "-",
    )  # fmt: skip


def style_axes(axes: Any, title: str, along: str) -> None:
    """The common look of all charts: a title at the left, a grid of horizontal lines, nothing around it."""
    # y: where it stands anyway; without it matplotlib measures all labels to find that out, a quarter of a chart's time
    axes.set_title(title, loc="left", x=-0.12, y=1.0, fontsize=9, color=INK, fontweight="bold", pad=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(which="both", colors=SOFT, length=0, labelsize=7.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(along, color=SOFT, fontsize=7.5)


def _scale_axes(axes: Any, panel: Panel, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if max(x for line in lines for x in line.steps) >= 10_000 and not panel.doubling:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
    if panel.doubling:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    if len(steps := {x for line in lines for x in line.steps}) == 1:
        (only,) = steps
        axes.set_xticks([only], [f"{only:g}"])
        axes.set_xlim(*((only / 2, only * 2) if panel.doubling else (only - 1, only + 1)))
    values = [value for line in lines for value in (*line.values, *line.low, *line.high) if not math.isnan(value)]
    if panel.log and min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.01)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))
    elif max(values) < 0.01:
        axes.yaxis.set_major_formatter(FuncFormatter(_tiny))
    axes.set_ylim(*value_range(min(values), max(values), panel.percent))


def _tiny(amount: float, _: int) -> str:
    """An amount far below 1 within the room that its axis has: 1.5e-4."""
    return f"{amount:.1e}".replace("e-0", "e-").replace(".0e", "e") if amount else "0"


def value_range(low: float, high: float, percent: bool) -> tuple[float, float]:
    """The ends of the axis for values from `low` to `high`: a share stays within 0 and 1, an amount at 0 or above."""
    if percent:
        room = max(0.04, 0.12 * (high - low))
        low, high = (min(1.0, max(0.0, end)) for end in (low, high))
        return max(0.0, low - room), min(1.0, high + room)
    if low == high:
        return (0.0, 2 * high) if high > 0 else (2 * low, 0.0) if low < 0 else (0.0, 1.0)
    room = 0.08 * (high - low)
    return max(0.0, low - room) if low >= 0 else low - room, high + room


def _inline(svg: str, title: str) -> str:
    """The <svg> element alone: size and font left to the page, a name for screen readers, no ids that could clash."""
    svg = svg[svg.index("<svg") :]
    noise = (
        r"\s*<metadata>.*?</metadata>", r"\s*<style.*?</style>", r' id="[A-Za-z.]+[\d.]*_\d+"', r' xmlns:xlink="[^"]*"',
        r' transform="rotate\(-0 [^"]*"', r"font-family: [^;\"]*;",
    )  # fmt: skip
    svg = re.sub("|".join(noise), "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("xlink:href", "href")
    return with_variables(svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))
