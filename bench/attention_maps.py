"""The cost of the attention maps of EIT, E-EIT and PartialFormer, compared with plain multi-head attention.

    python bench/attention_maps.py --device cpu --lengths 64 256 1024 --shapes 96x4 512x8

One causal self-attention, forward and backward, batch 1, float32. Time is the median of several runs after a warm-up,
with the shortest and the longest; the attentions take turns, so that other load on the machine affects all of them
alike. On a CPU it is processor time, which does not count waiting for other work. Memory is what is kept for the
backward pass, and on a GPU also the peak. Rows with "chunks" bound the maps that are alive to 2^22 floats; "folded"
mixes the keys instead of the maps of all pairs, as the package does where that takes fewer products.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from memory import kept_bytes

from polythink.models.architectures import EEITConfig, EITConfig, PartialFormerConfig, VanillaConfig
from polythink.models.architectures.attention import Attention
from polythink.models.architectures.e_eit import EfficientInteractiveAttention
from polythink.models.architectures.eit import InteractiveAttention
from polythink.models.architectures.partialformer import PartialAttention
from polythink.models.architectures.vanilla import MultiHeadAttention
from polythink.run.table import markdown_table

WHOLE, CHUNKS = 1 << 62, 1 << 22


def candidates(width: int, heads: int) -> dict[str, Callable[[], Attention]]:
    """Name -> a function that makes the module."""
    shape = {"hidden_size": width, "num_attention_heads": heads}
    code = {"isi_kernel": 7, "csi_kernel": 3, "isi_channels": 2 * heads**2, "csi_channels": 8 * heads}

    def make(cls, config_class, implementation: str = "sdpa", fold: bool | None = None, **fields):
        config = config_class(**shape, **fields)
        config._attn_implementation = implementation
        module = cls(config, "target", 0)
        if fold is not None:
            module.fold = fold
        return module

    def eit(**fields):
        return lambda: make(InteractiveAttention, EITConfig, **fields)

    def e_eit(**fields):
        return lambda: make(EfficientInteractiveAttention, EEITConfig, **fields)

    def partial(**fields):
        return lambda: make(PartialAttention, PartialFormerConfig, residual_attention=False, **fields)

    return {
        "vanilla, SDPA": lambda: make(MultiHeadAttention, VanillaConfig),
        "vanilla, maps formed": lambda: make(MultiHeadAttention, VanillaConfig, "eager"),
        "EIT, plain": eit(fold=False, chunk_elements=WHOLE),
        "EIT, folded": eit(fold=True, chunk_elements=WHOLE),
        "EIT, chunks": eit(chunk_elements=CHUNKS),
        "EIT, kernels 7 and 3": eit(chunk_elements=WHOLE, **code),
        "E-EIT, plain": e_eit(fold=False, chunk_elements=WHOLE),
        "E-EIT, folded": e_eit(fold=True, chunk_elements=WHOLE),
        "E-EIT, folded, chunks": e_eit(fold=True, chunk_elements=CHUNKS),
        "E-EIT, kernel 3": e_eit(chunk_elements=WHOLE, kernel=3),
        "PartialFormer": partial(chunk_elements=WHOLE),
        "PartialFormer, chunks": partial(chunk_elements=CHUNKS),
        "PartialFormer, no head MLP": partial(head_mlp=False),
    }


def once(module: Attention, x: torch.Tensor) -> float:
    """Seconds of one forward and backward."""
    cuda = x.device.type == "cuda"
    wait, clock = (torch.cuda.synchronize, time.perf_counter) if cuda else (lambda: None, time.process_time)
    wait()
    started = clock()
    module(x)[0].sum().backward()
    wait()
    return clock() - started


def peak_bytes(module: Attention, x: torch.Tensor) -> int | None:
    """The most that was allocated on a GPU; None elsewhere."""
    if x.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    once(module, x)
    return torch.cuda.max_memory_allocated()


def compare(width: int, heads: int, length: int, device: str, runs: int, skip: list[str]) -> list[list]:
    """Rows of the table: all attentions of one shape at one length, in turns."""
    torch.manual_seed(0)
    x = torch.randn(1, length, width, device=device, requires_grad=True)
    chosen = {n: make for n, make in candidates(width, heads).items() if not any(words in n for words in skip)}
    modules = {name: make().to(device) for name, make in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for turn in range(runs + 1):
        for name, module in modules.items():
            taken = once(module, x)
            if turn:  # the first is a warm-up
                seconds[name].append(1000 * taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    plain = next(iter(medians.values()))
    rows = []
    for name, module in modules.items():
        spread = f"{min(seconds[name]):.1f} to {max(seconds[name]):.1f}"
        peak = peak_bytes(module, x)
        kept = f"{kept_bytes(module, lambda module=module: module(x)[0]) / 2**20:.1f}"
        cells = [f"{medians[name]:.1f}", spread, f"{medians[name] / plain:.1f}", kept]
        rows.append([length, name, *cells, *([] if peak is None else [f"{peak / 2**20:.1f}"])])
    return rows


def load() -> str:
    return "load " + " ".join(f"{x:.1f}" for x in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--shapes", nargs="+", default=["96x4", "512x8"], help="model width x heads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="leave out attentions with these words in their names")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, {arguments.threads} thread(s), torch {torch.__version__}, ", end="")
    print(f"{arguments.runs} runs")
    peak = ["peak MiB"] if arguments.device == "cuda" else []
    columns = ["length", "attention", "ms", "from to", "times vanilla", "MiB kept", *peak]
    for shape in arguments.shapes:
        width, heads = map(int, shape.split("x"))
        for length in arguments.lengths:
            before = load()
            rows = compare(width, heads, length, arguments.device, arguments.runs, arguments.skip)
            print(f"\nwidth {width}, {heads} heads, {length} tokens; {before} before, {load()} after\n")
            print(markdown_table(columns, rows), flush=True)


if __name__ == "__main__":
    main()
