"""The backend of the Llama family: the same cache as the flat one, under a forward of our own that launches less."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.lean.cpu_ops import CPUOps, Packed, may_pack, packing_pays
from polythink.engine.lean.family import Family, Unfit, describe
from polythink.engine.lean.forward import forward
from polythink.engine.lean.torch_ops import TorchOps
from polythink.engine.step import StepBatch
from polythink.models.forward import product_dtype
from polythink.models.lm import LanguageModel

PACK_AFTER = 16  # steps of one hold with rows enough: packing the weights takes as long as five to thirteen of them


class LeanBackend(TransformersBackend):
    """`Unfit` where the model is not a plain one of the Llama family.

    The model is read anew whenever it is taken hold of. Where it does not fit any more (a hook, an adapter), the steps
    of that hold run on the model itself, with a warning once: the same numbers, more slowly. So no hook may be added
    and no module replaced while it is held.
    """

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm, "lean")
        self.family: Family | None = describe(lm.model)
        self._warned = False
        self._steps = 0  # of this hold that packed weights would be faster in
        self._packed: Packed | None = None  # of this hold: weights are not trained while it lasts
        self._asked: torch.dtype | None = None  # whether they may be packed for products of this type

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """The model as it is now, described."""
        self.family, why = self._description()
        if why and not self._warned:
            self._warned = True
            warnings.warn(f"decoding goes on with the flat backend: the model has {why}", stacklevel=2)
        with super()._prepared() if why else nullcontext():
            try:
                yield
            finally:
                self._steps, self._packed, self._asked = 0, None, None

    def _description(self) -> tuple[Family | None, str]:
        try:
            return describe(self.lm.model), ""
        except Unfit as error:
            return None, str(error)

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""
        with self.hold():
            if self.family is None:
                return super().logits(batch)
            step = self.cache.plan(batch)
            # several branches may continue after one token
            everything = np.array_equal(batch.wanted, np.arange(len(batch.token)))
            wanted = None if everything else torch.from_numpy(batch.wanted).to(self.cache.device)
            return forward(self.family, self._ops(batch), step.tokens, wanted)

    def _ops(self, batch: StepBatch) -> TorchOps:
        dtype, more = self.lm.model.dtype, (self._vectors(batch), self._scale(batch))
        kind = product_dtype(dtype)
        if self.cache.device.type != "cpu":
            return TorchOps(self.family, self.cache, dtype, *more)
        if packing_pays(len(batch.token), kind):
            self._steps += 1
            after = PACK_AFTER if kind == dtype else 2  # autocast casts the weights anew in every step
            if self._steps >= after and self._asked != kind:
                self._asked = kind
                self._packed = Packed(self.family, kind) if may_pack(self.family) else None
        return CPUOps(self.family, self.cache, dtype, self._packed, *more)

    def _vectors(self, batch: StepBatch) -> torch.Tensor | None:
        """(layers, N, D): the thought embeddings of the tokens."""
        thoughts = self.family.thoughts
        if thoughts is None or thoughts.table is None:
            return None
        thoughts.check(int(batch.label.max()))
        return thoughts.table[:, torch.from_numpy(batch.label).to(self.cache.device)]

    def _scale(self, batch: StepBatch) -> torch.Tensor | None:
        """(N,) float32: the factor on the tokens' queries."""
        return torch.from_numpy(batch.scale).to(self.cache.device) if batch.scale.max() > 1 else None
