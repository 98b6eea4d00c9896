"""LoRA (arXiv 2106.09685) through peft: adapters of the linear layers are trained, the model's own weights stay.

The adapters stand in the model itself, so that rollouts, training forwards and self-checks run through them as they
are: what is drawn is what is trained. New ones change nothing: their second factor is zero. At the end the run's folder
holds them in peft's format (adapter/) and, added to the weights, as an ordinary model (model/).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from polythink.errors import UserError, install_extra
from polythink.models.lm import LanguageModel
from polythink.train import distributed
from polythink.train.config import TrainingConfig
from polythink.train.dropout import seeded


def add_adapters(lm: LanguageModel, config: TrainingConfig, seed: int) -> Any:
    """Put adapters into the model and freeze everything else; returns peft's model around it, None without `lora`.

    Their first factor is random and follows from `seed`. `UserError` where peft is missing or finds no such layers.
    """
    if config.lora is None:
        return None
    try:
        import peft
    except ImportError:
        raise UserError(
            "lora trains adapters through the package peft, which is not installed; "
            f"{install_extra('lora')} installs it"
        ) from None
    keys = config.lora.model_dump(mode="json")
    with seeded(seed, 0, lm.device):
        try:
            return peft.get_peft_model(lm.model, peft.LoraConfig(task_type="CAUSAL_LM", **keys))
        except ValueError as error:
            raise UserError(f"lora.target_modules: {str(error).splitlines()[0]}") from None


def save_adapters(wrapped: Any, folder: Path) -> None:
    """Write the adapters in peft's format, and add them to the weights of the model, which is an ordinary one again."""
    if wrapped is None:
        return
    distributed.on_main(lambda: wrapped.save_pretrained(folder / "adapter"))
    wrapped.merge_and_unload().requires_grad_(True)  # peft leaves it frozen: what trains it next would find nothing


def merged(lm: LanguageModel, wrapped: Any) -> LanguageModel:
    """A copy of the model with the adapters added to its weights; the model itself where it has none."""
    return lm if wrapped is None else replace(lm, model=copy.deepcopy(wrapped).merge_and_unload())


@contextmanager
def without_adapters(model: torch.nn.Module, switched: bool) -> Iterator[None]:
    """The model as it was before the adapters, while this is entered; with `switched` False nothing changes."""
    if not switched:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
