"""Compile the attention's kernels for an H100 without a GPU: `python tests/helpers/ahead.py 64 128 bf16 fp32` prints.

Registers, spills and shared memory say what the compiler made of a kernel; an H100 has 255 registers a thread and
227 KB of shared memory a block. In a process of its own: under the interpreter nothing can be compiled.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

INTS = ("items", "queries", "entries", "bits", "key_stamps", "query_stamps", "key_positions", "query_positions",
        "merge_start", "merge")  # fmt: skip
FLOATS = ("partial_out", "partial_lse", "scale")


def signature(kernel, dtype: str, constants: dict[str, int]) -> dict[str, str]:
    kinds = dict.fromkeys(INTS, "*i32") | dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(constants, "constexpr")
    kinds |= dict.fromkeys(("query", "keys", "values", "out"), f"*{dtype}")
    kinds |= {"factor": "fp32", "first_item": "i32", "window": "i32"}
    return {name: kinds[name] for name in kernel.arg_names}


def compiled(kernel, dtype: str, constants: dict[str, int], **options) -> dict[str, int]:
    """Registers a thread, bytes spilled, bytes of shared memory, bytes of code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = signature(kernel, dtype, constants)
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds.values()) if kind.startswith("*")}
    source = ASTSource(kernel, kinds, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(made.asm["ptx"])
        done = subprocess.run([ptxas, "-v", "-arch=sm_90a", file, "-o", f"{file}.o"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    registers, spilled = (int(re.search(x, done.stderr)[1]) for x in (r"Used (\d+) reg", r"(\d+) bytes spill stores"))
    return {"registers": registers, "spilled": spilled, "shared": made.metadata.shared, "code": len(made.asm["cubin"])}


def split(
    head_size: int,
    block: int,
    dtype: str,
    causal: bool = False,
    window: bool = False,
    share: int = 2,
    few: bool = False,
) -> dict:
    from polythink.engine.kernels import attention_triton as module

    chosen = module.options(block, head_size, 4 if dtype == "fp32" else 2, 256 if few else 512)
    options = {name: chosen.pop(name) for name in ("num_warps", "num_stages")}
    constants = module.split_constants(block, 8 * share, 8, head_size)
    constants |= {**chosen, "CAUSAL": causal, "WINDOW": window}
    return compiled(module.split_kernel, dtype, constants, **options) | chosen | options


def merge(head_size: int, dtype: str) -> dict:
    from polythink.engine.kernels import attention_triton as module

    constants = module.merge_constants(16, head_size, 16)
    return compiled(module.merge_kernel, dtype, constants, num_warps=constants.pop("num_warps"))


def main(sizes: list[int], dtypes: list[str]) -> None:
    import torch

    from polythink.engine.kernels.attention import widest_block

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    for head_size, dtype in product(sizes, dtypes):
        print(f"merge D={head_size} {dtype}: {merge(head_size, dtype)}", flush=True)
        most = max(widest_block(4, head_size, kinds[dtype]), widest_block(2, head_size, kinds[dtype]))
        for block, causal, window in product((16, 32, 64, 128), (False, True), (False, True)):
            if block <= most:
                found = split(head_size, block, dtype, causal, window, share=4 if block == 128 else 2)
                print(f"split D={head_size} {dtype} rows={block} {causal=} {window=}: {found}", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    main([int(x) for x in chosen if x.isdigit()] or [128], [x for x in chosen if not x.isdigit()] or ["bf16"])
