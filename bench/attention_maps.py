"""What the attention maps of EIT, E-EIT and PartialFormer cost beside plain multi-head attention.

    python bench/attention_maps.py --device cpu --lengths 64 256 1024

One causal self-attention, forward and backward, batch 1, float32. Time is the median of several runs after a warm-up;
memory is what is kept for the backward pass, and on a GPU also the peak. Rows with "chunks" bound the maps that are
alive to 2^22 floats; "plain" is the form without the folded first convolution.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

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
        "EIT, as chosen": eit(chunk_elements=WHOLE),
        "EIT, as chosen, chunks": eit(chunk_elements=CHUNKS),
        "EIT, kernels 7 and 3, plain": eit(fold=False, chunk_elements=WHOLE, **code),
        "EIT, kernels 7 and 3, folded": eit(fold=True, chunk_elements=WHOLE, **code),
        "E-EIT, plain": e_eit(fold=False, chunk_elements=WHOLE),
        "E-EIT, folded": e_eit(fold=True, chunk_elements=WHOLE),
        "E-EIT, folded, chunks": e_eit(fold=True, chunk_elements=CHUNKS),
        "E-EIT, kernel 3, plain": e_eit(fold=False, chunk_elements=WHOLE, kernel=3),
        "E-EIT, kernel 3, folded": e_eit(fold=True, chunk_elements=WHOLE, kernel=3),
        "PartialFormer": partial(chunk_elements=WHOLE),
        "PartialFormer, chunks": partial(chunk_elements=CHUNKS),
        "PartialFormer, no head MLP": partial(head_mlp=False),
    }


def kept_bytes(module: Attention, x: torch.Tensor) -> int:
    """Bytes of the distinct tensors that autograd keeps, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(x)[0]  # alive until all is counted, so that no address is used twice
    total = sum(found.values())
    del out
    return total


def measure(module: Attention, x: torch.Tensor, runs: int) -> tuple[float, int, int | None]:
    """(milliseconds of forward and backward, bytes kept, peak bytes on a GPU)."""
    cuda = x.device.type == "cuda"

    def once() -> float:
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        module(x)[0].sum().backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(once() for _ in range(runs))
    return 1000 * seconds, kept_bytes(module, x), torch.cuda.max_memory_allocated() if cuda else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="leave out attentions with these words in their names")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, {arguments.threads} thread(s), torch {torch.__version__}, ", end="")
    print(f"width {arguments.width}, {arguments.heads} heads\n")
    columns = ["length", "attention", "ms", "times vanilla", "MiB kept", "peak MiB (GPU)"]
    for length in arguments.lengths:
        rows = []
        torch.manual_seed(0)
        x = torch.randn(1, length, arguments.width, device=arguments.device, requires_grad=True)
        plain = None
        for name, make in candidates(arguments.width, arguments.heads).items():
            if any(words in name for words in arguments.skip):
                continue
            milliseconds, kept, peak = measure(make().to(arguments.device), x, arguments.runs)
            plain = plain or milliseconds
            cells = [f"{milliseconds:.1f}", f"{milliseconds / plain:.1f}", f"{kept / 2**20:.1f}"]
            rows.append([length, name, *cells, "" if peak is None else f"{peak / 2**20:.1f}"])
        print(markdown_table(columns, rows), flush=True)


if __name__ == "__main__":
    main()
