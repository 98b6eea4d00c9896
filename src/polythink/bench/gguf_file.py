"""The weights of a Qwen3 as a GGUF file for llama.cpp. Needs the package `gguf`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

NAMES = {  # of transformers -> of llama.cpp
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(model: torch.nn.Module, file: Path, tokens: Sequence[str] = (), end: int = 0) -> None:
    """Write a transformers Qwen3 in its own dtype; vectors in float32, as llama.cpp wants them.

    A server of it needs a vocabulary: the text of each token id, and the end token. It is one for token ids as prompts
    alone, since how text is split into tokens is not written.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("llama" if tokens else "no_vocab")
    writer.add_vocab_size(config.vocab_size)
    if tokens:
        writer.add_token_list([token.encode() for token in tokens])
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types([gguf.TokenType.USER_DEFINED] * len(tokens))
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(end)
        writer.add_add_bos_token(False)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.detach().cpu()
        if values.dim() == 1 or values.dtype == torch.float32:
            writer.add_tensor(_renamed(name), values.float().numpy())
        else:  # numpy has no bfloat16: its bytes
            raw = values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
            writer.add_tensor(_renamed(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _renamed(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{NAMES[part]}.weight"
