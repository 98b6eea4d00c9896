"""A stage without work: it counts steps in a checkpoint, then writes what training or an evaluation would.

Started like `python -m polythink.pipeline.stage`; every start, step and end is a line in the file $FAKE_LOG. The test,
not the clock, decides how long it runs: with `gate: FILE` it waits after its first step until that file exists, with
`together: N` until N stages have started.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from polythink.run.folder import read_json, write_json, write_text
from polythink.run.jsonl import JsonlWriter, write_jsonl

VERDICTS = ("wrong", "right")
DEADLINE = 120  # seconds until a stage that nobody lets go on ends by itself


def main() -> None:
    spec = read_json(sys.argv[1])
    plan, folder = spec["plan"], Path(spec["folder"])
    stage = plan["stage"]
    log(f"start {plan['name']} {plan['digest'][:12]} threads={os.environ['OMP_NUM_THREADS']} {spec['previous']}")
    checkpoint = folder / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with JsonlWriter(folder / "metrics.jsonl") as metrics:
        for step in range(done, stage.get("steps", 1)):
            if "gate" in stage and step > 0:
                wait_until(Path(stage["gate"]).exists)
            metrics.write({"step": step, "loss": 1 / (step + 1)})
            write_text(checkpoint, str(step + 1))
            log(f"step {plan['name']} {plan['digest'][:12]} {step}")
    wait_until(lambda: Path(os.environ["FAKE_LOG"]).read_text().count("start ") >= stage.get("together", 0))
    if stage.get("fail"):
        print("the loss is not a number", file=sys.stderr)
        sys.exit(3)
    if stage["kind"] == "eval":
        evaluate(plan, folder, Path(spec["previous"]))
    write_json(folder / "result.json", {"name": plan["name"], "seconds": 10.0, "skill": stage.get("skill", 0)})
    log(f"end {plan['name']} {plan['digest'][:12]}")


def evaluate(plan: dict, folder: Path, previous: Path) -> None:
    """Samples that are right as often as the stage before has skill."""
    skill = read_json(previous / "result.json")["skill"]
    draw = random.Random(plan["seed"])
    segment = {"kind": "main", "block": -1, "path": 0, "text": "so 1", "finish_reason": "eos", "right": None}
    numbers = {"blocks": 0, "complete_blocks": 0, "paths": 0, "critical_path": 5, "first_block": None, "truncated": 0}
    rows = [
        {
            "problem": str(problem), "question": "1 + 0", "answer": "1", "sample": sample, "text": "so 1",
            "verdict": VERDICTS[draw.random() < skill], "extracted": "1", "well_formed": True, "reason": "ok",
            "tokens": 10 + 10 * skill, **numbers, "segments": [segment],
        }
        for problem in range(50)
        for sample in range(4)
    ]  # fmt: skip
    write_jsonl(folder / "samples-easy.jsonl", rows)
    right = sum(row["verdict"] == "right" for row in rows) / len(rows)
    # what `evaluate.metrics` would say, but for the intervals: it imports NumPy, which takes longer than all the rest
    means = {"mean@4": right, "tokens": rows[0]["tokens"]}
    metrics = {name: {"value": value, "low": value, "high": value} for name, value in means.items()}
    write_json(folder / "eval-easy.json", {"problems": "easy", "n": 50, "samples": 4, "metrics": metrics})


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log(line: str) -> None:
    with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
