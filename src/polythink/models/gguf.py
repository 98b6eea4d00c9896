"""A .gguf file: what transformers' reader of such files leaves to be done.

The reader de-quantises the weights. Here it is kept from asking for the same things again and again, it is told what it
passes over in the header, and the tokenizer is given the rule by which the file says its text is split, where the
reader does not know that rule.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from polythink.models.gguf_header import ENDS_KEY

log = logging.getLogger(__name__)

TOKENIZER_KEY = "tokenizer.huggingface.json"  # a model's tokenizer.json, in a file that this package wrote
# names that llama.cpp gives to rules of splitting: every digit alone and then as GPT-2, and as GPT-2
DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
GEMMA_27B_LAYERS = 62  # the one size of Gemma 3 whose scale of attention is not that of a head
AS_GPT2 = ("gpt-2", "gpt2", "mpt", "olmo", "jais", "trillion", "default", "")


def own_tokenizer(header: dict[str, Any]) -> PreTrainedTokenizerFast | None:
    """The tokenizer that the file holds as a whole, None where it has llama.cpp's form alone."""
    if TOKENIZER_KEY not in header:
        return None
    backend = Tokenizer.from_str(header[TOKENIZER_KEY])
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {name: header.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    special = {name: backend.id_to_token(id) for name, id in ids.items() if id is not None}
    found = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    found.chat_template = header.get("tokenizer.chat_template")
    return found


def end_as_said(generation: GenerationConfig, header: dict[str, Any]) -> None:
    """Let a response end with any token that ended one where the file was written: a file has no generation config."""
    if ENDS_KEY in header:
        generation.eos_token_id = json.loads(header[ENDS_KEY])


# ---- transformers' reader ----


@contextmanager
def read_once() -> Iterator[None]:
    """Read the header once and quickly, and make the table of names once.

    transformers asks `gguf` for the whole header, and goes through it word by word, for the tokenizer, the
    configuration and the weights: a minute each time where the vocabulary has 262,144 words. It also asks for the same
    table of names for each module of the model.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging as transformers_logging

    mended = {
        (gguf, "GGUFReader"): lru_cache(quick_reader()),
        (gguf, "get_tensor_name_map"): lru_cache(gguf.get_tensor_name_map),
        (reading, "load_gguf_checkpoint"): _described_once(reading.load_gguf_checkpoint),
        (reading, "tqdm"): transformers_logging.tqdm,  # the bar that can be switched off
    }
    own = {(module, name): getattr(module, name, None) for module, name in mended}
    for (module, name), function in mended.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name), function in own.items():
            setattr(module, name, function)


def _described_once(load: Callable[..., dict]) -> Callable[..., dict]:
    """transformers' reader of a file; what it finds in the header alone is kept, and given to each caller anew."""
    kept = lru_cache(load)

    def read(gguf_checkpoint_path: str, return_tensors: bool = False, *more: Any, **options: Any) -> dict:
        if return_tensors or more or options:
            return load(gguf_checkpoint_path, return_tensors, *more, **options)
        return deepcopy(kept(gguf_checkpoint_path))

    return read


def quick_reader() -> type:
    """`gguf.GGUFReader`, with the same fields, but with lists read at one go.

    The library's own makes several memory maps for each word of a vocabulary.
    """
    import gguf

    kinds = gguf.GGUFValueType

    class QuickReader(gguf.GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list, list[int], list]:
            if raw_type != kinds.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            of, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            kind, count = kinds(of[0]), int(length[0])
            types = [kinds.ARRAY, kind] if count else [kinds.ARRAY]
            if kind in self.gguf_scalar_to_np:
                values = np.asarray(self._get(orig_offs + 12, self.gguf_scalar_to_np[kind], count))
                return 12 + values.nbytes, [of, length, *values[:, None]], list(range(2, 2 + count)), types
            if kind != kinds.STRING:
                return super()._get_field_parts(orig_offs, raw_type)
            parts, end = _strings(np.asarray(self.data), orig_offs + 12, count, length.dtype)
            return end - orig_offs, [of, length, *parts], list(range(3, 3 + 2 * count, 2)), types

    return QuickReader


def _strings(content: np.ndarray, at: int, count: int, lengths: np.dtype) -> tuple[list[np.ndarray], int]:
    """Length and bytes of each of a list's strings, and where the list ends."""
    parts = []
    for _ in range(count):
        size = content[at : at + 8].view(lengths)
        end = at + 8 + int(size[0])
        parts += (size, content[at + 8 : end])
        at = end
    return parts, at


def passed_over(header: dict[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that follow from the header, and that transformers' reader leaves at their defaults.

    The size of a head, for some architectures: weights that do not fit the default get random values. For Gemma 3 also
    the scale of attention, and the bases of rotation of its two kinds of layers, as llama.cpp derives them.
    """
    architecture = header.get("general.architecture")

    def said(key: str, default: Any = None) -> Any:
        return header.get(f"{architecture}.{key}", default)

    size = said("attention.key_length")
    found = {} if size is None else {"head_dim": size}
    if architecture == "gemma3":
        large = said("block_count") == GEMMA_27B_LAYERS
        scale = said("embedding_length") // said("attention.head_count") if large else size
        found |= {} if scale is None else {"query_pre_attn_scalar": scale}
        found["rope_parameters"] = {
            "full_attention": {"rope_type": "default", "rope_theta": said("rope.freq_base", 1e6)},
            "sliding_attention": {"rope_type": "default", "rope_theta": said("rope.freq_base_swa", 1e4)},
        }
    return found


def not_quantised(model: PreTrainedModel | PreTrainedConfig) -> None:
    """Take off the note that the weights are quantised. They are not any more, and a saved folder must not say so."""
    config = getattr(model, "config", model)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if config is not model:
        model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None


def split_as_said(tokenizer: PreTrainedTokenizerBase, header: dict[str, Any], path: str) -> None:
    """Let the tokenizer split text by the file's rule where transformers' reader took that of GPT-2 for want of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if header.get("tokenizer.ggml.model") != "gpt2" or backend is None or backend.pre_tokenizer is None:
        return
    state, rule = json.loads(backend.pre_tokenizer.__getstate__()), header.get("tokenizer.ggml.pre", "")
    if state.get("type") != "ByteLevel" or rule in AS_GPT2:
        return
    if rule in DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return
    log.warning(
        "%s: its text is to be split by the rule %r, which transformers' reader does not know and replaces by GPT-2's; "
        "some texts may be split otherwise than where the model was trained", path, rule,
    )  # fmt: skip
