"""The Triton form of the draw: under Triton's interpreter against the slow twin, and compiled for a GPU that is absent.

Both run in a process of their own, since Triton decides at import whether it interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

pytest.importorskip("triton", reason="a build of torch for CPUs has no Triton")


def run(program: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_kernels_agree_with_the_slow_twin():
    """Tokens are equal unless the draw is within 1e-6 of another one; log-probabilities to 1e-5."""
    run(
        """
        import numpy as np, torch
        from polythink.engine.kernels.sample import sample
        from polythink.engine.reference_draw import exact_draw
        from polythink.engine.sampling import uniforms

        rng = np.random.default_rng(0)
        near = 0
        for vocabulary in (1, 60, 1024, 1025, 5000):
            logits = rng.normal(0, rng.choice([0.1, 3, 8], (24, 1)), (24, vocabulary)).astype(np.float32)
            heat = rng.choice([0.0, 0.3, 1.0, 2.5], 24).astype(np.float32)
            key, count = rng.integers(0, 2**64, 24, np.uint64), rng.integers(0, 5000, 24).astype(np.uint64)
            signed = [torch.from_numpy(x.view(np.int64)) for x in (key, count)]
            found = sample(torch.from_numpy(logits), torch.from_numpy(heat), *signed)
            assert found[2].all()
            numbers = uniforms(key, count)
            for x, t, u, token, logprob, _ in zip(logits, heat, numbers, *found):
                expected, at, margin = exact_draw(x, t, u)
                near += margin < 1e-6
                assert margin < 1e-6 or (int(token) == expected and abs(float(logprob) - at) < 1e-5), (vocabulary, t)
        assert near <= 2
        """,
        TRITON_INTERPRET="1",
    )


def test_the_kernels_flag_what_is_not_finite_and_leave_the_rest_alone():
    run(
        """
        import torch
        from polythink.engine.kernels.sample import sample

        torch.manual_seed(0)
        logits = torch.randn(6, 3000, dtype=torch.bfloat16)
        heat, key, count = torch.tensor([1.0, 0.7, 0.0] * 2), torch.arange(6) * 12345, torch.arange(6)
        clean = sample(logits, heat, key, count)
        logits[1, 5], logits[2, 2999], logits[4, 1500] = float("nan"), float("inf"), -float("inf")
        token, logprob, finite = sample(logits, heat, key, count)
        assert finite.tolist() == [True, False, False, True, False, True]
        assert ((token >= 0) & (token < 3000)).all()
        for i in (0, 3, 5):
            assert token[i] == clean[0][i] and logprob[i] == clean[1][i]
        assert logprob.isnan().tolist() == [not x for x in finite.tolist()]
        """,
        TRITON_INTERPRET="1",
    )


def test_the_kernels_compile_for_a_gpu():
    run(
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from polythink.engine.kernels.sample import BLOCK, blocks_kernel, choose_kernel

        kinds = {"high": "*fp32", "total": "*fp32", "temperature": "*fp32", "key": "*i64", "count": "*i64",
                 "token": "*i64", "logprob": "*fp32", "finite": "*i1"}
        for kernel, sizes in ((blocks_kernel, {"BLOCK": BLOCK}), (choose_kernel, {"BLOCK": BLOCK, "BLOCKS": 256})):
            kinds |= dict.fromkeys(sizes, "constexpr")
            signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
            for logits in ("*bf16", "*fp16", "*fp32"):
                source = ASTSource(kernel, {**signature, "logits": logits}, sizes)
                assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
        """,
        TRITON_INTERPRET="0",
    )
