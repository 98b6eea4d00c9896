"""Triton kernels, each with its torch twin. Triton is imported where a kernel is first used."""
