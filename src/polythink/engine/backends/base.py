"""What the backends in this process share: the hold on the model, and the sampling.

`LocalBackend` is any of them, `TorchBackend` one that runs a transformers model.
"""

from __future__ import annotations

import inspect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from polythink.engine.params import SamplingParams
from polythink.engine.sampling import Likeliest, check_finite, sample
from polythink.engine.step import Alternatives, StepBatch
from polythink.errors import UserError
from polythink.models.forward import cache_argument, cannot_join, evaluating
from polythink.models.lm import LanguageModel
from polythink.models.vocabulary import Vocabulary

# Holding a model changes its attention and its training mode, so engines that share one in several threads take turns.
# Code that runs the model directly in another thread must take this lock itself.
_LOCKS: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()


def lock_of(model: torch.nn.Module) -> threading.RLock:
    """The lock that whoever runs this model in a thread must hold."""
    return _LOCKS.setdefault(model, threading.RLock())


class LocalBackend(ABC):
    """See `polythink.engine.step.Backend`. Logits come from `logits`; everything around it is here."""

    kind = ""
    chunks = True  # several tokens of a branch in one forward, after others
    looks_ahead = False  # steps are launched before the results of the one before are read
    joins_caches = True  # a segment may follow several others and read the keys and values of all
    forgets = False  # is told by `keep` which segments may still be followed, and gives up the others
    most_sequences: int | None = None  # segments of all rows that it can keep apart at a time; None: any number
    slot_bytes = 0  # keys and values of one token over all layers, known after the self-check; 0: not bounded
    # How far off (nats) the log-probability of a sampled token is to be expected from that of one masked forward, as
    # the self-check measured it: below 1e-5 in float32, below 0.05 in bfloat16.
    logprob_error = math.nan
    alternatives: Alternatives = MappingProxyType({})  # those of the last step: see `StepBatch.top`
    lm: Vocabulary

    @abstractmethod
    def hold(self) -> AbstractContextManager[None]:
        """The model ready for steps until the context closes. Re-entrant."""

    def ran(self) -> dict[str, Any]:
        """What a result's provenance says of its model, where that is none of transformers': model, weights, device,
        dtype. Empty: look at the model."""
        return {}

    def check_params(self, params: SamplingParams) -> None:
        """`UserError` for what this backend cannot draw, before anything is sampled."""
        if params.rules.joins_caches and not self.joins_caches:
            raise UserError(cannot_join(self.lm.model))

    @property
    def about(self) -> str:
        """The kind in words, with what makes it slower than it could be."""
        return self.kind

    # --- the cache

    @abstractmethod
    def clear(self) -> None:
        """Free the cache."""

    @abstractmethod
    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """Bytes that a row of `tokens` tokens of its own in so many segments, attached to `prefix` tokens, occupies."""

    def usable(self, memory: int, slots: int) -> int:
        """How many bytes of a budget rows of up to `slots` slots can use."""
        return memory

    @abstractmethod
    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Bound the growth of the cache."""

    @abstractmethod
    def attach(self, row: int, prefix: int) -> None:
        """Let the next trace in `row` read all tokens of row `prefix` before its own."""

    @abstractmethod
    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment; segment 0 starts a new trace in that row."""

    @abstractmethod
    def keep(self, row: int, segments: Collection[int]) -> None:
        """Forget all segments of a row but these: no other is run or followed any more."""

    @abstractmethod
    def check_scaling(self) -> None:
        """`UserError` where the model's queries cannot be scaled."""

    # --- one step

    @abstractmethod
    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""

    def step(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        """Run the tokens and sample: (W,) tokens int64 and (W,) log-probabilities float64, on the host."""
        with self.hold():
            logits = self.logits(batch)
            if not len(batch.wanted):
                return np.empty(0, np.int64), np.empty(0)
            key, count, temperature = _uploaded(batch, logits.device)
            drawn = sample(logits, temperature, key, count, batch.top_p, batch.top_k)
            likeliest = Likeliest(logits, temperature, batch.top) if batch.top.any() else None
            # one transfer for all: a double holds every token id and every float32 exactly
            tokens, logprobs, finite = torch.stack([column.double() for column in drawn]).cpu().numpy()
        check_finite(finite)
        self.alternatives = {} if likeliest is None else likeliest.read()
        return tokens.astype(np.int64), logprobs


class TorchBackend(LocalBackend):
    """A backend that runs a transformers model."""

    lm: LanguageModel

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.config = lm.model.config.get_text_config()
        self.lock = lock_of(lm.model)
        self._takes = set(inspect.signature(lm.model.forward).parameters)
        self._keeps_logits = "logits_to_keep" in self._takes
        self._cache_argument = cache_argument(lm.model)
        self._held = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The model in inference mode and made ready, as it was again afterwards. Re-entrant.

        Out of training mode, because training with checkpointing would drop the cache.
        """
        with self.lock, torch.inference_mode():
            if self._held:
                yield
                return
            self._held += 1
            try:
                with self._prepared(), evaluating(self.lm.model):
                    yield
            finally:
                self._held -= 1

    def _prepared(self) -> AbstractContextManager[None]:
        """What else a backend changes of the model while it is held."""
        return nullcontext()


def _uploaded(batch: StepBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What names the random numbers, as the bits of int64, and the temperatures: (W,) each, in one transfer."""
    key, count = batch.key.view(np.int64), batch.count.view(np.int64)
    if device.type == "cpu":
        return torch.from_numpy(key), torch.from_numpy(count), torch.from_numpy(batch.temperature)
    packed = np.stack((key, count, batch.temperature.astype(np.float64).view(np.int64)))
    key, count, temperature = torch.from_numpy(packed).to(device)
    return key, count, temperature.view(torch.float64).float()
