"""Layouts rendered for a `transformers` model: one dense bool mask, explicit positions, and chain log-probabilities.

This is the slow, certain renderer: SDPA with a bool mask (B, 1, T, T), True = may attend. It serves training, and is
what the engine is measured against. What would go wrong without an error (an eager kernel that adds True as 1.0,
restarted positions without a mask, a sliding window that the mask replaces) is refused here.

Axis legend: B rows, T tokens of a row, C columns whose logits are computed, N tokens that are scored, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from polythink.errors import UserError
from polythink.models.thoughts import keywords
from polythink.trace.layout import Layout

CHUNK_ELEMENTS = 1 << 26  # logits turned into float32 at a time: 256 MB


@dataclass(frozen=True)
class Batch:
    """Layouts padded on the right to one length. Padding attends itself alone, and nothing attends padding."""

    tokens: torch.Tensor  # (B, T) int64
    positions: torch.Tensor  # (B, T) int64
    mask: torch.Tensor  # (B, 1, T, T) bool, True = may attend
    previous: torch.Tensor  # (B, T) int64: index of the chain predecessor, -1 without one
    sampled: torch.Tensor  # (B, T) bool: drawn from the model
    response: torch.Tensor  # (B, T) bool: not of the prompt
    real: torch.Tensor  # (B, T) bool: not padding
    path_ids: torch.Tensor  # (B, T) int64: the number of the path a token belongs to, 0 outside of paths
    query_scale: torch.Tensor  # (B, T) float32: factor on the attention scores of a token's query

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate(layouts: Sequence[Layout], pad_id: int = 0) -> Batch:
    """The batch of these layouts, one a row."""
    assert layouts, "a batch needs at least one layout"
    shape = (len(layouts), max(len(x) for x in layouts))
    tokens, positions, previous = np.full(shape, pad_id), np.zeros(shape, np.int64), np.full(shape, -1)
    sampled, response, real = (np.zeros(shape, bool) for _ in range(3))
    path_ids, query_scale = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    mask = np.repeat(np.eye(shape[1], dtype=bool)[None], shape[0], axis=0)
    for b, layout in enumerate(layouts):
        n = len(layout)
        tokens[b, :n], positions[b, :n], previous[b, :n] = layout.tokens, layout.position, layout.previous
        sampled[b, :n], real[b, :n] = layout.sampled, True
        response[b, :n] = response_of(layout)
        path_ids[b, :n] = np.array(layout.labels)[layout.segment]
        query_scale[b, :n] = np.array(layout.scales)[layout.segment]
        mask[b, :n, :n] = layout.may_attend()
    arrays = (tokens, positions, mask[:, None], previous, sampled, response, real, path_ids, query_scale)
    return Batch(*(torch.from_numpy(a) for a in arrays))


def response_of(layout: Layout) -> np.ndarray:
    """(T,) bool: the tokens that are not of the prompt."""
    return np.array([kind != "prompt" for kind in layout.kinds])[layout.segment]


def pack(layouts: Sequence[Layout]) -> Layout:
    """Several traces as one layout: side by side in one row, none seeing another. Saves padding, changes no value."""
    tokens_before = np.cumsum([0, *(len(x) for x in layouts)])
    segments_before = np.cumsum([0, *(len(x.kinds) for x in layouts)])
    sees = np.zeros((segments_before[-1],) * 2, bool)
    for layout, s in zip(layouts, segments_before, strict=False):
        sees[s : s + len(layout.kinds), s : s + len(layout.kinds)] = layout.sees
    return Layout(
        tokens=np.concatenate([x.tokens for x in layouts]),
        segment=np.concatenate([x.segment + s for x, s in zip(layouts, segments_before, strict=False)]),
        position=np.concatenate([x.position for x in layouts]),
        previous=np.concatenate(
            [np.where(x.previous < 0, -1, x.previous + t) for x, t in zip(layouts, tokens_before, strict=False)]
        ),
        sampled=np.concatenate([x.sampled for x in layouts]),
        kinds=tuple(kind for x in layouts for kind in x.kinds),
        paths=tuple(path for x in layouts for path in x.paths),
        labels=tuple(label for x in layouts for label in x.labels),
        scales=tuple(scale for x in layouts for scale in x.scales),
        follows=tuple(
            tuple(int(f + s) for f in before)
            for x, s in zip(layouts, segments_before, strict=False)
            for before in x.follows
        ),
        sees=sees,
    )


def masked_logits(model, batch: Batch, columns: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (B, C, V) of one forward over the whole batch; `columns` (C,) picks the tokens that get logits.

    The model is called as a whole, so that wrappers around it (FSDP, autocast, hooks) take effect. A model with thought
    embeddings is told the path numbers; one that is to scale its queries is hooked for it when the first is to be.
    """
    check_forward(model, batch.positions, batch.mask)
    extras = {} if columns is None else {"logits_to_keep": columns}
    extras |= keywords(model, batch.path_ids, batch.query_scale)
    logits = model(
        input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False, **extras
    ).logits
    assert columns is None or logits.shape[1] == len(columns), "the model does not know logits_to_keep"
    return logits


def token_logprobs(
    model, batch: Batch, temperature: float | torch.Tensor = 1.0, wanted: torch.Tensor | None = None
) -> torch.Tensor:
    """Natural log-probability (B, T) float32 of each token given its chain predecessor, differentiable.

    `temperature` divides the logits: a number, or (B, T), one for each scored token. Only the tokens marked in `wanted`
    (B, T) bool (default: all) are scored; the rest, padding and tokens without a predecessor are 0.
    """
    scored = batch.real & (batch.previous >= 0)
    if wanted is not None:
        scored = scored & wanted
    result = torch.zeros(batch.tokens.shape, dtype=torch.float32, device=batch.tokens.device)
    if not scored.any():
        return result
    rows, tokens = scored.nonzero(as_tuple=True)
    columns, column_of = torch.unique(batch.previous[rows, tokens], return_inverse=True)
    logits = masked_logits(model, batch, columns)
    scale = torch.as_tensor(temperature, dtype=torch.float32, device=result.device).expand(result.shape)[rows, tokens]
    assert bool((scale > 0).all()), "log-probabilities are not defined at temperature 0"
    values = _pick_logprobs(logits, rows, column_of, batch.tokens[rows, tokens], scale)
    return result.index_put((rows, tokens), values)


def _pick_logprobs(logits, rows, columns, tokens, temperature) -> torch.Tensor:
    """(N,) log-softmax(logits[rows, columns] / temperature)[tokens] in float32, a bounded piece of V x N at a time."""

    def pick(logits, span: slice) -> torch.Tensor:
        scaled = logits[rows[span], columns[span]].float() / temperature[span, None]
        return scaled.gather(1, tokens[span, None])[:, 0] - scaled.logsumexp(dim=1)

    size = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    spans = [slice(i, i + size) for i in range(0, len(rows), size)]
    if len(spans) == 1 or not logits.requires_grad:
        return torch.cat([pick(logits, span) for span in spans])
    # the float32 copies are made again in backward rather than kept
    return torch.cat([checkpoint(pick, logits, span, use_reentrant=False) for span in spans])


def check_forward(model, positions: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Refuse the combinations of attention, mask and positions that give wrong logits without an error, or abort."""
    attention = model.config._attn_implementation
    if attention == "flex_attention" and positions.device.type == "cpu":
        raise UserError("attention 'flex_attention' aborts the process on a CPU; load the model with attention 'sdpa'")
    if attention == "eager" and mask is not None and mask.dtype == torch.bool:
        raise UserError("attention 'eager' adds a bool mask as 0 and 1 instead of masking; train a model with 'sdpa'")
    if attention != "sdpa":
        raise UserError(f"a masked forward needs attention 'sdpa', the model is set to {attention!r}")
    if mask is None:
        if positions.shape[1] > 1 and bool((positions.diff(dim=1) != 1).any()):
            raise UserError("positions that restart need an explicit mask; without one they are read as packed texts")
        return
    if mask.dtype != torch.bool:
        raise UserError(f"the mask must be bool with True = may attend, not {mask.dtype}, which is added to the scores")
    expected = (positions.shape[0], 1, positions.shape[1], positions.shape[1])
    if tuple(mask.shape) != expected:
        raise UserError(f"the mask must have shape (B, 1, T, T) = {expected}, not {tuple(mask.shape)}")
    window = sliding_window(model.config)
    if window is not None and int(positions.max()) >= window:
        raise UserError(
            f"the model has a sliding window of {window} positions, which an explicit mask would replace; "
            f"keep traces below it (this one reaches position {int(positions.max())})"
        )


def sliding_window(config) -> int | None:
    """The window of the model's narrowest layers in positions, None where every layer attends to all."""
    config = config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    local = layer_types is None or any(kind not in ("full_attention", "attention") for kind in layer_types)
    if not local or getattr(config, "use_sliding_window", True) is False:
        return None
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((w for w in windows if w), default=None)
