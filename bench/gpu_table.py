"""The table at the end of `bench/gpu.sh`: python bench/gpu_table.py FOLDER OUT

FOLDER holds parts.tsv (name, status, seconds of each part), and small.json, peers.json, large.json, sharing.json,
profile.json (results of `polythink bench decode`) and drawing.json, as far as they came about. Writes summary.md and
results.json into OUT and prints the summary. Exit status 1 if a correctness part failed or did not run.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polythink.bench.table import decode_tables
from polythink.run.folder import write_json, write_text
from polythink.run.table import markdown_table

CHECKS = ("wheels", "tests", "cuda_check", "graph_check")
MOST_MS = {  # milliseconds a step
    "small": {"1x1@512": 2.0, "1x8@512": 2.0, "8x8@512": 2.5, "64x8@512": 5.0},
    "large": {"1x8@512": 3.5, "64x8@512": 8.0},
}
AHEAD = 2.5  # times faster than transformers' continuous batching
SHARED = {"1x8@8192": "8x1@8192", "1:64x1@2048": "64x1@2048"}  # the same lengths, with and without a shared prompt


def found(result: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """By case: what the fastest engine took, and who it is."""
    best = {}
    for case in (result or {}).get("cases", ()):
        engines = {n: c for n, c in case["contenders"].items() if n.startswith("engine")}
        if engines:
            name = min(engines, key=lambda n: engines[n]["ms"])
            best[case["case"]] = {**engines[name], "name": name, "others": case["contenders"]}
    return best


def bars(results: dict[str, Any]) -> Iterator[tuple[str, str, float | None, bool | None]]:
    """(what, wanted, measured, reached) of everything that must hold; None where it was not measured."""
    small = found(results.get("small"))
    for part, limits in MOST_MS.items():
        best = found(results.get(part))
        for case, most in limits.items():
            value = best[case]["ms"] if case in best else None
            yield f"{part} model, {case}: ms a step", f"<= {most}", value, None if value is None else value <= most
    for case in ("1x8@512", "8x8@512"):
        best = found(results.get("peers")).get(case, {})
        other = best.get("others", {}).get("continuous")
        value = other["ms"] / best["ms"] if other else None
        about = f" ({other['about']})" if other else ""
        yield (
            f"{case}: times faster than continuous batching{about}",
            f">= {AHEAD}",
            value,
            None if value is None else value >= AHEAD,
        )
    for case in ("1x8@512", "64x8@512"):
        value = small.get(case, {}).get("gpu_busy")
        yield f"{case}: GPU busy share of a step", ">= 0.9", value, None if value is None else value >= 0.9
    name = small.get("1x8@512", {}).get("name")
    ratios = (results.get("small") or {}).get("widths", ())
    value = next((w["over_floor_ratio"] for w in ratios if (w["contender"], w["paths"]) == (name, 8)), None)
    yield "step(8)/step(1) over the floor's own", "<= 1.1", value, None if value is None else value <= 1.1
    shared = found(results.get("sharing"))
    for case, apart in SHARED.items():
        value = shared[apart]["ms"] / shared[case]["ms"] if case in shared and apart in shared else None
        yield f"{case}: times faster than {apart}", ">= 2", value, None if value is None else value >= 2
    value = (results.get("drawing") or {}).get("s")
    yield "8 x 8 samples of 2 paths drawn, s", "<= 0.6", value, None if value is None else value <= 0.6


def summary(results: dict[str, Any], parts: list[list[str]], counted: str) -> str:
    verdict = {True: "yes", False: "**no**", None: "not measured"}
    rows = [[what, wanted, value, verdict[reached]] for what, wanted, value, reached in bars(results)]
    text = [
        markdown_table(("part", "status", "s"), [[n, "passed" if s == "0" else f"**{s}**", t] for n, s, t in parts]),
        f"tests: {counted}\n",
    ]
    for name in ("small", "peers", "large", "sharing", "profile"):
        if results.get(name):
            text.append(f"## {name}\n\n{decode_tables(results[name])}")
    text.append(f"## What must hold\n\n{markdown_table(('what', 'wanted', 'measured', 'reached'), rows)}")
    return "\n".join(text)


def read(folder: Path) -> tuple[dict[str, Any], list[list[str]], str]:
    names = (*MOST_MS, "peers", "sharing", "profile", "drawing")
    files = {name: folder / f"{name}.json" for name in names}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    file = folder / "parts.tsv"
    parts = list(csv.reader(file.read_text().splitlines(), delimiter="\t")) if file.is_file() else []
    log = folder / "tests.log"
    return results, parts, counted(log.read_text()) if log.is_file() else "not counted"


def counted(log: str) -> str:
    """What pytest said at its end, or how many tests had passed and failed where it did not get there."""
    if ends := re.findall(r"^.*\d+ (?:passed|failed).*$", log, re.MULTILINE):
        return ends[-1].strip("= ")
    words = re.findall(r"\b(PASSED|FAILED|ERROR)\b", log)
    return ", ".join(f"{words.count(w)} {w.lower()}" for w in ("PASSED", "FAILED", "ERROR")) + ", not to the end"


def main() -> int:
    folder, out = map(Path, sys.argv[1:3])
    results, parts, counted = read(folder)
    checks = cuda_check(folder)
    text = summary(results, parts, counted) + (f"\n## cuda_check\n\n{checks}" if checks else "")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", {"parts": parts, "tests": counted, **results})
    write_text(out / "summary.md", text)
    print(text)
    passed = {name for name, status, _ in parts if status == "0"}
    return int(any(name in CHECKS and name not in passed for name, *_ in parts) or "tests" not in passed)


def cuda_check(folder: Path) -> str:
    file = folder / "cuda_check.log"
    lines = file.read_text().splitlines() if file.is_file() else []
    return "\n".join(line for line in lines if line.startswith("|")) + "\n" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
