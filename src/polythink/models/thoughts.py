"""Thought embeddings (ParaThinker, arXiv 2509.04475, eq. 4-7) and scaled queries, as hooks on unmodified models.

Each layer has a table with one vector per path number. Row i is added to the keys (before rotation, after the key norm
where there is one) and to the values of the tokens of path i; all heads share it. Row 0 is for prompt, main text and
summary. All rows are zero at the start, so that the model begins unchanged, unless a spread is asked for (`draw`).

A hooked model takes two more keyword arguments: `path_ids` (B, T) int64, and `query_scale` (B, T), a factor on the
queries and so on their attention scores. Without `path_ids` every token counts as prompt (row 0), as under
`generate()` of transformers, which refuses the argument.

Axis legend: B rows, T tokens of a row, L layers, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache

from polythink.errors import UserError
from polythink.models.forward import cache_argument, evaluating
from polythink.run.folder import atomic_write

THOUGHTS_FILE = "thoughts.safetensors"
KEYWORDS = ("path_ids", "query_scale")
MODULE_NAME = "thoughts"  # attribute of the model that holds the module


class _HookState(NamedTuple):
    """The attention that is running: its three hooked parts, and what is added to or multiplied with their outputs."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    vectors: torch.Tensor | None  # (B, T, 1, D)
    scale: torch.Tensor | None  # (B, T)


class Thoughts(nn.Module):
    """The tables of all layers, (L, inventory + 1, D), or none, and the hooks that apply them.

    The hooks are bound methods, so that a deep copy of the model uses its own tables. Path numbers and scales reach
    each attention as keyword arguments, so that a layer computed again (activation checkpointing) gets them again.

    LoRA: an adapter that replaces a projection is hooked instead of it. peft freezes all other parameters;
    `thoughts.table.requires_grad_(True)` after wrapping trains the tables beside the adapter. To save, use the result
    of `merge_and_unload()`: `save` refuses a model with adapters in it.
    """

    def __init__(self, model: nn.Module, attentions: Sequence[nn.Module], inventory: int | None) -> None:
        super().__init__()
        self.layers, self.head_dim = len(attentions), attentions[0].head_dim
        self.now: _HookState | None = None
        self.register_parameter("table", None)
        if inventory is not None:
            self.add_table(inventory, model)

    def add_table(self, inventory: int, like: nn.Module) -> None:
        """Add a table of zeros, on the device and of the type of the model."""
        if inventory < 1:
            raise UserError(f"thought embeddings need an inventory of at least one path number, given {inventory}")
        shape = (self.layers, inventory + 1, self.head_dim)
        self.table = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))

    def draw(self, spread: float, seed: int) -> None:
        """Fill all rows, row 0 too, from a normal distribution around 0: the same for the same seed on every device."""
        drawn = torch.randn(self.table.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.table.copy_(spread * drawn)

    @property
    def inventory(self) -> int:
        """The largest path number, 0 without a table."""
        return 0 if self.table is None else self.table.shape[1] - 1

    def check(self, highest: int) -> None:
        """`UserError` for a path number that has no row."""
        if self.table is not None and highest > self.inventory:
            raise UserError(
                f"path number {highest} is above the model's inventory of {self.inventory} thought embeddings; "
                "use fewer paths, or train a model with a larger inventory"
            )

    def _enter(self, attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        path_ids, scale = (kwargs.pop(name, None) for name in KEYWORDS)
        if self.table is not None or scale is not None:
            sites = _sites(attention)
            for site in sites:  # every time: an adapter may have replaced a projection
                if self._change not in site._forward_hooks.values():
                    site.register_forward_hook(self._change)
            self.now = _HookState(*sites, self._vectors(attention.layer_idx, path_ids), scale)
        return args, kwargs

    def _leave(self, *_) -> None:
        self.now = None

    def _vectors(self, layer: int, path_ids: torch.Tensor | None) -> torch.Tensor | None:
        if self.table is None:
            return None
        if path_ids is None:
            return self.table[layer, 0].view(1, 1, 1, -1)
        return nn.functional.embedding(path_ids, self.table[layer])[:, :, None]

    def _change(self, site: nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor | None:
        """`out` is (B, T, H * D), or (B, T, H, D) after a norm of single heads."""
        now = self.now
        if now is None:
            return None
        if site is now.query and now.scale is not None:
            return (out * now.scale.reshape(*now.scale.shape, *[1] * (out.dim() - 2))).to(out.dtype)
        if now.vectors is not None and (site is now.key or site is now.value):
            heads = out.view(*out.shape[:2], -1, self.head_dim)
            return (heads + now.vectors.to(out.dtype)).view(out.shape)
        return None


def _sites(attention: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The modules whose outputs are queries, keys and values before rotation: norms where there are some."""
    parts = attention._modules
    query, key = (parts.get(f"{x}_norm") or parts[f"{x}_proj"] for x in "qk")
    return query, key, parts["v_proj"]


def _attentions(model: nn.Module) -> list[nn.Module]:
    """The attention of each layer; `UserError` where queries, keys and values have no projections of their own."""
    found = [m for m in model.modules() if {"q_proj", "k_proj", "v_proj"} <= m._modules.keys()]
    layers = [getattr(m, "layer_idx", None) for m in found]
    sizes = {getattr(m, "head_dim", None) for m in found}
    expected = list(range(getattr(model.config.get_text_config(), "num_hidden_layers", 0)))
    if not found or layers != expected or len(sizes) != 1 or None in sizes:
        raise _cannot(model, "not every layer has an attention with q_proj, k_proj and v_proj and the same head size")
    return found


def _cannot(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"{model.config.model_type} cannot take thought embeddings or a scale on its queries: {why}; "
        "use a model of the Llama family, such as Qwen3, Qwen2 or Llama"
    )


def attach(model: nn.Module, inventory: int | None) -> Thoughts:
    """Hook the model; `inventory` path numbers get rows of zeros, None: no table, only `query_scale`.

    `UserError` for models without separate projections, and for those where added vectors do not reach the cache.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # unwrap an adapter
    thoughts = thoughts_of(inner)
    if thoughts is None:
        attentions = _attentions(inner)
        thoughts = Thoughts(inner, attentions, inventory)
        handles = [a.register_forward_pre_hook(thoughts._enter, with_kwargs=True) for a in attentions]
        handles += [a.register_forward_hook(thoughts._leave, always_call=True) for a in attentions]
        try:
            _verify_hooks(inner, thoughts)
        except UserError:
            for handle in handles:
                handle.remove()
            raise
        setattr(inner, MODULE_NAME, thoughts)
    elif inventory is not None and thoughts.table is None:
        thoughts.add_table(inventory, inner)
    elif inventory is not None and inventory != thoughts.inventory:
        raise UserError(f"the model has {thoughts.inventory} thought embeddings already, {inventory} were asked for")
    return thoughts


def thoughts_of(model: nn.Module) -> Thoughts | None:
    """The model's hooks, None where it has none; also through an adapter's wrapper."""
    return getattr(model, MODULE_NAME, None)


def forward_kwargs(model: nn.Module, path_ids: torch.Tensor, query_scale: torch.Tensor) -> dict[str, torch.Tensor]:
    """Extra keyword arguments of a forward of this model: none, unless there is a table or a scale other than 1.

    Scaled queries need hooks, so a model without hooks gets them here. `UserError` for a path number without a row.
    """
    thoughts, given = thoughts_of(model), {}
    if bool((query_scale != 1).any()):
        thoughts = attach(model, None) if thoughts is None else thoughts
        given["query_scale"] = query_scale
    if thoughts is not None and thoughts.table is not None:
        thoughts.check(int(path_ids.max()))
        given["path_ids"] = path_ids
    return given


def _verify_hooks(model: nn.Module, thoughts: Thoughts) -> None:
    """Check that vectors added by the hooks reach every layer's cached keys and values; raise `UserError` otherwise.

    Rotation changes nothing at position 0, and with the attentions' outputs set to zero no layer sees what another
    does, so the caches of the same tokens with and without path numbers differ by exactly the vectors.
    """
    shape = (thoughts.layers, 4, thoughts.head_dim)
    known = 64 * torch.randn(shape, generator=torch.Generator().manual_seed(0))  # large enough for half precision
    known[:, 0] = 0
    try:
        cache = _cached(model, thoughts, known.to(model.device, model.dtype))
        for layer, vectors in zip(cache.layers, known[:, 1:], strict=True):
            for name, states in (("keys", layer.keys), ("values", layer.values)):
                added = (states[1] - states[0]).float().cpu()  # (H, 3, D)
                factor = (added * vectors).mean() / vectors.square().mean()  # YaRN's rotation stretches keys
                if not (added - factor * vectors).norm() < 0.05 * added.norm() or not 0.5 < factor < 2:
                    raise _cannot(model, f"vectors added to its {name} do not reach the cache unchanged")
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        raise _cannot(model, str(error).splitlines()[0]) from error


@torch.no_grad()
def _cached(model: nn.Module, thoughts: Thoughts, table: torch.Tensor) -> DynamicCache:
    """The cache of three equal tokens at position 0, in row 0 without path numbers, in row 1 of paths 1 to 3."""
    own, implementation = thoughts.table, model.config._attn_implementation
    blanks = [
        a.register_forward_hook(lambda module, args, out: (torch.zeros_like(out[0]), *out[1:]))
        for a in _attentions(model)
    ]
    cache = DynamicCache()
    zeros = torch.zeros(2, 3, dtype=torch.long, device=model.device)
    path_ids = torch.tensor([[0, 0, 0], [1, 2, 3]], device=model.device)
    extras = {cache_argument(model): cache, "path_ids": path_ids}
    try:
        model.set_attn_implementation("eager")  # that of the engine takes its own cache only
        thoughts.table = nn.Parameter(table)
        with evaluating(model):
            model(input_ids=zeros, position_ids=zeros, use_cache=True, **extras)
    finally:
        thoughts.table = own
        model.set_attn_implementation(implementation)
        for blank in blanks:
            blank.remove()
    return cache


def save_thoughts(thoughts: Thoughts, folder: Path) -> None:
    """Write the tables beside the model's weights."""
    with atomic_write(folder / THOUGHTS_FILE) as temporary:
        save_file({"table": thoughts.table.detach().cpu().contiguous()}, temporary)


def load_thoughts(model: nn.Module, folder: Path, inventory: int) -> None:
    """Hook the model and fill its tables from the folder; `UserError` where they are missing, damaged or do not fit."""
    path = folder / THOUGHTS_FILE
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} is missing {THOUGHTS_FILE} ({inventory} thought embeddings); without it the model would "
            "answer differently. Restore the file or save the model again"
        )
    try:
        found = load_file(path)["table"]
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{str(path)!r} is damaged ({error}); save the model again") from error
    thoughts = attach(model, inventory)
    if found.shape != thoughts.table.shape:
        raise UserError(
            f"{str(path)!r} holds a table of shape {tuple(found.shape)} (layers, path numbers + 1, head size), but this"
            f" model with {inventory} path numbers needs {tuple(thoughts.table.shape)}; restore the right file"
        )
    with torch.no_grad():
        thoughts.table.copy_(found)
