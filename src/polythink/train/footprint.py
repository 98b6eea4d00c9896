"""Memory and time of training and drawing on paper: formulae of a decoder's shape. Without torch.

With N parameters of which n are trained, W processes, b bytes of a weight and c of a number that is computed with:

    weights     N b / W                      one process: in their type; several: float32 parts (`sharding.py`)
    gradients   n b / W
    moments     2 n b / W                    AdamW's two running averages
    casts       N c                          autocast in one process keeps the weights in bfloat16 for the backward
    gathered    c (N - layers) + 2 c layer   several: what lies outside of layers, and the layer at work and the next;
                c N                          without reshard_after_forward
    whole copy  N c                          reinforcement learning draws from one: in several processes, on each of
                                             them; in one process with autocast, whose type is not the weights'

Activations are what the backward needs of each token of a micro-batch, for layers as the Llama family has them in
transformers (norms in float32, attention by SDPA, norms of queries and keys, whose few bytes others lack):

    layer       2 d (4 + 2 c) + (q + k) (4 + c) + (q + 2 k) c + 2 q c + 4 f c
    compiled    (2 d + 3 q + 3 k + 2 f) c + 4 (2 + 2 heads + groups)   the rest is computed again by the kernel that
                reads it, at the budget of `models.compiled`; attention as flex has it
    all         layers x layer, or with checkpointing  layers x d c + layer, or with offloading  layer
    logits      2 V c of each column          with their gradient; and 3 pieces in float32
    in pieces   of M bytes where they would be more than M in float32: M + 4 V d + 4 d of each column, and in half
                precision M / 2 + 2 V d more (`models.head`; models that change logits after the head have them whole)

Time can be no less than the operations over the device's rate: per token 2 N forward, 4 N backward (2 N where only
adapters are trained), 2 N for each further forward; attention a T / 2 in place of 2 N, a = 4 layers heads head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polythink.bench.cases import Trace
from polythink.bench.floor import Machine, Shape, kept_bytes, step_floor

MOMENTS = 2  # of AdamW
FLOAT32 = 4
PIECES = 3  # the logits of a piece, scaled, and their gradient


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    processes: int = 1
    weight_bytes: int = FLOAT32  # of a parameter
    compute_bytes: int = FLOAT32  # of a number in a forward
    trained: int | None = None  # parameters; None: all
    reshard: bool = True
    checkpointing: bool = False
    compiled: bool = False
    offloading: bool = False
    draws: bool = False
    reference: bool = False  # a second model that is only compared with

    def of(self, shape: Shape) -> int:
        """The number of trained parameters."""
        return shape.parameters if self.trained is None else self.trained


def layer_parameters(shape: Shape) -> int:
    """Weights of the matrices of one layer."""
    return shape.hidden * (2 * shape.queries + 2 * shape.keys + 3 * shape.intermediate)


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Those of adapters of all linear layers but the head: rank x (inputs + outputs) of each."""
    attention = 2 * (shape.hidden + shape.queries) + 2 * (shape.hidden + shape.keys)
    return rank * shape.layers * (attention + 3 * (shape.hidden + shape.intermediate))


def state_bytes(shape: Shape, how: Training) -> dict[str, float]:
    """Bytes on each device that training holds, whatever the batch."""
    trained, share = how.of(shape), how.weight_bytes / how.processes
    found = {
        "weights": shape.parameters * share,
        "gradients": trained * share,
        "optimiser": MOMENTS * trained * share,
    }
    if how.processes == 1 and how.compute_bytes != how.weight_bytes:
        found["weights in bfloat16"] = shape.parameters * how.compute_bytes
    if how.processes > 1:
        inside = layer_parameters(shape)
        at_once = shape.parameters - max(0, shape.layers - 2) * inside if how.reshard else shape.parameters
        found["gathered weights"] = at_once * how.compute_bytes
    if how.draws and (how.processes > 1 or how.compute_bytes != how.weight_bytes):
        found["whole copy to draw"] = shape.parameters * how.compute_bytes
    if how.reference:
        found["reference"] = shape.parameters * share
    return found


def layer_activations(shape: Shape, compute_bytes: int, compiled: bool = False) -> int:
    """Bytes of one token that one layer keeps for its backward."""
    d, q, k, f, c = shape.hidden, shape.queries, shape.keys, shape.intermediate, compute_bytes
    if compiled:
        numbers = 2 + 2 * shape.heads + shape.kv_heads  # of norms and of attention's softmax
        return (2 * d + 3 * q + 3 * k + 2 * f) * c + numbers * FLOAT32
    norms = 2 * d * (FLOAT32 + 2 * c) + (q + k) * (FLOAT32 + c)
    return norms + (q + 2 * k) * c + 2 * q * c + 4 * f * c


def activation_bytes(shape: Shape, tokens: int, how: Training) -> int:
    """Bytes on the device that a micro-batch of so many tokens keeps for its backward, logits left out."""
    layer = layer_activations(shape, how.compute_bytes, how.compiled)
    if how.offloading:
        return tokens * layer
    if how.checkpointing:
        return tokens * (shape.layers * shape.hidden * how.compute_bytes + layer)
    return tokens * shape.layers * layer


def logits_bytes(shape: Shape, columns: int, compute_bytes: int, piece: int, most: int | None = None) -> int:
    """Bytes of the logits of so many columns with their gradient, and of the float32 pieces of at most `piece`.

    Where they would be more than `most` bytes in float32, those of the pieces in which they are computed.
    """
    numbers = columns * shape.vocabulary
    if most is None or numbers * FLOAT32 <= most:
        return 2 * numbers * compute_bytes + PIECES * min(piece, numbers) * FLOAT32
    head = shape.vocabulary * shape.hidden
    half = most // 2 + 2 * head if compute_bytes == 2 else 0
    return most + FLOAT32 * (head + columns * shape.hidden) + half


def training_flops(shape: Shape, traces: float, length: float, how: Training, forwards: int = 0) -> float:
    """Operations of training on so many traces of that length; `forwards`: those beside forward and backward."""
    weights = shape.parameters - shape.table
    again = forwards + how.checkpointing
    matrices = 2 * (1 + (2 if how.of(shape) == shape.parameters else 1) + again) * weights
    attention = (3 + again) * shape.sizes(1).attention_flops * length / 2
    return traces * length * (matrices + attention)


@dataclass(frozen=True)
class Drawing:
    """What one device draws in a step of reinforcement learning, or in an evaluation, at most."""

    traces: int
    at_once: int  # rows that decode together
    samples: int  # of a problem, whose prompt is kept once
    prompt: int  # tokens
    length: int  # sampled tokens of a trace
    paths: int  # of a trace that are drawn at once; 1: all of it is one text

    def rows(self) -> Sequence[Trace]:
        words = (0,) * self.prompt
        return [Trace(words, self.paths, i // self.samples, i % self.samples) for i in range(self.at_once)]


def cache_bytes(shape: Shape, drawing: Drawing, kv_bytes: int) -> float:
    """Keys and values of all rows at their full length: the most that drawing keeps."""
    return kept_bytes(shape.sizes(kv_bytes), drawing.rows(), drawing.length / drawing.paths)


def drawing_floor(shape: Shape, drawing: Drawing, weight_bytes: int, kv_bytes: int, machine: Machine) -> float:
    """Seconds below which drawing cannot be: each token of a path is a step, at the mean length of its paths."""
    steps = drawing.length / drawing.paths
    rounds = max(1.0, drawing.traces / drawing.at_once)
    sizes = shape.sizes(weight_bytes, kv_bytes)
    return rounds * steps * step_floor(sizes, machine, drawing.rows(), steps / 2)
