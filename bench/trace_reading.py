"""What reading traces costs: seconds per 1,000 tokens (tags and texts) of parser, renderer, counter and rules.

    python bench/trace_reading.py traces.parquet --field trace_compact --against ../old/src

With --against the package in that folder is measured too, in turns with this one, so that both see the same machine.
Medians over the turns; each turn is a process of its own and takes the best of three passes over all traces.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from statistics import median


def measure(file: str, field: str) -> dict[str, float]:
    """Seconds per 1,000 tokens of each function, for both old dialects."""
    import pyarrow.parquet

    from polythink.trace.blocks import complete_blocks
    from polythink.trace.convert import convert
    from polythink.trace.detect import opening_tags
    from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
    from polythink.trace.parse import TraceError, parse, scan
    from polythink.trace.render import render
    from polythink.trace.validity import check

    def parsed(text):
        try:
            return parse(text)
        except TraceError:
            return None

    trees = [tree for tree in map(parsed, pyarrow.parquet.read_table(file)[field].to_pylist()) if tree]
    seconds = {}
    for dialect in (PARALLEL_R1, PARATHINKER):
        own = [convert(tree, dialect, Random(1)) for tree in trees]
        texts = [render(tree, dialect) for tree in own]
        tokens = sum(1 for text in texts for _ in scan(text, dialect))
        works = {
            "scan": lambda d=dialect, texts=texts: [list(scan(text, d)) for text in texts],
            "parse": lambda d=dialect, texts=texts: [parse(text, d) for text in texts],
            "render": lambda d=dialect, own=own: [render(tree, d) for tree in own],
            "complete_blocks": lambda d=dialect, texts=texts: [complete_blocks(text, d) for text in texts],
            "check stack": lambda d=dialect, texts=texts: [check(text, "stack", d) for text in texts],
            "opening_tags": lambda texts=texts: [opening_tags(text) for text in texts],
        }
        for name, work in works.items():
            best = float("inf")
            for _ in range(3):
                start = time.process_time()
                work()
                best = min(best, time.process_time() - start)
            seconds[f"{dialect.name} {name}"] = best / tokens * 1000
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="a .parquet file of traces in the dialect parallel_r1")
    parser.add_argument("--field", default="trace_compact")
    parser.add_argument("--against", help="the folder src of another state of the package")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.file, given.field)))
        return
    sources = [str(Path(__file__).parents[1] / "src"), *([given.against] if given.against else [])]
    found: dict[str, list[dict[str, float]]] = {source: [] for source in sources}
    for _ in range(given.turns):
        for source in sources:
            command = [sys.executable, __file__, given.file, "--field", given.field, "--one"]
            done = subprocess.run(command, env={**os.environ, "PYTHONPATH": source}, capture_output=True, check=True)
            found[source].append(json.loads(done.stdout))
    print("| microseconds per token | " + " | ".join(sources) + " |\n| --- |" + " ---: |" * len(sources))
    for name in found[sources[0]][0]:
        cells = [f"{median(turn[name] for turn in found[source]) * 1000:.2f}" for source in sources]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
