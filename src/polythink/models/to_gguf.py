"""A model as a GGUF file for llama.cpp, with its tokenizer and settings in it. Needs the package `gguf`.

Written are the Llama family's plain forms: llama, mistral, qwen2 and qwen3, with untied or tied embeddings. The file
holds the whole `tokenizer.json` and the model's `polythink.json` among its metadata, so that this package reads from it
the model that was written; llama.cpp's own programs read the vocabulary in their form, where they have one for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from polythink.errors import UserError
from polythink.models.codec import control_tokens
from polythink.models.gguf import TOKENIZER_KEY
from polythink.models.gguf_header import ENDS_KEY, SETTINGS_KEY
from polythink.models.lm import LanguageModel
from polythink.run.folder import atomic_write

if TYPE_CHECKING:
    from gguf import GGUFWriter

NAMES = {  # of transformers -> of llama.cpp
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
SILU = ("silu", "swish")  # the activation that llama.cpp gives these architectures; a file does not name one
INTERLEAVED = "llama"  # rotates neighbouring numbers of a head, where transformers rotates its halves
# rules of splitting text: as the tokenizer's pre-tokenizer says them, and as llama.cpp calls them
GPT2, DIGITS = {"type": "ByteLevel", "use_regex": True}, {"type": "Digits", "individual_digits": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Words = Callable[["GGUFWriter", PreTrainedConfig], None]


def write_lm(lm: LanguageModel, file: Path) -> None:
    """Write a model with its tokenizer and settings. `UserError` for one that GGUF, or this writer, has no form for."""
    if lm.settings.thoughts:
        raise UserError("thought embeddings have no place in a GGUF file; export a model without them")

    def words(writer: GGUFWriter, config: PreTrainedConfig) -> None:
        of_tokenizer(writer, config, lm.tokenizer)
        writer.add_string(SETTINGS_KEY, json.dumps(asdict(lm.settings)))
        writer.add_string(ENDS_KEY, json.dumps(lm.ends))

    write_gguf(lm.model, file, words)


def write_gguf(model: torch.nn.Module, file: Path, words: Words | None = None) -> None:
    """Write a transformers model in its own dtype; vectors in float32, as llama.cpp wants them.

    `words` writes the vocabulary; None: none, and the file is one for token ids alone. `UserError` for an architecture
    that is not known here.
    """
    import gguf

    config, kinds = model.config, gguf.GGMLQuantizationType
    check_form(config)
    with atomic_write(file) as target:
        writer = gguf.GGUFWriter(target, ARCHITECTURES[config.model_type])
        _shape(writer, config)
        writer.add_file_type(_file_type({weight.dtype for weight in model.parameters()}))
        (words or no_words)(writer, config)
        for name, weight in model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            values = _in_place(name, weight.detach().cpu(), config)
            if values.dim() == 1 or values.dtype == torch.float32:
                writer.add_tensor(_renamed(name), values.float().contiguous().numpy())
            elif values.dtype == torch.float16:
                writer.add_tensor(_renamed(name), values.contiguous().numpy())
            else:  # numpy has no bfloat16: its bytes
                raw = values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                writer.add_tensor(_renamed(name), raw, raw_dtype=kinds.BF16)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _file_type(dtypes: set[torch.dtype]) -> int:
    """What the header calls the type of most weights."""
    import gguf

    kinds = gguf.LlamaFileType
    if dtypes == {torch.float32}:
        return kinds.ALL_F32
    return kinds.MOSTLY_F16 if torch.float16 in dtypes else kinds.MOSTLY_BF16


def check_form(config: PreTrainedConfig) -> None:
    """`UserError` for a model that this writer has no form for."""
    rope = config.rope_parameters if hasattr(config, "rope_parameters") else {}
    reason = ""
    if config.model_type not in ARCHITECTURES:
        reason = f"of the kind {config.model_type!r}"
    elif (kind := (rope or {}).get("rope_type", "default")) != "default":
        reason = f"with rotary scaling of the kind {kind!r}"
    elif getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        reason = "with a sliding window"
    elif getattr(config, "mlp_bias", False) or (config.model_type != "qwen2" and getattr(config, "attention_bias", 0)):
        reason = "with biases"
    elif config.hidden_act not in SILU:
        reason = f"with the activation {config.hidden_act!r}"
    if reason:
        raise UserError(
            f"a model {reason} is not written as GGUF here, only {', '.join(ARCHITECTURES)} in their plain form are; "
            "llama.cpp's own convert_hf_to_gguf.py may write it from the model's folder"
        )


def add_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """What the headers of all families say of a model's shape."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _shape(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    add_sizes(writer, config)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _renamed(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{kind}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{NAMES[part]}.{kind}"


def _in_place(name: str, values: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """A weight with the rows of queries and keys in the order in which the architecture rotates them."""
    if ARCHITECTURES[config.model_type] != INTERLEAVED or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    return values.view(heads, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)


# ---- vocabularies ----


def no_words(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """None: token ids alone."""
    writer.add_tokenizer_model("no_vocab")


def listed(tokens: Sequence[str], end: int) -> Words:
    """The text of each token id, and the end token, for a server whose prompts are token ids: how text is split into
    tokens is not written."""

    def words(writer: GGUFWriter, config: PreTrainedConfig) -> None:
        import gguf

        writer.add_tokenizer_model("llama")
        writer.add_token_list([token.encode() for token in tokens])
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types([gguf.TokenType.USER_DEFINED] * len(tokens))
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(end)
        writer.add_add_bos_token(False)

    return words


def of_tokenizer(writer: GGUFWriter, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer as it is, and in llama.cpp's form where that is one of bytes with a rule of splitting it knows."""
    import gguf

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("the tokenizer has no tokenizer.json (it is not a fast one), and cannot be written into a file")
    whole = json.loads(backend.to_str())
    writer.add_string(TOKENIZER_KEY, backend.to_str())
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    for name in ("bos", "eos", "unk", "pad"):
        if (id := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(id)
    rule = splitting(whole)
    if not rule:
        no_words(writer, config)
        return
    known, controls, types = tokenizer.get_vocab(), control_tokens(tokenizer), gguf.TokenType
    text = {id: token for token, id in known.items()}
    added = {token["id"] for token in whole["added_tokens"]}
    kinds = [
        types.UNUSED if id not in text else types.CONTROL if id in controls
        else types.USER_DEFINED if id in added else types.NORMAL
        for id in range(config.vocab_size)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([text.get(id, f"[PAD{id}]").encode() for id in range(config.vocab_size)])
    writer.add_token_types(kinds)
    merges = whole["model"]["merges"]
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in merges])
    writer.add_add_bos_token(False)


def splitting(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the rule by which a byte-level tokenizer splits text; "": it has none that is known here."""
    rule = tokenizer.get("pre_tokenizer") or {}
    if (
        tokenizer["model"]["type"] != "BPE"
        or not tokenizer["model"]["merges"]
        or tokenizer["model"].get("byte_fallback")
    ):
        return ""

    def is_like(part: dict[str, Any], wanted: dict[str, Any]) -> bool:
        return all(part.get(key) == value for key, value in wanted.items()) and not part.get("add_prefix_space")

    parts = rule.get("pretokenizers", [rule])
    if len(parts) == 1 and is_like(parts[0], GPT2):
        return "gpt-2"
    if len(parts) == 2 and is_like(parts[0], DIGITS) and is_like(parts[1], GPT2):
        return "smollm"
    qwen = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated"}
    if len(parts) == 2 and is_like(parts[0], qwen) and is_like(parts[1], {"type": "ByteLevel", "use_regex": False}):
        return "qwen2"
    return ""
