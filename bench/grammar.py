"""Results of `polythink experiment translation-grammar-experiment`, and the cost of each architecture.

    python bench/grammar.py runs/translation-grammar             # the learning rate of each architecture, and the table
    python bench/grammar.py runs/translation-grammar --speed     # seed-0 models of the table, in turns, one thread

Arms that differ in the learning rate alone (NAME_lr...) are one architecture: the rate with the lower validation loss,
averaged over seeds, represents it; test pairs play no part in the choice. Intervals are 95% t intervals over seeds,
differences to the first architecture are taken seed by seed. Multiply-accumulates are those of one teacher-forced pass
over 16 source and 16 target tokens. Speeds are processor time on one thread, all models in turns; "relative" is the
median over rounds of a round's ratio to the first model, so that other load on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from memory import kept_bytes
from transformers import AutoConfig

from polythink.errors import UserError
from polythink.models.architectures.counting import counted, total
from polythink.pipeline.results_table import over_seeds
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.run.table import markdown_table
from polythink.text.config import TextEvalOptions
from polythink.text.data.sets import load_texts
from polythink.text.evaluate import encode_set, generate
from polythink.text.model import forward_losses, load_text_model

LENGTH = 16  # source and target tokens of the pass whose multiply-accumulates are counted
EARLY, LEVEL = 300, 1.0  # the step of the first loss, and the loss of the transition


@dataclass(frozen=True)
class Trained:
    """One arm with one seed."""

    model: Path
    valid: dict[int, float]  # step -> validation loss
    test: dict[str, float]  # metric -> value

    @property
    def last(self) -> float:
        return self.valid[max(self.valid)]

    @property
    def transition(self) -> float | None:
        """The first measured step with a validation loss under `LEVEL`."""
        return next((step for step, loss in sorted(self.valid.items()) if loss < LEVEL), None)


def read(folder: Path) -> dict[str, dict[int, Trained]]:
    """Arm -> seed -> trained model; unfinished runs are left out."""
    found: dict[str, dict[int, Trained]] = {}
    for run in sorted((folder / "runs").iterdir(), key=lambda run: run.stat().st_ctime_ns):
        arm, _, seed = run.name.rpartition("-seed")
        train, test = (run / stage["folder"] for stage in read_json(run / "stages.json"))
        if not (test / "result.json").is_file():
            continue
        rows = read_jsonl(train / "metrics.jsonl")
        valid = {row["step"]: row["valid_loss"] for row in rows if "valid_loss" in row}
        (values,) = read_json(test / "result.json")["evaluations"].values()
        found.setdefault(arm, {})[int(seed)] = Trained(train / "model", valid, values)
    if not found:
        raise UserError(f"{folder} has no finished run of the experiment")
    return found


def chosen(found: dict[str, dict[int, Trained]]) -> dict[str, str]:
    """Architecture -> its arm with the lowest validation loss, over the seeds that all of its arms have."""
    arms: dict[str, list[str]] = {}
    for arm in found:
        arms.setdefault(arm.partition("_lr")[0], []).append(arm)
    best = {}
    for name, own in arms.items():
        shared = set.intersection(*(set(found[arm]) for arm in own))
        best[name] = min(own, key=lambda arm: statistics.mean(found[arm][seed].last for seed in shared))
    return best


def shown(values: Sequence[float], digits: int, scale: float = 1.0, sign: str = "") -> str:
    estimate = over_seeds([scale * value for value in values])
    ends = f" [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]" if len(values) > 1 else ""
    return f"{estimate.value:{sign}.{digits}f}{ends}"


def rates_table(found: dict[str, dict[int, Trained]], best: dict[str, str]) -> str:
    rows = [
        [arm, len(seeds), shown([run.last for run in seeds.values()], 3), "chosen" if arm in best.values() else ""]
        for arm, seeds in found.items()
    ]
    return markdown_table(["arm", "seeds", "validation loss at the end", ""], rows)


def results_table(found: dict[str, dict[int, Trained]], best: dict[str, str]) -> str:
    first = found[next(iter(best.values()))]
    rows = []
    for name, arm in best.items():
        seeds = found[arm]
        runs = list(seeds.values())
        shared = [seed for seed in seeds if seed in first]
        count = total(*counted(AutoConfig.from_pretrained(runs[0].model), LENGTH, LENGTH).values())
        reached = [run.transition for run in runs if run.transition is not None]
        rows.append([
            name,
            arm.partition("_lr")[2],
            len(runs),
            f"{count.parameters / 1e3:.0f}k",
            f"{count.macs / 1e6:.1f}M",
            shown([run.test["exact"] for run in runs], 1, 100),
            shown([seeds[s].test["exact"] - first[s].test["exact"] for s in shared], 1, 100, "+") if rows else "",
            shown([run.test["bleu"] for run in runs], 1, 100),
            shown([run.valid[EARLY] for run in runs], 2),
            shown([run.last for run in runs], 3),
            (shown(reached, 0) if reached else "") + ("" if len(reached) == len(runs) else f" ({len(reached)} runs)"),
        ])  # fmt: skip
    columns = ["", "lr", "seeds", "parameters", "MACs", "exact %", "difference", "BLEU", f"loss at {EARLY}",
               "loss at the end", f"steps to a loss under {LEVEL:g}"]  # fmt: skip
    return markdown_table(columns, rows)


# ---- speed ----


def speed_table(found: dict[str, dict[int, Trained]], best: dict[str, str], rounds: int) -> str:
    """Training and greedy decoding, all models in turns."""
    torch.set_num_threads(1)
    models = {name: load_text_model(found[arm][min(found[arm])].model) for name, arm in best.items()}
    examples = encode_set(next(iter(models.values())), load_texts("grammar:test", 64))
    tokens = sum(len(example.target) for example in examples)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    for turn in range(rounds + 1):  # the first one warms up
        for name, lm in models.items():
            lm.model.train()
            started = time.process_time()
            forward_losses(lm, examples).mean().backward()
            trained = time.process_time()
            written = sum(len(ids) + 1 for ids in generate(lm, examples, TextEvalOptions(max_new_tokens=40)))
            generated = time.process_time()
            if turn:
                seconds[name][0].append((trained - started) / tokens)
                seconds[name][1].append((generated - trained) / written)
    base = next(iter(seconds.values()))
    rows = []
    for name, pair in seconds.items():
        cells = []
        for own, first in zip(pair, base, strict=True):
            ratio = statistics.median(f / o for f, o in zip(first, own, strict=True))
            cells += [f"{1 / statistics.median(own):.0f}", f"{ratio:.2f}"]
        lm = models[name]
        lm.model.train()
        kept = kept_bytes(lm.model, lambda lm=lm: forward_losses(lm, examples))
        rows.append([name, *cells, f"{kept / tokens / 1024:.1f}"])
    columns = ["", "training tokens/s", "relative", "decoding tokens/s", "relative", "kept for backward, kB/token"]
    return markdown_table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    found = read(arguments.folder)
    best = chosen(found)
    print(rates_table(found, best))
    print(results_table(found, best))
    if arguments.speed:
        print(speed_table(found, best, arguments.rounds))


if __name__ == "__main__":
    main()
