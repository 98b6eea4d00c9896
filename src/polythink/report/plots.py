"""How a run went: its folder read leniently, and learning curves drawn as inline SVG.

A run that is unfinished, or whose rows lack some metric, is shown as far as it goes: nothing here is required but the
folder itself.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.run.config import parse_yaml
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl

# ---- reading a run folder ----


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its metrics by step, its evaluations (name -> eval.json), and where its samples lie."""

    name: str
    kind: str
    folder: Path
    rows: list[dict]
    evals: dict[str, dict]
    result: dict
    findings: list[dict] = field(default_factory=list)  # of `compare` and `tunnel`, one a problem set

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, rows without it left out."""
        found = [(row.get("step", i + 1), row[key]) for i, row in enumerate(self.rows) if is_number(row.get(key))]
        return [float(step) for step, _ in found], [float(value) for _, value in found]

    def samples(self, name: str = "") -> list[dict]:
        """The rows of its samples file, empty without one."""
        return _rows(self.folder / f"samples{'-' + name if name else ''}.jsonl")


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds."""

    name: str
    folder: Path
    recipe: dict
    environment: dict
    stages: list[Stage]


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run; `UserError` for a folder without one. A lone stage or eval folder is a run of one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder {str(folder)!r}; give the folder that `polythink train` or `eval` wrote")
    text = (folder / "recipe.yaml").read_text(encoding="utf-8") if (folder / "recipe.yaml").is_file() else "{}"
    recipe = parse_yaml(text, str(folder / "recipe.yaml")) or {}
    listed = _json(folder / "stages.json") or []
    stages = [
        _stage(s.get("name", "?"), s.get("kind", "?"), folder / s.get("folder", s.get("name", ""))) for s in listed
    ]
    if not stages:
        stages = [_stage(folder.name, "eval" if list(folder.glob("eval*.json")) else "?", folder)]
        if not (recipe or stages[0].rows or stages[0].evals or stages[0].findings):
            raise UserError(f"{str(folder)!r} holds no run; give the folder that `polythink train` or `eval` wrote")
    return RunRecord(recipe.get("name", folder.name), folder, recipe, _json(folder / "environment.json") or {}, stages)


def _stage(name: str, kind: str, folder: Path) -> Stage:
    evals = {
        path.stem.removeprefix("eval").lstrip("-"): _json(path) or {} for path in sorted(folder.glob("eval*.json"))
    }
    found = [_json(path) for kind in ("compare", "tunnel") for path in sorted(folder.glob(f"{kind}*.json"))]
    result = _json(folder / "result.json") or {}
    return Stage(name, kind, folder, _rows(folder / "metrics.jsonl"), evals, result, found)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path) if path.is_file() else []


def is_number(value: Any) -> bool:
    """Whether a metric has a value that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- curves ----


@dataclass(frozen=True)
class Panel:
    """One small chart: its title, the metrics drawn in it (key -> label), and how its axis is read."""

    title: str
    keys: Mapping[str, str]
    percent: bool = False
    log: bool = False
    exact: bool = False  # not noisy: nothing to smooth
    along: str = "step"  # what the horizontal axis says
    doubling: bool = False  # that axis is logarithmic, to the base of 2


PANELS: dict[str, tuple[Panel, ...]] = {
    "text": (
        Panel("Loss (nats a token)", {"valid_loss": "validation", "loss": "training"}),
        Panel("Gradient norm", {"grad_norm": "norm"}),
        Panel("Learning rate", {"lr": "lr"}, exact=True),
    ),
    "sft": (
        Panel("Loss (nats a token)", {"loss": "loss"}),
        Panel("Gradient norm", {"grad_norm": "norm"}),
        Panel("Learning rate", {"lr": "lr"}, exact=True),
    ),
    "grpo": (
        Panel("Reward", {"reward": "reward"}),
        Panel("Accuracy", {"accuracy": "accuracy"}, percent=True),
        Panel("Parallel ratio", {"parallel_ratio": "parallel ratio"}, percent=True),
        Panel("Length in tokens", {"tokens": "all tokens", "critical_path": "critical path"}),
        Panel("Position of the first block", {"first_block": "first block"}, percent=True),
        Panel("Log-probability gap", {"logprob_gap": "largest gap"}, log=True),
    ),
}
MORE_PANELS: dict[str, tuple[Panel, ...]] = {
    "grpo": (
        Panel("Well-formed traces", {"well_formed": "well formed"}, percent=True),
        Panel("Groups without spread", {"zero_spread": "zero spread"}, percent=True),
        Panel("Cuts a trace", {"truncated": "truncated"}),
        Panel("Entropy (nats a token)", {"entropy": "entropy"}),
        Panel("Gradient norm", {"grad_norm": "norm"}),
        Panel("KL to the reference", {"kl": "kl"}),
    ),
}
COLOURS = ("#2f6db3", "#d1722b", "#3a8f6b", "#8a5fb0", "#b8434e", "#6f7782")
INK, SOFT, GRID = "#24292f", "#6b7280", "#e8eaee"


@dataclass(frozen=True)
class Line:
    """One metric over steps. `weight`: "full" shows the raw values too, "thin" and "bold" only the smoothed ones.

    `low` and `high` are the ends of the values' intervals: such a line has its points marked.
    """

    label: str
    colour: str
    steps: Sequence[float]
    values: Sequence[float]
    weight: str = "full"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


def stage_chart(stage: Stage, panel: Panel) -> str | None:
    """The panel of one stage, None where none of its metrics was written."""
    lines = [Line(label, COLOURS[i], *stage.series(key)) for i, (key, label) in enumerate(panel.keys.items())]
    lines = [line for line in lines if line.values]
    return chart(lines, panel, shaded=_other_reward_spans(stage)) if lines else None


def arms_chart(arms: Mapping[str, Sequence[Stage]], panel: Panel) -> str | None:
    """The panel's first metric of several arms, one colour an arm; None where no arm has it.

    An arm is one stage for each seed: with several, each is a thin line and their mean is bold.
    """
    key = next(iter(panel.keys))
    lines = []
    for i, (label, stages) in enumerate(arms.items()):
        colour = COLOURS[i % len(COLOURS)]
        seeds = [(steps, values) for steps, values in (stage.series(key) for stage in stages) if values]
        if len(seeds) > 1:
            lines += [Line("", colour, *series, weight="thin") for series in seeds]
            lines.append(Line(label, colour, *_mean_series(seeds), weight="bold"))
        elif seeds:
            lines.append(Line(label, colour, *seeds[0]))
    return chart(lines, panel) if lines else None


def _mean_series(seeds: Sequence[tuple[list[float], list[float]]]) -> tuple[list[float], list[float]]:
    """The mean over seeds at the steps that all of them have."""
    by_step = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    common = sorted(set.intersection(*(set(one) for one in by_step)))
    return common, [sum(one[step] for one in by_step) / len(by_step) for step in common]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average; the window shrinks at both ends."""
    half = window // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(w) / len(w) for w in windows]


def _other_reward_spans(stage: Stage) -> list[tuple[float, float]]:
    """The steps at which another reward held than at the first step, as spans."""
    names = [row.get("reward_name") for row in stage.rows]
    others = [row.get("step", 0) for row, name in zip(stage.rows, names, strict=True) if name != names[0]]
    spans: list[tuple[float, float]] = []
    for step in others:
        joined = spans and spans[-1][1] == step - 0.5
        spans[-1:] = [(spans[-1][0], step + 0.5)] if joined else [*spans[-1:], (step - 0.5, step + 0.5)]
    return spans


def chart(lines: Sequence[Line], panel: Panel, shaded: Sequence[tuple[float, float]] = ()) -> str:
    """A small line chart as an SVG element. Lines of many steps are smoothed, the raw values pale behind them."""

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.12, 0.185, 0.86, 0.67))
        _style(axes, panel, lines)
        for start, end in shaded:
            axes.axvspan(start, end, color="#f3efe3", linewidth=0)
        for line in lines:
            _draw(axes, line, smoothed=len(line.values) >= 12 and not panel.exact)
        if len(panel.keys) > 1:
            axes.legend(frameon=False, fontsize=7, loc="best", handlelength=1.2)

    return svg_figure(panel.title, (3.5, 2.1), draw)


def svg_figure(title: str, inches: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """What `draw(figure)` puts on an empty figure of that size, as an SVG element that needs nothing else."""
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
    label = line.label or None
    axes.plot(
        line.steps, values, color=line.colour, linewidth=width, alpha=alpha, label=label, marker=dot, markersize=3,
        linestyle="--" if line.dashed else "-",
    )  # fmt: skip


def _style(axes: Any, panel: Panel, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.set_title(panel.title, loc="left", x=-0.12, fontsize=9, color=INK, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(which="both", colors=SOFT, length=0, labelsize=7.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(panel.along, color=SOFT, fontsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if panel.doubling:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    values = [value for line in lines for value in (*line.values, *line.low, *line.high) if not math.isnan(value)]
    if panel.log and min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.01)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))
        low, high = min(values), max(values)
        room = max(0.04, 0.12 * (high - low))
        axes.set_ylim(max(-0.02, low - room), min(1.02, high + room))


def _inline(svg: str, title: str) -> str:
    """Only the <svg> element: sized and spelled by the page, named for screen readers, without ids that could clash."""
    svg = svg[svg.index("<svg") :]
    for noise in (
        r"\s*<metadata>.*?</metadata>",
        r"\s*<style.*?</style>",
        r' id="[A-Za-z.]+[\d.]*_\d+"',
        r' xmlns:xlink="[^"]*"',
        r' transform="rotate\(-0 [^"]*"',
    ):
        svg = re.sub(noise, "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*;", "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
