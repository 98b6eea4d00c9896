"""The backend that runs steps on an unmodified transformers model, over a `TreeKVCache`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from transformers import Cache

from polythink.engine.backends import attention
from polythink.engine.backends.base import TorchBackend
from polythink.engine.kinds import SHARED
from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.step import StepBatch
from polythink.models.forward import rendered
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import sliding_window
from polythink.models.thoughts import attach, forward_kwargs, thoughts_of


class TransformersBackend(TorchBackend):
    """`kind` "flat": one row of all tokens, the engine's attention. "padded": a batch, the model's own attention."""

    def __init__(self, lm: LanguageModel, kind: str = "flat") -> None:
        assert kind in SHARED, kind
        super().__init__(lm)
        attention.register()
        self.kind = kind
        self.window = sliding_window(self.config)
        self.cache: TreeKVCache | None = None
        self._describe()
        self.clear()

    def _describe(self) -> None:
        """Read of the model what the cache depends on."""

    # --- the model and the cache

    def _prepared(self) -> AbstractContextManager[None]:
        return nullcontext() if self.kind == "padded" else self._with_attention()

    @contextmanager
    def _with_attention(self) -> Iterator[None]:
        """With the engine's attention, as it was again afterwards."""
        model = self.lm.model
        implementation = model.config._attn_implementation
        try:
            model.set_attn_implementation(attention.NAME)
            yield
        finally:
            model.set_attn_implementation(implementation)

    def clear(self) -> None:
        """Free the cache."""
        # a stack may keep keys besides those of its layers
        layers = getattr(self.config, "cache_slots", self.config.num_hidden_layers)
        known = self.cache.sizes if self.cache is not None else []
        self.cache = TreeKVCache(layers, self.lm.device, self.window is not None, self.kind == "padded")
        self.cache.known = known

    @property
    def slot_bytes(self) -> int:
        """Keys and values of one token over all layers; known after the self-check."""
        return sum(self.cache.sizes)

    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """Pages of memory, or a power of two slots; a prefix is copied into the row."""
        return self.cache.bytes_for(prefix + tokens)

    def usable(self, memory: int, slots: int) -> int:
        """All, or a whole number of the largest blocks."""
        return self.cache.usable(memory, slots)

    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Bound the growth of the cache."""
        self.cache.reserve(rows, slots, None if memory is None else memory // self.slot_bytes)

    @torch.inference_mode()
    def attach(self, row: int, prefix: int) -> None:
        """Copy the prefix's keys and values into the row."""
        self.cache.attach(row, prefix)

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment in the table; segment 0 starts a new trace in that row."""
        self.cache.open(row, segment, follows)

    def keep(self, row: int, segments: Collection[int]) -> None:
        """Free a row whose trace has ended; until then all its segments share its slots."""
        if not segments:
            self.cache.release(row)

    def check_scaling(self) -> None:
        """`UserError` where the model's queries cannot be scaled."""
        with self.lock:
            attach(self.lm.model, None)

    # --- one step

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""
        with self.hold():
            self.cache.plan(batch)
            extras = {}
            if thoughts_of(self.lm.model) is not None or batch.scale.max() > 1:
                given = forward_kwargs(
                    self.lm.model, torch.from_numpy(batch.label), torch.from_numpy(batch.scale)
                )  # (N,)
                extras = {name: values.to(self.cache.device) for name, values in given.items()}
            wanted = torch.from_numpy(batch.wanted).to(self.cache.device)
            token = attention.READ.set(partial(attention.attend_told, self.cache))
            try:
                logits = (self._padded if self.kind == "padded" else self._flat)(wanted, extras)
            finally:
                attention.READ.reset(token)
        assert len(logits) == len(wanted), "the model does not heed logits_to_keep"
        return logits

    def _flat(self, wanted: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
        extras = {name: values[None] for name, values in extras.items()}
        logits = self._flat_call(self.cache, self.cache.now.tokens, self.cache.now.positions, wanted, **extras)
        if self.window is not None and not self.cache.window_seen:
            raise NotImplementedError("attention with a sliding window that it is not told of")
        return logits

    def _flat_call(
        self, cache: Cache, tokens: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, **extras: torch.Tensor
    ) -> torch.Tensor:
        """The module's own forward on one row of tokens (N,): logits (W, V) after the `wanted` ones."""
        if self._keeps_logits:
            extras["logits_to_keep"] = wanted
        # any 4-D tensor makes the model leave masks alone; the real ones are in the cache's groups
        out = self.lm.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tokens.device),
            use_cache=True,
            **{self._cache_argument: cache},
            **extras,
        )
        return out.logits[0] if self._keeps_logits else out.logits[0, wanted]

    def _padded(self, wanted: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
        # in a hold of another engine on this model, its attention would read this batch in silence
        assert self.lm.model.config._attn_implementation != attention.NAME, "engines of two kinds are nested"
        step = self.cache.now
        (group,) = step.groups
        width = group.index.shape[1]
        places = group.at[wanted]  # in (r, Q); of a chunk of a prompt only the last token's logits are wanted
        columns, column_of = torch.unique(places % width, return_inverse=True)
        extras = {name: values[group.index] for name, values in extras.items()}
        if self._keeps_logits:
            extras["logits_to_keep"] = columns
        out = self.lm.model(
            input_ids=step.tokens[group.index],
            position_ids=step.positions[group.index],
            attention_mask=self.masks(group.mask, group.age),
            use_cache=True,
            **{self._cache_argument: self.cache},
            **extras,
        )
        return out.logits[places // width, column_of if self._keeps_logits else places % width]

    def masks(self, mask: torch.Tensor, age: torch.Tensor | None) -> torch.Tensor | dict[str, torch.Tensor]:
        """(B, Q, K) bool as the model's own attention takes it.

        A 4-D mask takes the place of the model's own, so a window has to be added here; models that mix windowed and
        full layers take one mask for each kind.
        """
        full = rendered(self.lm.model, mask[:, None])
        if self.window is None:
            return full
        windowed = rendered(self.lm.model, (mask & (age < self.window))[:, None])
        kinds = set(getattr(self.config, "layer_types", None) or ())
        return {"full_attention": full, "sliding_attention": windowed} if kinds else windowed
