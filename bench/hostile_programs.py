"""Programs that try to do harm or to be counted as right, thousands of them, and what became of each.

    python bench/hostile_programs.py [--programs 10000] [--seed 0] [--seconds 1] [--workers 2] [--first 0]

Kinds from tests/helpers/hostile.py with random variations (before or in the function, hidden in a try or not) and
ordinary programs, right and wrong. Prints a Markdown table: verdicts by kind, the slowest, processes and files that
were left. `--first` and `--out FILE` run a long row in pieces: each adds its counts to the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.hostile import (
    BURDEN,
    CHEATS,
    HARM,
    KINDS,
    TEST,
    Hostile,
    left_processes,
    ordinary,
    program,
    strays,
    victim_folder,
)  # fmt: skip
from polythink.problems.sandbox import Limits, Outcome, Sandbox

ORDINARY = 0.2  # share of ordinary programs


def draw(seed: int, index: int, victim: Path) -> Hostile:
    """The program of that number."""
    rng = random.Random(f"{seed}/{index}")
    if rng.random() < ORDINARY:
        return ordinary(rng)
    return program(rng.choice(KINDS), f"hostile-{seed}-{index}", victim, rng.random() < 0.5, rng.random() < 0.3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--unfiltered", action="store_true", help="without the kernel's filter")
    parser.add_argument("--out", type=Path, help="a JSON file to which counts are added")
    given = parser.parse_args()
    counts: dict = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    victim = victim_folder(Path(tempfile.mkdtemp(prefix="victims-")))
    mark = f"hostile-{given.seed}-"
    before = strays(mark)
    limits = Limits(seconds=given.seconds, filter=not given.unfiltered)
    warnings.simplefilter("ignore")

    def run(index: int) -> tuple[Hostile, Outcome, float]:
        hostile = draw(given.seed, index, victim.folder)
        started = time.monotonic()
        outcome = sandbox.run(hostile.source, TEST)
        return hostile, outcome, time.monotonic() - started

    with Sandbox(given.workers, limits) as sandbox:
        sandbox.run("f = abs", TEST)  # so that the start of a keeper is nobody's time
        with ThreadPoolExecutor(given.workers) as pool:
            numbers = range(given.first, given.first + given.programs)
            for number, (hostile, outcome, seconds) in zip(numbers, pool.map(run, numbers), strict=True):
                row = counts.setdefault(hostile.kind, {"programs": 0, "verdicts": {}, "slowest": 0.0, "bad": []})
                row["programs"] += 1
                verdict = outcome.reason or "passed"
                row["verdicts"][verdict] = row["verdicts"].get(verdict, 0) + 1
                row["slowest"] = max(row["slowest"], seconds)
                row["bad"] += [number] * (not hostile.allows(outcome))
        left = left_processes(sandbox)
    found = strays(mark) - before
    total = counts.setdefault("", {"left": 0, "files": 0, "victims": 0})
    total["left"] += len(left)
    total["files"] += len(found)
    total["victims"] += victim.changed()
    if given.out:
        given.out.write_text(json.dumps(counts))
    report(counts, given)


def report(counts: dict, given: argparse.Namespace) -> None:
    """The table."""
    kinds = [kind for kind in counts if kind]
    programs = sum(counts[kind]["programs"] for kind in kinds)
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    print(f"{programs:,} programs, seed {given.seed}, {given.workers} at once, {given.seconds} s each, as {who}; "
          f"Python {platform.python_version()}, {platform.system()} {platform.release().partition('-')[0]} "
          f"{platform.machine()}, {os.cpu_count()} cores, "
          f"{'without' if given.unfiltered else 'with'} the kernel's filter\n")  # fmt: skip
    print("| group | kind | programs | verdicts | slowest, s | unexpected |\n| --- | --- | ---: | --- | ---: | ---: |")
    groups = {**dict.fromkeys(HARM, "harm"), **dict.fromkeys(BURDEN, "burden"), **dict.fromkeys(CHEATS, "cheat")}
    order = [*KINDS, *(kind for kind in kinds if kind not in KINDS)]
    for kind in (kind for kind in order if kind in counts):
        row = counts[kind]
        verdicts = ", ".join(f"{name} {count}" for name, count in sorted(row["verdicts"].items()))
        group = groups.get(kind, "source" if kind in KINDS else "none")
        print(f"| {group} | {kind} | {row['programs']} | {verdicts} | {row['slowest']:.2f} | {len(row['bad'])} |")
    total: Counter[str] = Counter()
    for kind in kinds:
        total.update(counts[kind]["verdicts"])
    cheats = sum(counts[kind]["verdicts"].get("passed", 0) for kind in kinds if kind in CHEATS)
    slowest = max(counts[kind]["slowest"] for kind in kinds)
    rows = {
        "programs": programs, "verdicts": ", ".join(f"{name} {count}" for name, count in total.most_common()),
        "unexpected verdicts": sum(len(counts[kind]["bad"]) for kind in kinds), "cheats that passed": cheats,
        "slowest, s": f"{slowest:.2f}", "processes left": counts[""]["left"],
        "files left": counts[""]["files"], "victims changed": counts[""]["victims"],
    }  # fmt: skip
    print("\n| what | value |\n| --- | --- |")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    bad = defaultdict(list, {kind: counts[kind]["bad"][:3] for kind in kinds if counts[kind]["bad"]})
    if bad:
        print(f"\nNumbers of unexpected ones: {dict(bad)}")


if __name__ == "__main__":
    main()
