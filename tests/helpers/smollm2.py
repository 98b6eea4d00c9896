"""SmolLM2-135M-Instruct where it is there, and a tiny random model built like it where it need not be the real one.

The tiny one is a Llama with tied heads and a tokenizer of the same make: bytes, every digit alone, the same special
tokens with the same numbers, the same chat template. `write_gguf` writes a Llama as llama.cpp's files hold it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from polythink.models.to_gguf import NAMES, add_sizes

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PLACE = Path(__file__).parents[2] / "runs" / "models" / FILE
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
)  # fmt: skip
CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["Janet has 3 ducks and 12 eggs. How many parallel paths end in a summary of 16 words?  4 + 5 = 9\n\n"] * 3


def real_file() -> Path:
    """The real model's file; skips the test where it is not there."""
    file = Path(os.environ.get("POLYTHINK_SMOLLM2", PLACE)).expanduser()
    if not file.is_file():
        pytest.skip(f"needs SmolLM2: no file {file} (`make smollm2` fetches it; POLYTHINK_SMOLLM2 names another place)")
    pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")
    return file


@cache
def _trained() -> str:
    base = Tokenizer(BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    base.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    base.train_from_iterator(TEXTS, BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet))
    return base.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    base = Tokenizer.from_str(_trained())
    found = PreTrainedTokenizerFast(tokenizer_object=base, unk_token="<|endoftext|>", **named)
    found.chat_template = CHAT
    return found


def tiny_model(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # random models attend almost evenly: make attention matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def write_gguf(
    file: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, packed: bool = False, rule: str = "smollm",
    chat: str | None = CHAT,
) -> Path:  # fmt: skip
    """A Llama as a .gguf file; `packed`: the layers' matrices in eight bits. `rule`: how it says that text is split."""
    import gguf

    config, backend = model.config, tokenizer.backend_tokenizer
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    add_sizes(writer, config)
    for add, value in (
        (writer.add_rope_dimension_count, config.head_dim),
        (writer.add_rope_freq_base, config.rope_parameters["rope_theta"]), (writer.add_vocab_size, config.vocab_size),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, rule), (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0), (writer.add_pad_token_id, 2),
        (writer.add_add_bos_token, False),
    ):  # fmt: skip
        add(value)
    if chat:
        writer.add_chat_template(chat)
    vocabulary = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[token not in SPECIAL] for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in merges_of(backend)])
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            _add(writer, name, weight, config, packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def merges_of(backend: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def _add(writer, name: str, weight: torch.Tensor, config: LlamaConfig, packed: bool) -> None:
    import gguf

    values, stem = weight.detach().float().numpy(), name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if part in heads:  # llama.cpp rotates neighbours, transformers halves
            values = _neighbours(values, heads[part])
        renamed = f"blk.{number}.{NAMES[part]}.weight"
    else:
        renamed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[stem] + ".weight"
    values = np.ascontiguousarray(values)
    if packed and values.ndim == 2 and renamed.startswith("blk"):
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(renamed, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(renamed, values)


def _neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
