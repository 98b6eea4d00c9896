"""The check that a model passes before it is used: a small tree is forked and joined, and must come out right.

Three computations of the same logits are compared: the engine's, one masked forward over the flat tree, and each path
run alone after its prefix in a plain causal call that knows nothing of layouts. The last is the one that sees a model
which ignores explicit positions or keeps a state that cannot be forked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product

import torch

from polythink.engine.backends.base import LocalBackend, TorchBackend, lock_of
from polythink.engine.backends.captured import CapturedBackend
from polythink.engine.backends.graphed import GraphedBackend
from polythink.engine.backends.lean import LeanBackend
from polythink.engine.backends.paged import PagedBackend
from polythink.engine.backends.recurrent import RecurrentBackend
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.chain_check import SelfCheckFailed, check_chains, logprob_error, plain, same
from polythink.engine.kinds import BACKENDS, OF_GGUF, SHARED
from polythink.engine.lean.family import Unfit
from polythink.engine.llama.check import llama_backend
from polythink.engine.tree_check import decoded_tree, tree
from polythink.errors import UserError, did_you_mean
from polythink.models.batch import collate
from polythink.models.forward import context_of, evaluating, heeds_masks, product_dtype, rotary_switch
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import forward_kwargs, thoughts_of
from polythink.models.vocabulary import Vocabulary
from polythink.trace.layout import Layout

POSITIONS = 17  # of the tree that is checked: prompt, the longer path, join
FAR = 1 << 20  # a position far enough for models that state no context
PLAIN = "plain models of the Llama family"
CHOOSY = {  # backends that do not take every model, and what they take
    "graphed": (GraphedBackend, PLAIN),
    "captured": (CapturedBackend, "models whose forward launches the same in each call"),
    "lean": (LeanBackend, PLAIN),
}


def refuse_by_name(model) -> None:
    """`UserError` for models whose positions cannot be given, or depend on the rest of a forward."""
    config = model.config.get_text_config()
    name = config.model_type
    if getattr(config, "alibi", False) or name in ("bloom", "mpt"):
        raise UserError(
            f"{name} takes positions from token distance (ALiBi) and ignores explicit ones, so paths cannot restart "
            "together; use a model with rotary or learned positions"
        )
    switch = rotary_switch(model.config)
    if switch is not None:
        raise UserError(
            f"{name} has rotary scaling of the kind {switch[0]!r}: from {switch[1]} positions on, the positions of a "
            "whole forward decide how each of its tokens is rotated, so a trace would depend on its batch mates and "
            "drawing would differ from training; use a model without it (such as Qwen3 or Llama), or take the scaling "
            "out of the model's config.json if it changes nothing below that length"
        )
    if context_of(model.config) < POSITIONS:
        raise UserError(
            f"the model holds {context_of(model.config)} positions, and the fork/join self-check needs {POSITIONS}; "
            "use a model with a longer context (max_position_embeddings)"
        )


def choose_backend(lm: LanguageModel | Vocabulary, kind: str = "auto") -> LocalBackend:
    """The wanted backend, or for "auto" the first that passes the self-check, with a warning if that is a slow one.

    A model that does not heed masks is tried with the recurrent backend alone, in its settings from fast to slow.
    `UserError` where none passes.
    """
    if kind not in BACKENDS:
        raise UserError(f"no backend {kind!r}{did_you_mean(kind, BACKENDS)}")
    if kind in OF_GGUF:
        return llama_backend(lm, fast=kind == OF_GGUF[1])
    if not isinstance(lm, LanguageModel):
        raise UserError(f"backend: {kind} needs the weights in this process: load the model with polythink.load")
    refuse_by_name(lm.model)
    attention = lm.model.config._attn_implementation
    if attention not in ("sdpa", "eager"):  # flex attention with a dense mask ends the process on a CPU
        raise UserError(f"the engine takes models with attention 'sdpa' or 'eager', this one has {attention!r}")
    reasons: dict[str, None] = {}  # each once, in order
    for candidate in _candidates(lm, kind):
        try:
            with candidate.lock:
                check(candidate)
        except (SelfCheckFailed, NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reasons[f"{candidate.kind}: {str(error).splitlines()[0]}"] = None
            continue
        if reasons:
            warnings.warn(
                f"{lm.model.config.model_type} decodes slowly here, with the {candidate.about} backend "
                f"({next(iter(reasons))})",
                stacklevel=3,
            )
        return candidate
    raise UserError(
        f"{lm.model.config.model_type} fails the fork/join self-check and cannot be used ({'; '.join(reasons)}); "
        "use a decoder with rotary or learned positions and ordinary attention, such as Qwen3 or Llama"
    )


def _candidates(lm: LanguageModel, kind: str) -> Iterator[TorchBackend]:
    """The backends of that kind, or for "auto" all that fit, the fastest first."""
    with lock_of(lm.model):
        shared = kind in SHARED or (kind == "auto" and heeds_masks(lm.model))
    for name in SHARED if shared else ():
        if name in CHOOSY and kind in ("auto", name):
            yield from _choosy(lm, kind, name)
        elif kind in ("auto", name):
            yield TransformersBackend(lm, name)
    if kind in ("auto", "recurrent"):
        for chunks, (stacks, pads) in product((True, False), ((True, True), (True, False), (False, False))):
            yield RecurrentBackend(lm, stacks, pads, chunks)


def _choosy(lm: LanguageModel, kind: str, name: str) -> Iterator[TorchBackend]:
    """The backend where the model fits: that most do not is no reason to speak of, unless it was asked for."""
    backend, takes = CHOOSY[name]
    if kind == "auto" and issubclass(backend, PagedBackend) and not graphs_pay(lm):
        return
    try:
        yield backend(lm)
    except Unfit as error:
        if kind == name:
            raise UserError(f"the {name} backend takes {takes}, and this one has {error}; use backend: auto") from error


def graphs_pay(lm: LanguageModel) -> bool:
    """They are for CUDA, with Triton."""
    return lm.device.type == "cuda" and find_spec("triton") is not None


def check(backend: TorchBackend) -> None:
    """Raises `SelfCheckFailed` unless decoding, masked forward and paths run alone agree, and siblings are isolated."""
    lm = backend.lm
    if not backend.joins_caches:
        check_chains(backend)
        return
    vocabulary = lm.model.config.get_text_config().vocab_size
    dtype = product_dtype(lm.model.dtype, lm.device.type)  # autocast's where it is checked under that
    ids = torch.randint(vocabulary, (25,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt, first, second, join, other = ids[:7], ids[7:12], ids[12:15], ids[15:20], ids[20:25]
    with evaluating(lm.model):
        thoughts = thoughts_of(lm.model)
        labels = (1, min(2, thoughts.inventory)) if thoughts is not None else (0, 0)
        layout = tree(prompt, (first, second), join, labels)
        decoded = decoded_tree(backend, layout)
        same("decoding and one masked forward", decoded, masked := _masked(backend, layout), dtype)
        backend.logprob_error = logprob_error(decoded, masked)
        for path, label, span in zip((first, second), labels, (slice(7, 12), slice(12, 15)), strict=True):
            labelled = [0] * len(prompt) + [label] * len(path)
            alone = plain(backend, prompt + path, labelled)[len(prompt) :]
            same("a path inside a trace and the same path alone", decoded[span], alone, dtype)
        moved = decoded_tree(backend, tree(prompt, (other, second), join, labels))
        same("a path before and after its sibling changed", decoded[12:15], moved[12:15], dtype)
        short, beside = _beside_a_long_trace(lm, prompt)
        same("a trace alone and beside one at the end of the context", short, beside, dtype)


@torch.no_grad()
def _masked(backend: TransformersBackend, layout: Layout) -> torch.Tensor:
    lm = backend.lm
    batch = collate([layout]).to(lm.device)
    position = batch.positions
    masks = backend.masks(batch.mask[:, 0], position[:, :, None] - position[:, None, :])
    extras = forward_kwargs(lm.model, batch.path_ids, batch.query_scale)
    out = lm.model(input_ids=batch.tokens, attention_mask=masks, position_ids=position, use_cache=False, **extras)
    return out.logits[0].float()


@torch.no_grad()
def _beside_a_long_trace(lm: LanguageModel, prompt: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (T, V) of a prompt alone, and in a batch with a row that ends at the context's last position.

    They differ where the positions of a whole forward decide about each row's.
    """
    ids = torch.tensor([prompt, prompt], device=lm.device)
    near = torch.arange(len(prompt), device=lm.device)
    both = torch.stack((near, near + min(lm.context, FAR) - len(prompt)))
    extras = forward_kwargs(lm.model, torch.zeros_like(ids), torch.ones(ids.shape))
    beside = lm.model(input_ids=ids, position_ids=both, use_cache=False, **extras).logits[0].float()
    extras = forward_kwargs(lm.model, torch.zeros_like(ids[:1]), torch.ones(1, len(prompt)))
    alone = lm.model(input_ids=ids[:1], position_ids=both[:1], use_cache=False, **extras).logits[0].float()
    return alone, beside
