"""The attention over pages for the shapes of real models, and ahead-of-time compilation of its kernels for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.device import DEVICE
from helpers.graphs import Story
from helpers.interpreted import HAS_TRITON, needs_triton
from polythink.engine.kernels.attention import attend_pages, attend_pages_twin, widest_block
from polythink.engine.paged.cache import PagedCache

SHAPES = [  # heads, key heads, head size
    (2, 1, 64), (3, 1, 80), (4, 4, 96), (16, 2, 128), (2, 2, 256), (6, 2, 16),
]  # fmt: skip
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # outputs are averages of normal numbers
KERNELS = ["torch", pytest.param("triton", marks=needs_triton)]


def run(story: Story, kernel: str, moves) -> float:
    """Run a step; the largest difference of that kernel from the definition over all layers, NaN being infinite."""
    found = story.run(moves)
    attend = attend_pages if kernel == "triton" else attend_pages_twin
    factor = story.cache.head_size**-0.5
    gaps = [
        attend(query, story.cache.inputs(layer), factor, torch.empty_like(query)).double() - found[layer][1]
        for layer, query in enumerate(story.queries)
    ]
    return torch.nan_to_num(torch.stack(gaps).abs(), torch.inf).max().item()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), SHAPES)
def test_shapes_and_kinds_of_numbers(kernel, heads, kv_heads, head_size, dtype):
    """A chunk, a fork in the middle of a step, and a plain step."""
    cache = PagedCache(1, heads, kv_heads, head_size, dtype, DEVICE, kernel="torch", programs=4)
    story = Story(cache, heads + head_size, rows=1, padding=1)
    story.start(0)
    (line,) = story.lines.values()
    assert run(story, kernel, [(line, 0)] * 19) < BOUND[dtype]
    paths = [story.open(line, [0]), story.open(line, [0])]
    assert run(story, kernel, [(line, 0)] + [(line, s) for s in paths]) < BOUND[dtype]
    assert cache.works[None].causal
    assert run(story, kernel, [(line, s) for s in paths]) < BOUND[dtype]
    assert not cache.works[None].causal


@pytest.mark.parametrize(
    ("kernel", "readers", "tiles"), [("torch", 70, 3), pytest.param("triton", 33, 2, marks=needs_triton)]
)
def test_many_readers_of_a_prefix_take_wide_tiles(kernel, readers, tiles):
    """Wide tiles of 32 queries beside the narrow ones of the rows' own pages; two launches."""
    cache = PagedCache(1, 4, 2, 16, torch.bfloat16, DEVICE, kernel="torch", programs=8)
    story = Story(cache, 0)
    prefix = story.add_prefix(100, 50)
    story.random.random = lambda: 0.5  # every trace reads the prefix
    for row in range(readers):
        story.start(row)
    lines = list(story.lines.values())
    assert all(line.prefix is prefix for line in lines)
    moves = [(line, 0) for line in lines]
    assert run(story, kernel, moves) < BOUND[torch.bfloat16]
    assert [launch.block for launch in cache.works[None].launches] == [16, 64]
    asked, floor = cache.read_bytes()
    assert floor == (50 + readers) * cache.slot_bytes
    assert asked == (tiles * 50 + readers) * cache.slot_bytes


def test_widest_tiles():
    assert widest_block(4, 128, torch.bfloat16) == 128
    assert widest_block(2, 128, torch.bfloat16) == 64  # 32 queries, the bits of a word
    assert widest_block(8, 256, torch.float16) == 64
    assert widest_block(8, 64, torch.float32) == 32


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton, which torch for CPUs comes without")
def test_kernels_compile_for_an_h100(tmp_path):
    """Without a GPU: nothing spills, and blocks find room on a multiprocessor (227 KB, 65,536 registers): four, two of
    those that run few at a time.

    `python tests/helpers/ahead.py` prints all variants of a head size.
    """
    code = (
        "from helpers.ahead import merge, split\n"
        "found = [(split(128, 16, 'bf16'), 4), (split(128, 16, 'bf16', few=True), 2), (merge(128, 'bf16'), 2)]\n"
        "assert all(x['spilled'] == 0 for x, _ in found), found\n"
        "assert all(n * x['shared'] <= 227 << 10 and n * 128 * x['registers'] <= 65536 for x, n in found), found\n"
    )
    tests = Path(__file__).parents[1]
    env = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join((str(tests), str(tests.parent / "src"), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
