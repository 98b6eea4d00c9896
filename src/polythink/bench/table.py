"""The result of `polythink bench decode` as Markdown. Without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polythink.run.table import markdown_table

COLUMNS = (
    "case",
    "contender",
    "ms a step",
    "quartiles",
    "CPU ms",
    "x floor",
    "tokens/s",
    "join, steps",
    "KV MB",
    "GPU busy",
)


def decode_tables(result: Mapping[str, Any]) -> str:
    """Head, the table of cases, that of paths, and what did not take part."""
    parts = [head(result), case_table(result["cases"])]
    if result["widths"]:
        parts.append("step(P) / step(1), beside the floor's own ratio:\n\n" + width_table(result["widths"]))
    parts += [profile_table(case) for case in result["cases"] if any("profile" in c for c in _found(case).values())]
    missing = [f"{name}: {why}" for name, why in result["absent"].items()]
    missing += [f"{case['case']}, {name}: {why}" for case in result["cases"] for name, why in case["skipped"].items()]
    if missing:
        parts.append("Not measured:\n" + "\n".join(f"* {line}" for line in missing) + "\n")
    return "\n".join(parts)


def head(result: Mapping[str, Any]) -> str:
    model, where = result["model"], result["machine"]
    return (
        f"{where['date']}, {where['device']}, {where['threads']} threads, torch {where['torch']}, transformers "
        f"{where['transformers']}\n{model['name']} ({model['architecture']}, {model['dtype']}): "
        f"{model['weight_bytes'] / 1e6:,.1f} MB of weights a step, {model['kv_bytes_per_token'] / 1e3:,.1f} kB of keys "
        f"and values a token; {result['rounds']} rounds of {result['steps']} steps\n"
    )


def case_table(cases: Iterable[Mapping[str, Any]]) -> str:
    """One row per case for the floor, and one per contender."""
    rows: list[list[Any]] = []
    for case in cases:
        machine = f"{case['bandwidth'] / 1e9:,.1f} GB/s, {case['flops'] / 1e9:,.0f} GFLOP/s"
        rows.append(
            [case["case"], "floor", _ms(case["floor_ms"]), machine, "", "1.00", "", "", _mb(case["kv_needed"]), ""]
        )
        for name, found in _found(case).items():
            busy, join, worked = found.get("gpu_busy"), found["join_steps"], found["cpu_ms"]
            rows.append([
                case["case"],
                f"{name} ({found['about']})" if found["about"] else name,
                _ms(found["ms"]),
                f"{_ms(found['ms_q25'])}-{_ms(found['ms_q75'])}",
                "" if worked is None else _ms(worked),
                f"{found['over_floor']:.2f}",
                f"{found['tokens_per_s']:,.0f}",
                "" if join is None else f"{join:.1f}",
                _mb(found["kv_bytes"]),
                "" if busy is None else f"{busy:.0%}",
            ])  # fmt: skip
    return markdown_table(COLUMNS, rows)


def width_table(widths: Iterable[Mapping[str, Any]]) -> str:
    columns = ("contender", "prompt", "P", "step(P)/step(1)", "of the floor", "x the floor's")
    return markdown_table(columns, [
        [w["contender"], w["prompt"], w["paths"], f"{w['ratio']:.2f}", f"{w['floor_ratio']:.2f}",
         f"{w['over_floor_ratio']:.2f}"]
        for w in widths
    ])  # fmt: skip


def profile_table(case: Mapping[str, Any]) -> str:
    """Where a step of each engine goes; shares are of what the profiler saw on the host, and of the GPU's time."""
    rows: list[list[Any]] = []
    for name, found in _found(case).items():
        if inside := found.get("profile"):
            rows += [[name, f"clock: {part}", _ms(ms), ""] for part, ms in inside["parts"].items()]
            rows += _shares(name, "host", inside["operations"], sum(inside["operations"].values()))
            rows.append([name, "host: calls of operations", inside["calls"], ""])
        if gpu := found.get("gpu"):
            rows.append([name, f"GPU: {gpu['kernels']} kernels", _ms(gpu["gpu_ms"]), ""])
            rows += _shares(name, "GPU", gpu["top_kernels"], gpu["gpu_ms"])
    return f"Where a step of {case['case']} goes:\n\n{markdown_table(('engine', 'part', 'ms', 'share'), rows)}"


def _shares(name: str, where: str, times: Mapping[str, float], whole: float) -> list[list[Any]]:
    return [[name, f"{where}: {what}", _ms(ms), f"{ms / (whole or 1):.0%}"] for what, ms in times.items()]


def _found(case: Mapping[str, Any]) -> Mapping[str, Any]:
    return case["contenders"]


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f}"
