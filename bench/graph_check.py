"""The launch-free step: does what is captured and replayed agree with the flat backend, and how long does a step take?

    python bench/graph_check.py                  # on a GPU: Qwen3-0.6B's shape in bfloat16
    python bench/graph_check.py --tiny           # the same from start to end on a CPU, without graphs
    python bench/graph_check.py --pieces triton,torch,compiled

First the steps of a few traces run through both backends, in float32 (a small model) and in the given dtype: logits
must agree to the tolerance, whether a step is run as it is, captured, or replayed. Then milliseconds of a step by case,
with look-ahead and without, beside the time of the graph alone, of which the share in which the GPU works follows.
`pieces`: what is between the matrix products: Triton kernels, plain torch, or plain torch under `torch.compile`.
Prints Markdown tables. Exit status 1 if the backends disagree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

import torch

from polythink.bench.cases import parse_case
from polythink.bench.model import Subject, open_subject
from polythink.bench.ours import OwnEngine
from polythink.engine.backends import paged
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.engine import Engine
from polythink.engine.lean.family import Layer
from polythink.engine.lean.paged_ops import PagedOps, TritonOps
from polythink.engine.lean.torch_ops import ACTIVATIONS, norm, rotate
from polythink.engine.sampling import Likeliest
from polythink.engine.step import StepBatch
from polythink.run.table import markdown_table

# The largest difference of logits, as a share of the largest logit. bfloat16 keeps 8 bits, and the two backends round
# in other places: the bound is 16 roundings.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 16 * 2.0**-8}


@torch.compile(dynamic=False)
def compiled_add_norm(x, delta, weight, eps, offset):
    if delta is not None:
        x += delta
    return norm(x, weight, eps, offset)


@torch.compile(dynamic=False)
def compiled_turn(q, k, norms, eps, offset, cos, sin):
    if norms is not None:
        q, k = norm(q, norms[0], eps, offset), norm(k, norms[1], eps, offset)
    return rotate(q, cos, sin), rotate(k, cos, sin)


@torch.compile(dynamic=False)
def compiled_gate(gate, up, activation):
    return ACTIVATIONS[activation](gate) * up


class CompiledOps(PagedOps):
    """Plain torch under `torch.compile`, piece by piece, with the attention's own kernel. No thought embeddings."""

    attention = "triton" if torch.cuda.is_available() else "torch"
    add_norm = staticmethod(compiled_add_norm)
    gate = staticmethod(compiled_gate)

    def rotate_and_write(self, layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        own = layer.query_norm
        norms = None if own is None else (own.weight, layer.key_norm.weight)
        eps, offset = (0.0, 0.0) if own is None else (own.eps, own.offset)
        q, k = compiled_turn(q, k, norms, eps, offset, *self.turns[layer.rotary])
        self.write(layer, k, v)
        return q


PIECES = {"triton": TritonOps, "torch": PagedOps, "compiled": CompiledOps}


def story(words: Sequence[int], paths: int, steps: int) -> list[tuple[list[tuple], StepBatch]]:
    """Segments opened and tokens run: a prompt, then paths in lock step, then a join that reads them all."""
    prompt = list(words[:37])
    told = [([(0, ())], StepBatch.every(prompt, [0] * len(prompt), list(range(len(prompt)))))]
    slot = len(prompt)
    branches = list(range(1, paths + 1))
    for step in range(steps):
        tokens = [words[(7 * step + 3 * path) % len(words)] for path in branches]
        batch = StepBatch.every(tokens, branches, [len(prompt) + step] * paths, first_slot=slot, scale=1.0)
        told.append(([(path, (0,)) for path in branches] if not step else [], batch))
        slot += paths
    for step in range(steps):
        position = len(prompt) + steps + step
        batch = StepBatch.every([words[step]], [paths + 1], [position], first_slot=slot + step)
        told.append(([(paths + 1, tuple(branches))] if not step else [], batch))
    return told


@torch.no_grad()
def disagreement(subject: Subject, ops: type[PagedOps]) -> tuple[float, int]:
    """The largest difference of logits from the flat backend's, as a share of the largest logit; replays made."""
    flat, own = TransformersBackend(subject.lm), GraphedBackend(subject.lm, ops)
    worst, embedding = 0.0, subject.lm.model.get_input_embeddings().weight
    constant = embedding[:, 0].clone()  # what keeps special tokens away would hide all differences in bfloat16
    embedding[:, 0] = 0
    for backend in (flat, own):
        backend.reserve(1, 4096)
    for opened, batch in story(subject.words, 8, 24):
        found = []
        for backend in (flat, own):  # not nested: both change the model while they hold it
            with backend.hold():
                for segment, follows in opened:
                    backend.open(0, segment, follows)
                found.append(backend.logits(batch).float())
        expected, got = found
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    embedding[:, 0] = constant
    return worst, own.graphs.replayed


def agreement(args: argparse.Namespace, subject: Subject) -> tuple[list[list[str]], bool]:
    rows, good = [], True
    small = open_subject("tiny" if args.tiny else "29m", args.device, "float32")
    for one in (small, subject):
        dtype = one.lm.model.dtype
        for name in args.pieces:
            worst, replayed = disagreement(one, PIECES[name])
            passed = worst <= TOLERANCE[dtype] and (replayed > 0 or one.device.type != "cuda")
            good &= passed
            cells = [one.name, str(dtype)[6:], name, f"{worst:.1e}", f"{TOLERANCE[dtype]:.1e}", str(replayed)]
            rows.append([*cells, "yes" if passed else "NO"])
    return rows, good


class Watched(GraphedBackend):
    """Remembers what it launched last, and keeps its memory, so that it can be replayed alone."""

    last = None

    def _download(self, wide: int, wanted: int, likeliest: Likeliest | None) -> paged.Flight:
        known = list(self.graphs._known.values())
        self.last = known[-1] if known else None
        return super()._download(wide, wanted, likeliest)

    def _keeps(self, size: int) -> bool:
        return self.lm.device.type == "cuda"


def alone(backend: Watched, times: int = 20) -> float | None:
    """Milliseconds of the last step's graph, replayed on what its columns hold. None without graphs."""
    if backend.lm.device.type != "cuda" or backend.last is None:
        return None
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        backend.last.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def timed(args: argparse.Namespace, subject: Subject, name: str, case_name: str) -> list[str]:
    """Medians over the later half of the steps: the first ones of a shape run as they are and are captured."""
    case = parse_case(case_name, args.prompt)
    traces = case.traces(subject.words)
    cells, graph, captured = [], None, 0
    for ahead in (False, True):
        backend = Watched(subject.lm, PIECES[name], look_ahead=ahead)
        own = OwnEngine.__new__(OwnEngine)
        own.subject, own.engine = subject, Engine(subject.lm, max_num_seqs=len(traces), backend=backend)
        seconds, steps = [], own.decode(traces, args.steps)
        for spent, _ in steps:
            seconds.append(spent)
        graph, captured = alone(backend), backend.graphs.captured
        cells.append(1000 * median(seconds[len(seconds) // 2 :]))
    busy = "" if graph is None else f"{graph / cells[1]:.0%}"
    shown = "" if graph is None else f"{graph:.2f}"
    return [case.name, name, f"{cells[0]:.2f}", f"{cells[1]:.2f}", shown, busy, str(captured)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--model", default="0.6b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cases", default="1x1,1x8,8x8,64x8")
    parser.add_argument("--pieces", default="triton", type=lambda text: text.split(","))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--parts", default="agreement,times", type=lambda text: text.split(","))
    args = parser.parse_args()
    args.device = "cpu" if args.tiny else "cuda"
    if args.tiny:
        args.model, args.dtype, args.cases = "tiny", "bfloat16", "1x1,1x8,2x8"
        args.pieces = ["torch" if name == "triton" else name for name in args.pieces]
        args.prompt, args.steps = 32, 8
    return args


def main() -> int:
    args = arguments()
    started = time.perf_counter()
    subject = open_subject(args.model, args.device, args.dtype)
    good = True
    if "agreement" in args.parts:
        rows, good = agreement(args, subject)
        header = ["model", "dtype", "pieces", "largest difference", "allowed", "replayed", "agrees"]
        print(markdown_table(header, rows), flush=True)
    if "times" in args.parts:
        rows = [timed(args, subject, name, case) for name in args.pieces for case in args.cases.split(",")]
        header = ["case", "pieces", "ms a step", "with look-ahead", "graph alone", "GPU works", "captured"]
        print(markdown_table(header, rows))
    print(f"{time.perf_counter() - started:.0f} s; {'all agree' if good else 'SOME DISAGREE'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
