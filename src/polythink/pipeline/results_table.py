"""The table of an experiment: every metric with its interval, its paired difference to the first arm, and its gain.

With one seed, or where all seeds share one evaluation, intervals are over problems: the evaluation's own bootstrap, and
for differences a paired bootstrap over the same problems. Otherwise they are over seeds: t intervals, differences taken
seed by seed. The caption says which. The gain of an arm is the paired difference to its own first evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import inf, isnan, nan, sqrt
from pathlib import Path
from statistics import mean, stdev

from polythink.evaluate.config import problems_of
from polythink.evaluate.metrics import SCORES, Estimate, describe, difference, general_key, show
from polythink.pipeline.evaluated import Evaluated
from polythink.report.findings import judged
from polythink.report.page import page, wide
from polythink.run.folder import read_json, write_json, write_text
from polythink.run.table import html_table, markdown_table

# two-sided 95% quantiles of Student's t for 1..30 degrees of freedom
T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423,
)  # fmt: skip
# besides those of several samples (mean@8): metrics whose difference and gain are shown
ACCURACIES = ("greedy", "best_of_k", "exact", *SCORES, "loss")
Estimates = dict[str, dict[str, Estimate]]  # problem set -> metric -> estimate


@dataclass(frozen=True)
class Column:
    """One column of the table: the arms that share an evaluation, and its results over the seeds."""

    arms: tuple[str, ...]
    stage: str
    after: str
    position: int
    seeds: tuple[int, ...]
    seconds: float
    results: Estimates  # means over seeds
    differences: Estimates  # to the first arm, at the same position
    gains: Estimates  # over the arm's own first evaluation
    gap: float | None = None  # the largest of all seeds
    mismatch_kl: float | None = None  # the mean over the seeds
    paired: tuple[int, ...] = ()  # the seeds that the first arm has at this position too


# ---- numbers ----


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and 95% t interval of one value per seed; no interval for one seed."""
    if len(values) == 1:
        return Estimate(values[0], nan, nan)
    df = len(values) - 1
    t = T_95[df - 1] if df <= len(T_95) else 1.95996 + 2.372 / df + 2.82 / df**2
    half = t * stdev(values) / sqrt(len(values))
    return Estimate(mean(values), mean(values) - half, mean(values) + half)


def measured_once(runs: Sequence[Evaluated]) -> bool:
    """Whether there is only one evaluation: of one seed, or shared by all seeds."""
    return len({run.folder for run in runs}) == 1


def results(runs: Sequence[Evaluated]) -> Estimates:
    """Every metric over the seeds of a column; without a value for some seed (a share of nothing) it is left out."""

    def measured(name: str, metric: str) -> Estimate | None:
        found = [run.sets[name]["metrics"].get(metric) for run in runs if name in run.sets]
        if any(m is None or m["value"] is None for m in found):
            return None
        if measured_once(runs):
            return Estimate(*(nan if found[0][key] is None else found[0][key] for key in ("value", "low", "high")))
        return clamp(metric, over_seeds([m["value"] for m in found]))

    return _estimates(runs, measured)


def differences(runs: Sequence[Evaluated], others: Sequence[Evaluated]) -> Estimates:
    """`runs` minus `others`: seed by seed, or problem by problem where both have one evaluation; others left out.

    Nothing where the problems are not the same: a set that was cut elsewhere is another set.
    """

    def compare(name: str, metric: str) -> Estimate | None:
        ours, theirs = ({run.seed: run for run in side if name in run.sets} for side in (runs, others))
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        values = [[run.sets[name]["metrics"].get(metric, {}).get("value") for run in pair] for pair in pairs]
        if not pairs or any(value is None for pair in values for value in pair):
            return None
        if any(problems_of(a.sets[name]) != problems_of(b.sets[name]) for a, b in pairs):
            return None
        if not (measured_once(runs) and measured_once(others)):
            return over_seeds([a - b for a, b in values])
        a, b = (run.metrics[name].get(metric) for run in pairs[0])
        return difference(a, b) if a and b and a.keys == b.keys else None

    return _estimates(runs, compare)


def _estimates(runs: Sequence[Evaluated], of: Callable[[str, str], Estimate | None]) -> Estimates:
    """`of` for each problem set of a column and each of its metrics, in order; without a value it is left out."""
    found: Estimates = {}
    for name in dict.fromkeys(name for run in runs for name in run.sets):
        metrics = dict.fromkeys(m for run in runs if name in run.sets for m in run.sets[name]["metrics"])
        found[name] = {metric: one for metric in metrics if (one := of(name, metric)) is not None}
    return found


def clamp(metric: str, estimate: Estimate) -> Estimate:
    """The part of an interval that the metric can take: an amount is not negative, a share lies between 0 and 1."""
    if isnan(estimate.low):
        return estimate
    least = -1.0 if metric.startswith("gain_") else 0.0  # the paired gain of a comparison may be negative
    most = 1.0 if describe(metric).unit == "percent" else inf
    return Estimate(estimate.value, max(least, estimate.low), min(most, estimate.high))


# ---- the table ----


def columns(evaluated: Sequence[Evaluated], first_arm: str) -> list[Column]:
    """The columns by position and arm. Arms that share all evaluations of a position share a column."""
    runs: dict[tuple[str, int], list[Evaluated]] = {}
    for run in evaluated:
        runs.setdefault((run.arm, run.position), []).append(run)
    shared: dict[tuple, list[str]] = {}
    for arm, position in sorted(runs, key=lambda key: key[1]):
        shared.setdefault((position, *(run.folder for run in runs[arm, position])), []).append(arm)
    found = []
    for (position, *_), arms in shared.items():
        here = runs[arms[0], position]
        start = min(p for arm, p in runs if arm == arms[0])
        reference = () if first_arm in arms else runs.get((first_arm, position), ())
        earlier = () if start == position else runs[arms[0], start]
        found.append(
            Column(
                arms=tuple(arms),
                stage=here[0].stage,
                after=here[0].after,
                position=position,
                seeds=tuple(run.seed for run in here),
                seconds=mean(run.seconds for run in here),
                results=results(here),
                differences=differences(here, reference),
                gains=differences(here, earlier),
                gap=max((run.gap for run in here if run.gap is not None), default=None),
                mismatch_kl=_mean(run.mismatch_kl for run in here),
                paired=tuple(run.seed for run in here if run.seed in {other.seed for other in reference}),
            )
        )
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


@dataclass(frozen=True)
class Table:
    """The finished table: `head` and `rows` are shown, `columns` holds all numbers."""

    name: str
    caption: str
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    head: list[str]
    rows: list[list[str]]

    @property
    def markdown(self) -> str:
        return f"{markdown_table(self.head, self.rows)}\n{self.caption}\n"

    @property
    def html(self) -> str:
        return html_table(self.head, self.rows, self.caption)

    @property
    def headline_html(self) -> str:
        """What the intervals of the differences allow to say: a line per problem set, on the last evaluations."""
        lines = headlines(self.columns)
        return "".join(f"<p>{escape(line)}</p>" for line in lines)

    def write(self, folder: Path) -> None:
        """Write table.md, table.json and table.html."""
        facts = {key: getattr(self, key) for key in ("name", "caption", "seeds", "head", "rows")}
        write_json(folder / "table.json", {**facts, "columns": [*map(asdict, self.columns)]})
        write_text(folder / "table.md", self.markdown)
        body = [f"<h1>{escape(self.name)}</h1>", self.headline_html, wide(self.html, len(self.head))]
        write_text(folder / "table.html", page(self.name, body))


def headlines(found: Sequence[Column]) -> list[str]:
    """Per problem set, accuracy (or loss) of each arm minus the first arm's, after the last stage; whether it shows."""
    last = [column for column in found if column.position == -1 and column.differences]
    several = len({seed for column in found for seed in column.seeds}) > 1
    names = dict.fromkeys(name for column in last for name in column.differences)
    lines = []
    for name in names:
        said = []
        for column in last:
            by_metric = column.differences.get(name, {})
            metric = next((m for m in by_metric if m.startswith(("mean@", "exact", "bleu", "rouge", "loss"))), None)
            if metric:
                of = f"{metric}, one seed" if several and len(column.paired) == 1 else metric
                said.append(f"{', '.join(column.arms)} {judged(metric, vars(by_metric[metric]))} ({of})")
        lines += [f"{name}, difference to the first arm: {'; '.join(said)}."] if said else []
    return lines


def read_table(folder: Path) -> Table:
    """The table that `Table.write` wrote into a folder; one of an older version is laid out anew."""
    data = read_json(folder / "table.json")

    def estimates(of: dict) -> Estimates:
        return {
            name: {metric: Estimate(*(nan if e[k] is None else e[k] for k in ("value", "low", "high")))
                   for metric, e in by_metric.items()}
            for name, by_metric in of.items()
        }  # fmt: skip

    found = []
    for row in data["columns"]:
        numbers = {key: estimates(row[key]) for key in ("results", "differences", "gains")}
        found.append(Column(**row | numbers | {key: tuple(row.get(key, ())) for key in ("arms", "seeds", "paired")}))
    head, rows = (data["head"], data["rows"]) if "head" in data else table_rows(found)
    return Table(data["name"], data["caption"], tuple(data["seeds"]), tuple(found), head, rows)


def make_table(name: str, first_arm: str, evaluated: Sequence[Evaluated], wanted: Sequence[str] = ()) -> Table:
    """The table of all finished evaluations. `wanted` names the metrics to show; all where it is empty."""
    found = columns(evaluated, first_arm)
    seeds = tuple(sorted({run.seed for run in evaluated}))
    problems: dict[str, dict[int, list[str]]] = {}  # set -> number of problems -> stages with that number
    asked_of: dict[str, set[Hashable]] = {}
    for run in evaluated:
        for problem_set, data in run.sets.items():
            asked_of.setdefault(problem_set, set()).add(problems_of(data))
            stages = problems.setdefault(problem_set, {}).setdefault(data["n"], [])
            stages += [run.stage] * (run.stage not in stages)
    missing_seeds = any(len(column.seeds) < len(seeds) for column in found)
    text = caption(seeds, first_arm, problems, missing_seeds) if evaluated else "Nothing was evaluated."
    if several := [name for name, found_of in asked_of.items() if len(found_of) > 1]:
        text += (
            f" Not the same problems in every evaluation: {', '.join(several)}; between two that were asked different "
            "problems there is no difference or gain."
        )
    measured = {metric for column in found for by_metric in column.results.values() for metric in by_metric}
    if missing := [metric for metric in wanted if metric not in measured]:
        text += f" Asked for and not measured: {', '.join(missing)}."
    return Table(name, text, seeds, tuple(found), *table_rows(found, wanted))


def caption(
    seeds: Sequence[int], first_arm: str, problems: Mapping[str, Mapping[int, Sequence[str]]], missing: bool = False
) -> str:
    """What the numbers are, in one paragraph. `problems`: for each set, the number of problems by stage.

    `missing`: some column lacks seeds that others have, so that its brackets may be of another kind.
    """

    def size(by_number: Mapping[int, Sequence[str]]) -> str:
        several = len(by_number) > 1
        return "; ".join(f"{n} in {', '.join(stages)}" if several else str(n) for n, stages in by_number.items())

    sizes = ", ".join(f"{name} ({size(by_number)})" for name, by_number in problems.items())
    how = (
        f"Mean over {len(seeds)} seeds. Brackets: 95% t interval over seeds, differences and gains seed by seed; "
        "where all seeds share one evaluation, 95% bootstrap interval over problems."
    )
    if missing:
        how = (
            f"Mean over the seeds that were measured, {len(seeds)} unless the column's title says fewer. Brackets: "
            "over several seeds, 95% t interval, differences and gains seed by seed; in a column of one seed, or where "
            "all seeds share one evaluation, 95% bootstrap interval over problems. A difference or gain of one seed "
            "alone has an interval only where both sides were measured once."
        )
    if len(seeds) == 1:
        how = "One seed. Brackets: 95% bootstrap interval over problems; differences and gains: over the same problems."
    return (
        f"Tokens and critical path per response, seconds of training; logprob_gap: the largest of any step of "
        f"reinforcement learning, mismatch_kl: the mean, both in nats. Problems: {sizes}. {how} "
        f"Difference: to the arm {first_arm}. Gain: over the arm's own first evaluation. Both of shares in points."
    )


def table_rows(found: Sequence[Column], wanted: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a row per set and metric, with difference and gain below an accuracy or loss; then the seconds."""
    head = ["problems", "metric", *_titles(found)]
    rows: list[list[str]] = []
    for name in dict.fromkeys(name for column in found for name in column.results):
        metrics = dict.fromkeys(m for column in found for m in column.results.get(name, {}))
        label = name  # shown in the first of its rows only
        # the costs of a method are shown only if they are asked for
        for metric in (m for m in metrics if m in wanted or not (wanted or "." in m.partition("@")[0])):
            cells = [_cell(metric, column.results.get(name, {}).get(metric)) for column in found]
            rows.append([label, metric, *cells])
            label = ""
            for kind in ("differences", "gains"):
                cells = [_cell(metric, getattr(column, kind).get(name, {}).get(metric), "+") for column in found]
                if ("@" in metric or general_key(metric) in ACCURACIES) and any(cells):
                    rows.append(["", kind.removesuffix("s"), *cells])
    rows.append(["", "seconds", *(f"{column.seconds:.0f}" for column in found)])
    for label, key in (("logprob_gap", "gap"), ("mismatch_kl", "mismatch_kl")):
        cells = ["" if (value := getattr(column, key)) is None else f"{value:.2g}" for column in found]
        rows += [["", label, *cells]] if any(cells) else []
    return head, rows


def _titles(found: Sequence[Column]) -> list[str]:
    """Arms and the stage after which they were evaluated; where needed, the evaluation's name and missing seeds."""
    arms = {arm for column in found for arm in column.arms}
    seeds = {seed for column in found for seed in column.seeds}
    who = ["all arms" if len(column.arms) == len(arms) > 1 else ", ".join(column.arms) for column in found]
    plain = [f"{w}, after {column.after}" for w, column in zip(who, found, strict=True)]
    return [
        title
        + (f" ({column.stage})" if plain.count(title) > 1 else "")
        + (f" ({len(column.seeds)} of {len(seeds)} seeds)" if len(column.seeds) < len(seeds) else "")
        for title, column in zip(plain, found, strict=True)
    ]


def _cell(metric: str, estimate: Estimate | None, sign: str = "") -> str:
    return show(metric, vars(estimate), sign) if estimate else ""
