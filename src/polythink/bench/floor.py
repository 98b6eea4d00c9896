"""The least that a decoding step must cost on a machine: bytes to be read and products to be formed.

A step reads every weight once and every key and value that a branch sees. With N weights of b bytes, k bytes of keys
and values of one token over all layers, a prompt of L tokens and P paths of t tokens so far:

    bytes   = N b + k (L + P t)            the prompt read once for all paths, or once for all samples of a problem
    separate = N b + k P (L + t)           every branch reads its own copy of the prompt, as a stock server does
    flops   = 2 N P + a P (L + t)          a = 4 layers heads head_dim
    floor   = max(bytes / bandwidth, flops / rate)

Sums over traces (and over problems for the prompts) where there are several. Without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polythink.bench.cases import Trace, branches


@dataclass(frozen=True)
class Sizes:
    """What a step of a model costs. `weights`: parameters read in a step, an embedding table only where it is tied."""

    weights: int
    bytes_per_weight: int
    kv_bytes: int  # of one token, over all layers
    attention_flops: int  # of one query and one key, over all layers

    @property
    def weight_bytes(self) -> int:
        return self.weights * self.bytes_per_weight


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that its costs follow from. Without torch; `bench.model.shape_of` reads them off one."""

    parameters: int  # all of them, tied ones once
    table: int  # of an embedding table that is not the output layer too: of it single rows are read
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    def sizes(self, weight_bytes: int, kv_bytes: int | None = None) -> Sizes:
        """What a step costs with weights, and keys and values, of so many bytes each."""
        kept = 2 * self.layers * self.keys * (kv_bytes or weight_bytes)
        return Sizes(self.parameters - self.table, weight_bytes, kept, 4 * self.layers * self.queries)


@dataclass(frozen=True)
class Machine:
    """What the device does, measured: bytes moved per second by a large copy, operations per second by a product."""

    bandwidth: float
    flops: float


def prompt_tokens(traces: Sequence[Trace]) -> int:
    """Tokens of all prompts, that of a problem once."""
    return sum({trace.problem: len(trace.prompt) for trace in traces}.values())


def step_bytes(sizes: Sizes, traces: Sequence[Trace], tokens: float, shared: bool = True) -> float:
    """Bytes that a step reads once every path has `tokens` tokens."""
    prompts = prompt_tokens(traces) if shared else sum(t.paths * len(t.prompt) for t in traces)
    return sizes.weight_bytes + sizes.kv_bytes * (prompts + branches(traces) * tokens)


def step_flops(sizes: Sizes, traces: Sequence[Trace], tokens: float) -> float:
    read = sum(trace.paths * (len(trace.prompt) + tokens) for trace in traces)
    return 2 * sizes.weights * branches(traces) + sizes.attention_flops * read


def step_floor(sizes: Sizes, machine: Machine, traces: Sequence[Trace], tokens: float, shared: bool = True) -> float:
    """Seconds below which no step can be."""
    read = step_bytes(sizes, traces, tokens, shared) / machine.bandwidth
    return max(read, step_flops(sizes, traces, tokens) / machine.flops)


def kept_bytes(sizes: Sizes, traces: Sequence[Trace], tokens: float) -> float:
    """Bytes of keys and values that must be kept, k (L + P T): each token once, a problem's prompt once."""
    return sizes.kv_bytes * (prompt_tokens(traces) + branches(traces) * tokens)
