"""The self-check of a backend whose segments follow one other each: every chain must be a plain text.

Left out: what a tree with a join is checked for (`selfcheck.py`), and masks, which such a backend never uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import torch

from polythink.engine.backends.base import TorchBackend
from polythink.engine.step import StepBatch
from polythink.models.forward import TOLERANCE, difference, evaluating, product_dtype
from polythink.models.thoughts import forward_kwargs


class SelfCheckFailed(Exception):
    """The model does not compute what its layout says."""


def same(what: str, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises `SelfCheckFailed` where two ways to compute the same logits differ by more than rounding."""
    within(what, a, b, TOLERANCE.get(dtype, 1e-3))


def within(what: str, a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    """Raises `SelfCheckFailed` where logits differ by more than this share of their spread."""
    if not (error := difference(a, b)) < tolerance:  # written so that NaN fails
        raise SelfCheckFailed(f"{what} differ by {error:.1e} of the logits' spread")


def logprob_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Expected |difference| of the log-probabilities (nats) of a token that is sampled from logits `a` (T, V), not `b`.

    What rounding does to `logprob_gap_mean` in training.
    """
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return (a.exp() * (a - b).abs()).sum(-1).mean().item()


@dataclass(frozen=True)
class _Trace:
    """Segments as lists of tokens, with the segment that each follows (-1: none), and when their tokens run."""

    segments: tuple[list[int], ...]
    follows: tuple[int, ...]

    def chain(self, segment: int) -> list[int]:
        before = self.follows[segment]
        return (self.chain(before) if before >= 0 else []) + self.segments[segment]

    def start(self, segment: int) -> int:
        """The position of the segment's first token."""
        return len(self.chain(segment)) - len(self.segments[segment])


Tokens = list[tuple[int, int]]  # of one trace in one step: segment, and place in it


def check_chains(backend: TorchBackend) -> None:
    """Raises `SelfCheckFailed` unless decoding gives what each chain gives in one plain forward, whatever the paths
    beside it and the traces in other rows are, and however the prompt is cut into chunks."""
    lm = backend.lm
    vocabulary = lm.model.config.get_text_config().vocab_size
    dtype = product_dtype(lm.model.dtype, lm.device.type)  # autocast's where it is checked under that
    ids = torch.randint(vocabulary, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    cuts = [0, 5, 9, 12, 16, 19, 23]
    prompt, first, second, copy, join, other = (ids[begin:end] for begin, end in pairwise(cuts))
    follows = (-1, 0, 0, 0, 3)
    trace, moved = (_Trace((prompt, path, second, copy, join), follows) for path in (first, other))
    with evaluating(lm.model):
        (alone,) = _decoded(backend, [trace])
        texts = [plain(backend, trace.chain(segment))[trace.start(segment) :] for segment in (1, 2, 4)]
        for segment, text in zip((1, 2, 4), texts, strict=True):
            same("decoding and one plain forward", alone[segment], text, dtype)
        backend.logprob_error = logprob_error(torch.cat([alone[s] for s in (1, 2, 4)]), torch.cat(texts))
        beside, other_sibling, chunked = _decoded(backend, [trace, moved, trace], (0, 0, 3))
        same("a trace alone and beside others", torch.cat(beside), torch.cat(alone), dtype)
        for segment in (2, 3, 4):
            same("a path before and after its sibling changed", other_sibling[segment], alone[segment], dtype)
        same("a prompt read in chunks and as a whole", torch.cat(chunked), torch.cat(alone), dtype)


def _steps(trace: _Trace, cut: int) -> list[Tokens]:
    """The trace as an engine runs it.

    The prompt (in two chunks with `cut`), the forced first tokens of the paths in the step of its last, the paths in
    lock step, the copy as a whole as soon as they have ended, then token by token.
    """
    prompt, first, second, copy, join = (list(range(len(tokens))) for tokens in trace.segments)
    head = [[(0, i) for i in prompt[:cut]]] if cut else []
    steps = [*head, [(0, i) for i in prompt[cut:]] + [(1, 0), (2, 0)]]
    steps += [[(1, i), *([(2, i)] if i in second else [])] for i in first[1:]]
    steps[-1] += [(3, i) for i in copy] + [(4, 0)]
    return steps + [[(4, i)] for i in join[1:]]


def _decoded(backend: TorchBackend, traces: Sequence[_Trace], cuts: Sequence[int] = (0,)) -> list[list[torch.Tensor]]:
    """Logits of all tokens, by trace and segment, run row beside row."""
    found: list[dict[tuple[int, int], torch.Tensor]] = [{} for _ in traces]
    with backend.hold():
        try:
            for row, trace in enumerate(traces):
                for segment, before in enumerate(trace.follows):
                    backend.open(row, segment, (before,) if before >= 0 else ())
            steps = (_steps(trace, cut) for trace, cut in zip(traces, cuts, strict=True))
            for step in zip_longest(*steps, fillvalue=[]):
                logits = backend.logits(_batch(traces, step)).float()
                owners = [(row, token) for row, tokens in enumerate(step) for token in tokens]
                for (row, token), values in zip(owners, logits, strict=True):
                    found[row][token] = values
        finally:
            backend.clear()
    return [
        [torch.stack([own[s, i] for i in range(len(tokens))]) for s, tokens in enumerate(trace.segments)]
        for own, trace in zip(found, traces, strict=True)
    ]


def _batch(traces: Sequence[_Trace], step: Iterable[Tokens]) -> StepBatch:
    """The tokens of one step of all traces; the logits after every one are wanted."""
    tokens = [(row, s, i) for row, of_row in enumerate(step) for s, i in of_row]
    return StepBatch.every(
        token=[traces[row].segments[s][i] for row, s, i in tokens],
        segment=[s for _, s, _ in tokens],
        position=[traces[row].start(s) + i for row, s, i in tokens],
        row=[row for row, _, _ in tokens],
    )


@torch.no_grad()
def plain(backend: TorchBackend, tokens: list[int], labels: Sequence[int] = ()) -> torch.Tensor:
    """Logits (T, V) of a plain causal forward, which knows nothing of layouts; `labels`: path numbers (none: all 0)."""
    model, ids = backend.lm.model, torch.tensor([tokens], device=backend.lm.device)
    path_ids = torch.tensor([list(labels) or [0] * len(tokens)], device=ids.device)
    extras = forward_kwargs(model, path_ids, torch.ones(ids.shape))
    return model(input_ids=ids, use_cache=False, **extras).logits[0].float()
