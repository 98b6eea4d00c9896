"""Log-probabilities of one forward, each token given its chain predecessor.

SDPA with the batch's bool mask, or plain rows for models that do not heed masks. Combinations that would give wrong
numbers without an error (an eager kernel that adds True as 1.0, restarted positions without a mask, a window of a kind
that the mask does not have) are refused here.

Axis legend: B rows, T tokens of a row, C columns whose logits are computed, N tokens that are scored, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from polythink.errors import UserError
from polythink.models.batch import Batch, to_multiple
from polythink.models.blocks import FLEX, BlockMask, block_mask
from polythink.models.forward import context_of, heeds_masks, rotary_switch, unwrapped
from polythink.models.head import LOGITS_MEMORY_BYTES, Scoring, scored_in_place
from polythink.models.thoughts import forward_kwargs
from polythink.models.unfold import chain_logits

Logits = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# as `logits_after`, and as `scored_after` where a `Scoring` is given
LogitsOf = Callable[[torch.nn.Module, Batch, torch.Tensor, torch.Tensor, Scoring | None], Logits | torch.Tensor]
# torch's memory-efficient attention with a bool mask was wrong at 65 tokens, log-probabilities by 0.1 to 0.75, not in
# every run (torch 2.11, H200, float32; its math kernel was right). Of other lengths, multiples of this too, none was.
ALIGNED = 8
CHUNK_ELEMENTS = 1 << 26  # logits turned into float32 at a time: 256 MB


def masked_logits(model, batch: Batch, columns: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (B, C, V) of one forward over the whole batch; `columns` (C,) picks the tokens that get logits.

    The model is called as a whole, so that wrappers around it (FSDP, autocast, hooks) take effect. A model with thought
    embeddings gets the path numbers; a batch with scaled queries hooks the model at its first forward.
    """
    logits = _forward(model, batch, columns)
    assert columns is None or logits.shape[1] == len(columns), "the model ignores logits_to_keep"
    return logits


def _forward(model, batch: Batch, columns: torch.Tensor | None) -> torch.Tensor:
    """What the model returns as logits, with the batch's mask, or with one of blocks where it has the tables of it."""
    width = batch.tokens.shape[1]
    mask = _mask(batch)
    check_forward(model, batch.positions, mask)
    if batch.mask is not None and batch.tokens.is_cuda:
        batch = to_multiple(batch, ALIGNED)
        mask = batch.mask
    window = sliding_window(model.config)
    if window is not None and int(batch.positions.max()) >= window:
        kinds = getattr(model.config.get_text_config(), "layer_types", None)
        near = _mask(batch, window)
        mask = {"full_attention": mask, "sliding_attention": near} if kinds else near
    extras = {} if columns is None else {"logits_to_keep": columns}
    extras |= forward_kwargs(model, batch.path_ids, batch.query_scale)
    logits = model(
        input_ids=batch.tokens, attention_mask=mask, position_ids=batch.positions, use_cache=False, **extras
    ).logits
    return logits[:, :width] if columns is None else logits


def _mask(batch: Batch, window: int | None = None) -> torch.Tensor | BlockMask:
    """The batch's mask, dense or of blocks; with a `window` tokens see only positions less than so many before theirs.

    An explicit mask takes the place of the model's own, so a window is part of it.
    """
    if batch.sees is not None:
        return block_mask(batch.segment, batch.sees, batch.positions, window)
    if window is None:
        return batch.mask
    return batch.mask & (batch.positions[:, None, :, None] - batch.positions[:, None, None, :] < window)


def logits_after(
    model, batch: Batch, rows: torch.Tensor, tokens: torch.Tensor, scoring: Scoring | None = None
) -> Logits | torch.Tensor:
    """Logits of one forward, (rows, columns, V), and where in it those after the N given tokens lie: (N,) and (N,).

    A forward over the batch with its mask, or, for a model that does not heed masks, over plain rows (`unfold.py`).
    With a `scoring` whose logits would not fit its memory, the log-probabilities (N,) of its tokens instead.
    """
    check_attention(model, batch.tokens.device)
    if not heeds_masks(model):
        _check_positions(model.config, batch.positions)
        return chain_logits(model, batch, rows, tokens, scoring)
    columns, column_of = torch.unique(tokens, return_inverse=True)
    if scoring is None or not scoring.in_pieces(model, len(batch.tokens) * len(columns)):
        return masked_logits(model, batch, columns), rows, column_of
    with scored_in_place(model, scoring, rows, column_of):
        return _forward(model, batch, columns)


def token_logprobs(
    model,
    batch: Batch,
    temperature: float | torch.Tensor = 1.0,
    wanted: torch.Tensor | None = None,
    logits_of: LogitsOf | None = None,
    memory_bytes: int = LOGITS_MEMORY_BYTES,
    float32_head: bool = False,
    fused: bool = False,
) -> torch.Tensor:
    """Natural log-probability (B, T) float32 of each token given its chain predecessor, differentiable.

    `temperature` divides the logits: a number, or (B, T), one for each scored token. Only the tokens marked in `wanted`
    (B, T) bool (default: all) are scored; the rest, padding and tokens without a predecessor are 0. `logits_of`
    computes the logits in place of `logits_after`.

    Logits that would take more than `memory_bytes` in float32 are computed in pieces (`head.py`), and again in the
    backward pass. `float32_head`: their product with the head's weight in float32, whatever the type of the weights.
    `fused`: pieces are computed by compiled kernels.
    """
    scored = batch.real & (batch.previous >= 0)
    if wanted is not None:
        scored = scored & wanted
    result = torch.zeros(batch.tokens.shape, dtype=torch.float32, device=batch.tokens.device)
    if not scored.any():
        return result
    rows, tokens = scored.nonzero(as_tuple=True)
    scale = torch.as_tensor(temperature, dtype=torch.float32, device=result.device).expand(result.shape)[rows, tokens]
    assert bool((scale > 0).all()), "log-probabilities are not defined at temperature 0"
    scoring = Scoring(batch.tokens[rows, tokens], scale, memory_bytes, float32_head, fused)
    found = (logits_of or logits_after)(model, batch, rows, batch.previous[rows, tokens], scoring)
    values = found if isinstance(found, torch.Tensor) else pick_logprobs(*found, scoring.tokens, scale)
    return result.index_put((rows, tokens), values)


def pick_logprobs(logits, rows, columns, tokens, temperature) -> torch.Tensor:
    """(N,) log-softmax(logits[rows, columns] / temperature)[tokens] in float32, a bounded part of V x N at a time."""

    def pick(logits, span: slice) -> torch.Tensor:
        scaled = logits[rows[span], columns[span]].float() / temperature[span, None]
        return scaled.gather(1, tokens[span, None])[:, 0] - scaled.logsumexp(dim=1)

    size = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    spans = [slice(i, i + size) for i in range(0, len(rows), size)]
    if len(spans) == 1 or not logits.requires_grad:
        return torch.cat([pick(logits, span) for span in spans])
    # computed again in backward, so that the float32 copies are not kept
    return torch.cat([checkpoint(pick, logits, span, use_reentrant=False) for span in spans])


def check_forward(model, positions: torch.Tensor, mask: torch.Tensor | BlockMask | None) -> None:
    """Refuse the combinations of attention, mask and positions that give wrong logits without an error, or abort."""
    check_attention(model, positions.device)
    kind = model.config._attn_implementation
    if kind == "eager" and isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
        raise UserError("attention 'eager' adds a bool mask as 0 and 1 instead of masking; train a model with 'sdpa'")
    if kind != (FLEX if isinstance(mask, BlockMask) else "sdpa"):
        raise UserError(
            f"a masked forward needs attention 'sdpa', or {FLEX!r} with blocks; the model is set to {kind!r}"
        )
    _check_positions(model.config, positions)
    if mask is None:
        if positions.shape[1] > 1 and bool((positions.diff(dim=1) != 1).any()):
            raise UserError(
                "positions that restart need an explicit mask; without one transformers reads them as packed texts"
            )
        return
    _check_window(model, positions)
    if isinstance(mask, BlockMask):
        return
    if mask.dtype != torch.bool:
        raise UserError(f"the mask must be bool with True = may attend, not {mask.dtype}, which is added to the scores")
    expected = (positions.shape[0], 1, positions.shape[1], positions.shape[1])
    if tuple(mask.shape) != expected:
        raise UserError(f"the mask must have shape (B, 1, T, T) = {expected}, not {tuple(mask.shape)}")


def _check_window(model, positions: torch.Tensor) -> None:
    """Refuse positions beyond a window that is not known here."""
    window = window_limit(model)
    if window is not None and int(positions.max()) >= window:
        raise UserError(
            f"the model has a sliding window of {window} positions, of a kind that an explicit mask would replace; "
            f"keep traces below it (this one reaches position {int(positions.max())})"
        )


def check_attention(model, device: torch.device) -> None:
    """Refuse attention that aborts the process or is not known here."""
    attention = model.config._attn_implementation
    if attention == FLEX and device.type == "cpu":
        raise UserError("attention 'flex_attention' aborts the process on a CPU; load the model with attention 'sdpa'")
    if attention not in ("sdpa", "eager", FLEX):  # eager: that of models without any attention, too
        raise UserError(f"a masked forward needs attention 'sdpa', the model is set to {attention!r}")


def _check_positions(config, positions: torch.Tensor) -> None:
    """Refuse positions that the model has no embedding for, or that change how all others are rotated."""
    context, switch = context_of(config), rotary_switch(config)
    most = context if switch is None else min(context, switch[1])
    if (last := int(positions.max())) < most:
        return
    if most == context:
        raise UserError(
            f"a trace reaches position {last} and the model's context holds {context}; "
            "leave it out or use a model with a longer context"
        )
    raise UserError(
        f"a trace reaches position {last}, and beyond {most} the model's rotary scaling ({switch[0]}) changes with the "
        "longest row of a batch; keep traces below it, or use a model without such scaling"
    )


def sliding_window(config) -> int | None:
    """The narrowest window of the model's layers, in positions; None where every layer attends to all."""
    config = config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    local = layer_types is None or any(kind not in ("full_attention", "attention") for kind in layer_types)
    if not local or getattr(config, "use_sliding_window", True) is False:
        return None
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((w for w in windows if w), default=None)


def window_limit(model) -> int | None:
    """As `sliding_window`, but None where masked forwards know that window: `_forward` has it in its masks.

    Known are windows that move with each token, of models whose code makes such masks itself.
    """
    config, inner = model.config.get_text_config(), unwrapped(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    own = any(hasattr(sys.modules[c.__module__], "create_sliding_window_causal_mask") for c in type(inner).__mro__)
    known = own and kinds <= {"full_attention", "sliding_attention"}
    return None if known and not getattr(config, "attention_chunk_size", None) else sliding_window(config)
