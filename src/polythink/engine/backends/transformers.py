"""What runs the feeds: an unmodified transformers model over the arena. Another backend would take this one's place.

The engine asks four things of a backend: `session(rows, most)`, `open_segment(row, segment, follows)`, `run(feeds,
rows, wanted) -> logits`, and that rows may be reused as soon as a new trace's first segment is opened in them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from polythink.engine.backends import attention
from polythink.engine.kv_cache import TreeKVCache
from polythink.engine.trace_state import TokenInput
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import sliding_window
from polythink.models.thoughts import forward_kwargs, thoughts_of

KINDS = ("flat", "padded")

# A session changes the model (its attention, its training mode), so a model has one at a time: engines that share it in
# several threads take turns. Whoever else runs the model in another thread meanwhile must wait for them by himself.
_LOCKS: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()


class TransformersBackend:
    """`kind` "flat": one row of all feeds, the arena's attention. "padded": a batch, the model's own attention."""

    def __init__(self, lm: LanguageModel, kind: str = "flat") -> None:
        assert kind in KINDS, kind
        attention.register()
        self.lm, self.kind = lm, kind
        self.config = lm.model.config.get_text_config()
        self.window = sliding_window(self.config)
        self.lock = _LOCKS.setdefault(lm.model, threading.RLock())
        self.arena: TreeKVCache | None = None
        self._keeps_logits = "logits_to_keep" in inspect.signature(lm.model.forward).parameters

    @contextmanager
    def session(self, rows: int, most: int = 1 << 30) -> Iterator[None]:
        """A fresh arena of `rows` rows of at most `most` slots, and the model in inference mode.

        Training with checkpointing would drop caches.
        """
        model = self.lm.model
        # a stack may keep keys besides those of its layers
        slots = getattr(self.config, "cache_slots", self.config.num_hidden_layers)
        with self.lock, torch.inference_mode():
            training, implementation, outer = model.training, model.config._attn_implementation, self.arena
            self.arena = TreeKVCache(slots, rows, self.lm.device, self.window is not None, self.kind == "padded", most)
            token = attention.ARENA.set(self.arena)
            try:
                model.eval()
                if self.kind == "flat":
                    model.set_attn_implementation(attention.NAME)
                yield
            finally:
                model.set_attn_implementation(implementation)
                model.train(training)
                attention.ARENA.reset(token)
                self.arena = outer

    def open_segment(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment in the table; segment 0 starts a new trace in that row."""
        self.arena.open(row, segment, follows)

    def run(self, feeds: Sequence[TokenInput], rows: Sequence[int], wanted: Sequence[int]) -> torch.Tensor:
        """Logits (len(wanted), V) of the feeds numbered in `wanted`. Feeds come row by row, in the order of slots."""
        tokens, segments, positions, slots, labels, scales, _ = zip(*feeds, strict=True)
        self.arena.plan(tokens, segments, positions, slots, rows)
        extras = {}
        if thoughts_of(self.lm.model) is not None or max(scales) > 1:
            given = forward_kwargs(self.lm.model, torch.tensor(labels), torch.tensor(scales))  # (N,) each
            extras = {name: values.to(self.arena.device) for name, values in given.items()}
        forward = self._flat if self.kind == "flat" else self._padded
        logits = forward(torch.tensor(wanted, dtype=torch.long, device=self.arena.device), extras)
        assert len(logits) == len(wanted), "the model does not heed logits_to_keep"
        return logits

    def _flat(self, wanted: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
        step = self.arena.step
        extras = {name: values[None] for name, values in extras.items()}
        if self._keeps_logits:
            extras["logits_to_keep"] = wanted
        # any 4-D tensor makes the model leave masks alone; the real ones are in the arena's groups
        out = self.lm.model(
            input_ids=step.tokens[None],
            position_ids=step.positions[None],
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.arena.device),
            past_key_values=self.arena,
            use_cache=True,
            **extras,
        )
        if self.window is not None and not self.arena.window_seen:
            raise NotImplementedError("attention with a sliding window that it is not told of")
        return out.logits[0] if self._keeps_logits else out.logits[0, wanted]

    def _padded(self, wanted: torch.Tensor, extras: dict[str, torch.Tensor]) -> torch.Tensor:
        step = self.arena.step
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
            past_key_values=self.arena,
            use_cache=True,
            **extras,
        )
        return out.logits[places // width, column_of if self._keeps_logits else places % width]

    def masks(self, mask: torch.Tensor, age: torch.Tensor | None) -> torch.Tensor | dict[str, torch.Tensor]:
        """(B, Q, K) bool as the model's own attention takes it.

        A window is cut in by hand, since a 4-D mask takes the place of the model's own; models that mix windowed and
        full layers take one mask for each. Eager attention adds its mask, so it gets a float one: a bool would be added
        as 0 and 1, without an error.
        """
        full = self._rendered(mask)
        if self.window is None:
            return full
        windowed = self._rendered(mask & (age < self.window))
        kinds = set(getattr(self.config, "layer_types", None) or ())
        return {"full_attention": full, "sliding_attention": windowed} if kinds else windowed

    def _rendered(self, mask: torch.Tensor) -> torch.Tensor:
        mask, model = mask[:, None], self.lm.model
        if model.config._attn_implementation != "eager":
            return mask
        return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(model.dtype).min
        )
