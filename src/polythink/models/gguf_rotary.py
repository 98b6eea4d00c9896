"""The rotary scaling that a .gguf file states, in transformers' words: its reader of such files drops it.

A header names the kind and its numbers, with llama.cpp's defaults for those that are left out. The Llamas from 3.1 on
state theirs as a tensor instead: by what each rotary frequency is divided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polythink.errors import UserError

FACTORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of all its releases
LLAMA3_CONTEXT = 8192
BY_DEFAULT = ("gemma4",)  # transformers gives all models of these the form that the tensor states


def scaling(header: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers' `rope_type` and its numbers, as the header says them; {}: positions are not scaled.

    `UserError` for a kind, or a number of it, for which transformers has no word.
    """
    architecture = header.get("general.architecture")

    def said(key: str, default: Any = None) -> Any:
        return header.get(f"{architecture}.rope.{key}", default)

    kind, factor = said("scaling.type", "linear"), said("scaling.factor") or said("scale_linear") or 1.0
    if kind == "none" or (kind == "linear" and factor == 1):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise _unknown(f"of the kind {kind!r}", runs=kind != "longrope")
    for key, usual in (("scaling.yarn_ext_factor", 1.0), ("scaling.yarn_log_multiplier", 0.0)):
        if (value := said(key, usual)) != usual:
            raise _unknown(f"with {key.rpartition('.')[2]} {value:g}")
    attention = said("scaling.attn_factor", 1.0) * said("scaling.yarn_attn_factor", 1.0)
    original = said("scaling.original_context_length") or header.get(f"{architecture}.context_length")
    if original is None:
        raise _unknown("of the kind 'yarn' without the context of which it is a multiple")
    found = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if attention != 1:
        found["attention_factor"] = attention * (0.1 * math.log(max(factor, 1.0)) + 1)
    for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        if (value := said(f"scaling.yarn_{key}", usual)) != usual:
            found[key] = value
    return found | ({"truncate": False} if architecture == "gpt-oss" else {})


def is_scaled(header: Mapping[str, Any]) -> bool:
    """Whether the header says anything of a scaling."""
    return any(".rope.scal" in key for key in header)


def scaled_parameters(
    header: Mapping[str, Any], tensors: Mapping[str, Sequence[float]], given: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The field `rope_parameters`, from the given ones, of a file with this header and these rotary tensors; {}: they
    stay as they are. `UserError` for a scaling that transformers has no words for.
    """
    architecture, given, found = header.get("general.architecture"), given or {}, scaling(header)
    if architecture not in BY_DEFAULT:
        found |= _of_tensors(tensors, given.get("rope_theta", 1e4))
    if not found:
        return {}
    if architecture == "gemma3":  # the layers that see all positions
        found = {"full_attention": given["full_attention"] | found}
    elif any(isinstance(own, dict) for own in given.values()):
        raise _unknown("in some layers only")
    return {"rope_parameters": given | found}


def _of_tensors(tensors: Mapping[str, Sequence[float]], base: float) -> dict[str, Any]:
    """As `scaling`, of a file's rotary tensors, by name. `UserError` for those that are no scaling of a Llama 3."""
    if all(set(own) == {1.0} for own in tensors.values()):
        return {}
    if tensors.keys() == {FACTORS}:
        divisors = np.array(tensors[FACTORS])
        waves = 2 * math.pi * base ** (np.arange(len(divisors)) / len(divisors))
        for original in (LLAMA3_CONTEXT, *_contexts(divisors, waves)):
            if np.allclose(_llama3(waves, divisors.max(), original), divisors, rtol=1e-5):
                numbers = {"factor": float(divisors.max()), "original_max_position_embeddings": original}
                return {"rope_type": "llama3", **LLAMA3, **numbers}
    raise _unknown(f"by the tensors {', '.join(tensors)}", runs=tensors.keys() == {FACTORS})


def _llama3(waves: np.ndarray, factor: float, original: int) -> np.ndarray:
    """By what the frequencies of these wavelengths are divided: long waves by `factor`, short ones by 1."""
    low, high = LLAMA3.values()
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _contexts(divisors: np.ndarray, waves: np.ndarray) -> list[int]:
    """The original context that each frequency between long and short ones tells."""
    low, high = LLAMA3.values()
    factor = divisors.max()
    between = (divisors > 1) & (divisors < factor)
    smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    return [round(x) for x in waves[between] * (low + smooth * (high - low))]


def _unknown(what: str, runs: bool = True) -> UserError:
    instead = "; run the file as it is with `--backend llama_cpp`" if runs else "; use the model's own folder"
    return UserError(f"its positions are scaled {what}, which transformers cannot take from a .gguf file{instead}")
