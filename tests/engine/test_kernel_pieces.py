"""The Triton kernels between the matrix products: under Triton's interpreter against torch, and compiled for a GPU.

Each runs in a process of its own, since Triton decides at import whether it interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytest.importorskip("triton", reason="a build of torch for CPUs has no Triton")


def run(program: str, **environment: str) -> None:
    paths = os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": paths, "POLYTHINK_TEST_DEVICE": "cpu", **environment}
    done = subprocess.run([sys.executable, "-c", dedent(program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_kernels_agree_with_torch():
    """float32: 2e-6 of the largest value. bfloat16: three roundings of 2^-7, as the interpreter cuts bits off."""
    run(
        """
        import torch
        from polythink.engine.kernels.gate import KINDS, gate
        from polythink.engine.kernels.norm import add_norm
        from polythink.engine.kernels.rotary import rotate_and_write
        from polythink.engine.lean.torch_ops import TorchOps, norm, rotate

        torch.manual_seed(0)
        plain = TorchOps.__new__(TorchOps)  # no step: the pieces below need none

        def close(found, expected):
            bound = (2e-6 if found.dtype == torch.float32 else 3 * 2**-7) * expected.abs().max().float()
            assert found.dtype == expected.dtype and (found.float() - expected.float()).abs().max() <= bound

        for dtype in (torch.float32, torch.bfloat16):
            draw = lambda *shape: torch.randn(shape).to(dtype)
            for tokens, features, offset in ((1, 1, 0.0), (5, 96, 1.0), (3, 64, 0.0), (2, 300, 0.0)):
                x, delta, weight = draw(tokens, features), draw(tokens, features), draw(features)
                other = x.clone()
                for more in (delta, None, draw(tokens, features + 5)[:, :features]):
                    close(add_norm(x, more, weight, 1e-6, offset), plain.add_norm(other, more, weight, 1e-6, offset))
                    close(x, other)
            for kind in KINDS:
                a, b = 30 * draw(3, 700), draw(3, 700)
                close(gate(a, b, kind), plain.gate(a, b, kind))

            for n, heads, kv, size, offset, normed, moved, turns in (
                (4, 6, 2, 24, 0.0, False, False, True), (3, 4, 4, 8, 1.0, True, True, True),
                (1, 2, 1, 64, 0.0, True, False, True), (2, 2, 1, 16, 0.0, False, True, False),
            ):
                q, k, v = draw(n, heads, size), draw(n, kv, size), draw(n, kv, size)
                wide = draw(n, heads * size + 7)  # as if cut from a wider product
                q = wide[:, : heads * size].unflatten(1, (heads, size))
                angle = torch.rand(n, size // 2) * 6
                cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
                weights = (draw(size), draw(size)) if normed else None
                vector = draw(n, size) if moved else None
                slot = torch.randperm(20)[:n].int()
                keys, values = (torch.zeros(20, kv, size, dtype=dtype) for _ in "kv")
                found = rotate_and_write(
                    q, k, v, (cos, sin) if turns else None, slot, keys, values, weights, 1e-6, offset, vector
                )
                if normed:
                    q, k = norm(q, weights[0], 1e-6, offset), norm(k, weights[1], 1e-6, offset)
                if moved:
                    k, v = k + vector[:, None], v + vector[:, None]
                if turns:
                    both = torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]
                    q, k = rotate(q, *both), rotate(k, *both)
                close(found, q)
                close(keys[slot.long()], k)
                close(values[slot.long()], v)
                rest = sorted(set(range(20)) - set(slot.tolist()))
                assert not keys[rest].any() and not values[rest].any()
            empty = torch.empty(0, 96, dtype=dtype)
            assert add_norm(empty, None, draw(96), 1e-6).shape == gate(empty, empty, "silu").shape == (0, 96)
        """,
        TRITON_INTERPRET="1",
    )


def test_an_engine_on_kernels_draws_what_the_flat_one_draws():
    """Also with look-ahead; log-probabilities to 1e-4."""
    run(
        """
        import helpers.interpreted
        from helpers.tiny import drawn, gaps, requests, tiny
        from polythink.engine.backends.graphed import GraphedBackend
        from polythink.engine.engine import Engine
        from polythink.engine.lean.paged_ops import TritonOps
        from polythink.engine.params import SamplingParams

        lm = tiny(seed=2)
        budgets = dict(max_main_tokens=3, max_path_tokens=3, max_summary_tokens=2, max_trace_tokens=40)
        params = SamplingParams(paths=2, **budgets)
        flat, kernels = (
            Engine(lm, max_num_seqs=2, backend=backend).generate(requests(lm, 3), params, seed=5)
            for backend in ("flat", GraphedBackend(lm, TritonOps, look_ahead=True))
        )
        assert [drawn(r) for r in kernels] == [drawn(r) for r in flat]
        assert max(gaps(lm, kernels)) < 1e-4
        """,
        TRITON_INTERPRET="1",
    )


def test_the_kernels_compile_ahead_for_an_h100():
    """Registers and shared memory fit, and nothing spills into local memory."""
    run(
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from polythink.engine.kernels.gate import gate_kernel
        from polythink.engine.kernels.norm import add_norm_kernel
        from polythink.engine.kernels.rotary import rotate_kernel

        numbers = dict.fromkeys("x_stride delta_stride out_stride q_stride k_stride v_stride slot_stride vector_stride "
                                "features count heads kv_heads size".split(), "i32")
        numbers |= {"eps": "fp32", "offset": "fp32", "slot": "*i32"}

        def compile(kernel, float, warps, **constants):
            kinds = numbers | dict.fromkeys(constants, "constexpr")
            signature = {name: kinds.get(name, float) for name in kernel.arg_names}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
            assert built.asm["cubin"] and "st.local" not in built.asm["ptx"], kernel

        for float in ("*bf16", "*fp32"):
            for adds, shifts in ((True, False), (False, True)):
                compile(add_norm_kernel, float, 4, ADDS=adds, SHIFTS=shifts, SIZE=1024)
                compile(add_norm_kernel, float, 16, ADDS=adds, SHIFTS=shifts, SIZE=4096)
            for kind in (0, 1, 2):
                compile(gate_kernel, float, 4, KIND=kind, BLOCK=1024)
            for on in (True, False):
                compile(rotate_kernel, float, 4, TURNS=True, NORMS=on, SHIFTS=False, ADDS=not on, SIZE=128, HEADS=4)
            compile(rotate_kernel, float, 1, TURNS=False, NORMS=True, SHIFTS=True, ADDS=True, SIZE=64, HEADS=1)
        """,
        TRITON_INTERPRET="0",
    )
