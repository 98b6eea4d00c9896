"""Triton kernels, each a pure function of tensors. Import one only where it is used: a build for CPUs has no Triton."""
