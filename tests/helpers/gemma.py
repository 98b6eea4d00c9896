"""Gemma 3 270M where it is there, and a tiny random model built like it where it need not be the real one.

The tiny one has what is peculiar to Gemma 3: every sixth layer sees all positions, the others a window; two rotary
bases; four norms in a layer, whose weights are stored around 0; embeddings scaled by the root of their width; a tied
head; a tokenizer whose call writes BOS, with pieces that begin with the space before them, and turns that end with a
token that is not its EOS. The real one is the base model: its file has no chat template. `write_gguf` writes the tiny
one as llama.cpp's files hold it.
"""

from __future__ import annotations

import os
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GemmaTokenizer

from polythink.models.to_gguf import add_sizes

FILE = "gemma-3-270m-q4_k_m.gguf"
PLACE = Path(__file__).parents[2] / "runs" / "models" / FILE
WINDOW = 8
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
# a system message has no turn of its own: it stands before the user's first words; turns go by turns
CHAT = (
    "{{ bos_token }}{% set ns = namespace(first='', turns=0) %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.first = m['content'] + '\n\n' %}{% else %}{% if (m['role'] == 'user') != (ns.turns % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ ns.first if ns.turns == 0 else '' }}{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}"
    "{% set ns.turns = ns.turns + 1 %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def real_file() -> Path:
    """The real model's file; skips the test where it is not there."""
    file = Path(os.environ.get("POLYTHINK_GEMMA", PLACE)).expanduser()
    if not file.is_file():
        pytest.skip(
            f"needs Gemma 3 270M: no file {file} (`python docs/fetch_smollm2.py runs/models gemma` fetches it, under "
            "Gemma's terms; POLYTHINK_GEMMA names another place)"
        )
    pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")
    return file


def tiny_tokenizer() -> GemmaTokenizer:
    """Bytes, letters, and letters with the space before them."""
    letters = (*string.ascii_letters, *string.digits, *".,:;+-=<>/|_*'\"\\{}()?!\n", "▁", "▁▁")
    merges = [("▁", letter) for letter in string.ascii_lowercase]
    pieces = (*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *map("".join, merges))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    found = GemmaTokenizer(vocab=vocabulary, merges=[("▁", "▁"), *merges])
    controls = [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    found.add_special_tokens({"additional_special_tokens": controls}, replace_extra_special_tokens=False)
    found.chat_template = CHAT
    return found


def tiny_model(vocabulary: int, seed: int = 0, **changes) -> Gemma3ForCausalLM:
    shape = dict(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=WINDOW,
        max_position_embeddings=512, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**{**shape, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # random models attend almost evenly, and their norms do nothing: make both matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


NAMES = {  # of transformers -> of llama.cpp
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(file: Path, model: Gemma3ForCausalLM, tokenizer: GemmaTokenizer, chat: str | None = None) -> Path:
    """A Gemma 3 as a .gguf file, in float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_name("Tiny")
    add_sizes(writer, config)
    for add, value in (
        (writer.add_key_length, config.head_dim), (writer.add_value_length, config.head_dim),
        (writer.add_sliding_window, config.sliding_window),
        (writer.add_rope_freq_base, config.rope_parameters["full_attention"]["rope_theta"]),
        (writer.add_tokenizer_model, "llama"), (writer.add_tokenizer_pre, "default"), (writer.add_bos_token_id, 2),
        (writer.add_eos_token_id, 1), (writer.add_unk_token_id, 3), (writer.add_pad_token_id, 0),
        (writer.add_add_bos_token, True), (writer.add_add_space_prefix, False),
    ):  # fmt: skip
        add(value)
    if chat:
        writer.add_chat_template(chat)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_token_list([" " * len(piece) if set(piece) == {"▁"} and len(piece) > 1 else piece for piece in pieces])
    writer.add_token_scores([float(-i) for i in range(len(pieces))])
    writer.add_token_types(
        [gguf.TokenType.BYTE if piece.startswith("<0x") else kinds[piece in SPECIAL] for piece in pieces]
    )
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.detach().float().numpy() + ("norm" in name)  # llama.cpp's are stored around 1
        writer.add_tensor(_renamed(name.removesuffix(".weight")), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _renamed(stem: str) -> str:
    if not stem.startswith("model.layers."):
        return {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[stem] + ".weight"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{NAMES[part]}.weight"
