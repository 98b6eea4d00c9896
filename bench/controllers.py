"""What controllers save: accuracy, tokens, critical path and time of paths that are stopped or deepened while they run.

    polythink train parathinker-retries last=null half=null first=null tunnel=null --out runs/retries
    python bench/controllers.py runs/retries/retries/model --problems 80 --seeds 3

Every arm answers the same problems from the same seeds, so the paths are the same until one is stopped. The arms take
turns within each seed. Accuracy is that of the response, after the join, with its 95% bootstrap interval over problems,
and its paired difference to the arm without a controller at the same budget; time is processor time. The last line is
one JSON object.

Paths of the task try up to three chains and mark the one that worked, so they differ in length. A path's current answer
is the chain that it has marked `ok` (`marked_chain`); "last number" asks for its last number instead, which is that of
the chain it is busy with.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from dataclasses import asdict
from datetime import date
from statistics import median

from polythink import Engine, load, load_problems
from polythink.engine.controllers import Decision, Probe
from polythink.engine.params import SamplingParams
from polythink.evaluate.metrics import by_problem, is_right, mean_over, paired_difference, show
from polythink.evaluate.samples import Grading, make_requests
from polythink.problems.answers import Grader
from polythink.problems.prompts import get_prompt
from polythink.trace.rollout import STOPPED

CHAIN = re.compile(r"(\d+(?: [-+*] \d+ = \d+)+) ok")


def marked_chain(text: str) -> str | None:
    """The last chain that a path has marked as having reached the target."""
    found = CHAIN.findall(text)
    return re.sub(r" = \d+", "", found[-1]) if found else None


def first_answer(probe: Probe) -> Decision:
    """Stop all once one path has an answer."""
    found = any(path.answers[-1] for path in probe.paths)
    return Decision(stop=dict.fromkeys(probe.running, "agreed") if found else {})


ARMS = {  # name: (budget of a path, what differs from the arm without a controller)
    "none": (50, {}),
    "half have finished": (50, {"join_when": "half"}),
    "the first has finished": (50, {"join_when": "first"}),
    "majority": (50, {"controller": "majority"}),
    "agreement": (50, {"controller": "agreement"}),
    "agreement, last number": (50, {"controller": "agreement", "path_answer": "last"}),
    "prune": (50, {"controller": "prune"}),
    "prune, last number": (50, {"controller": "prune", "path_answer": "last"}),
    "parallel_probe": (50, {"controller": "parallel_probe"}),
    "the first has an answer (own)": (50, {"controller": first_answer}),
    "none, 24 a path": (24, {}),
    "deepen, 24 a path": (24, {"controller": "deepen"}),
    "prune_and_deepen, 24 a path": (24, {"controller": "prune_and_deepen", "path_answer": "last"}),
}


def params_of(budget: int, changes: dict, options: argparse.Namespace) -> SamplingParams:
    return SamplingParams(**{
        "paths": options.paths, "max_blocks": 1, "max_path_tokens": budget, "max_summary_tokens": 12,
        "max_main_tokens": 32, "max_trace_tokens": 1000, "temperature": 0, "path_temperature": 1.0,
        "probe_every": options.probe_every, "probe_patience": options.probe_patience, "path_answer": marked_chain,
    } | changes)  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """The rows and seconds of each arm."""
    lm = load(options.model)
    engine, problems = Engine(lm, max_num_seqs=64), load_problems("countdown-hard:heldout", limit=options.problems)
    requests = make_requests(engine, problems, get_prompt("countdown_parallel"), 1)
    found = {name: {"rows": [], "seconds": []} for name in ARMS}
    with Grader(dialect=lm.dialect) as grader:
        grading = Grading({p.key: p for p in problems}, grader, lm.dialect)
        for seed in range(options.seeds):
            for name, (budget, changes) in ARMS.items():
                start = time.process_time()
                rollouts = engine.generate(requests, params_of(budget, changes, options), seed)
                found[name]["seconds"].append(time.process_time() - start)
                found[name]["rows"] += map(grading.row, rollouts)
    return found


def table(found: dict[str, dict], responses: int) -> tuple[list[str], dict[str, dict]]:
    """The lines of a Markdown table, and its numbers."""
    lines = [
        "| arm | accuracy | difference | tokens | critical path | ms a response | paths stopped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    numbers, right = {}, {}
    for name, arm in found.items():
        groups = by_problem(arm["rows"])
        right[name] = mean_over(groups, is_right)
        mean = {key: mean_over(groups, lambda row, key=key: row[key]).value
                for key in ("tokens", "critical_path", *STOPPED)}  # fmt: skip
        base = "none" if ARMS[name][0] == ARMS["none"][0] else "none, 24 a path"
        less = asdict(paired_difference(right[name], right[base]).estimate) if name != base else {}
        accuracy = asdict(right[name].estimate)
        milliseconds = 1000 * median(arm["seconds"]) / responses
        stopped = ", ".join(f"{mean[reason]:.2f} {reason}" for reason in STOPPED if mean[reason])
        lines.append(
            f"| {name} | {show('accuracy', accuracy)} | {show('accuracy', less, '+')} | {mean['tokens']:.0f} | "
            f"{mean['critical_path']:.1f} | {milliseconds:.1f} | {stopped} |"
        )
        numbers[name] = {"accuracy": accuracy, "difference": less, **mean, "milliseconds": milliseconds}
    return lines, numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the trained model")
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--paths", type=int, default=8)
    parser.add_argument("--probe-every", type=int, default=4)
    parser.add_argument("--probe-patience", type=int, default=2)
    options = parser.parse_args()
    found = measure(options)
    lines, numbers = table(found, options.problems)
    print(*lines, sep="\n")
    print(json.dumps({"date": str(date.today()), "cores": os.cpu_count(), **vars(options), "arms": numbers}))


if __name__ == "__main__":
    main()
