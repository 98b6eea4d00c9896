"""Run Triton kernels on the CPU, through Triton's own interpreter. Import before any module with kernels."""

from __future__ import annotations

import importlib.util
import os

import pytest

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs triton, which torch for CPUs comes without")

if HAS_TRITON and not os.environ.get("POLYTHINK_TEST_DEVICE", "cpu").startswith("cuda"):
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
    import triton.language as tl
    from triton.runtime import interpreter

    _patch, _dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def _patched(tensor, scope) -> None:
        """Triton 3.6 makes integers from arrays of one element by `int`, which numpy refuses from 2.4 on."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def _dot_of_values(self, a, b, d, *rest):
        """Triton 3.6 multiplies the bit patterns of bfloat16 numbers as integers."""
        a, b = (self.create_fp_ext(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return _dot(self, a, b, d, *rest)

    interpreter._patch_lang_tensor = _patched
    interpreter.InterpreterBuilder.create_dot = _dot_of_values
