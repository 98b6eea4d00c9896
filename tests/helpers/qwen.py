"""Qwen3-4B-Base scaled down: its architecture with random weights, and a byte-level BPE of its kind, as a hub folder.

What makes the released folder unlike our other small models is all here: tied embeddings with more rows than there are
tokens, norms of queries and keys, heads wider than the hidden size divided by them, weights saved in bfloat16, numbers
cut into digits, punctuation that merges with the line breaks after it, control tokens after the merges and two among
them that are no control tokens (`<think>`), a base model's end of text beside a chat template that ends turns with
another token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Tokenizer, Qwen3Config

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, TURN, TURN_END, "<|object_ref_start|>", "<|object_ref_end|>", "<|vision_pad|>")
PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # added tokens that are no control tokens there
# Of the form of Qwen3's: turns of ChatML; thoughts of earlier answers are left out; `enable_thinking: false` closes an
# empty thought before the answer.
CHAT = """\
{%- for m in messages %}
{%- set said = m.content %}
{%- if m.role == 'assistant' %}{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "max_position_embeddings": 32_768,
}  # fmt: skip


def texts_of(data: Path) -> list[str]:
    """The real problems and traces of the folder, as what a tokenizer learns from."""
    columns = {"gsm8k_train": ("question", "answer"), "dapo_math_train": ("prompt",), "parallel_gsm8k": ("trace",)}
    tables = {name: pq.read_table(data / f"{name}.parquet", columns=list(own)) for name, own in columns.items()}
    return [text for name, own in columns.items() for column in own for text in tables[name][column].to_pylist()]


def qwen_tokenizer(texts: Iterable[str], size: int = 2000) -> Qwen2Tokenizer:
    """A byte-level BPE of `size` tokens under Qwen's rules of division, with Qwen's control tokens after them."""
    rules = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(BPE())
    learner.normalizer, learner.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(learnt["vocab"], merges, chat_template=CHAT, clean_up_tokenization_spaces=False)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return tokenizer


def scaled_qwen3(folder: Path, texts: Iterable[str], size: int = 2000, **shape) -> Path:
    """The folder of a random model of Qwen3's architecture, as `model.path` of a recipe."""
    tokenizer = qwen_tokenizer(texts, size)
    end = tokenizer.convert_tokens_to_ids(END)
    rows = -(-(len(tokenizer) + 64) // 128) * 128  # more rows than tokens, as there
    config = Qwen3Config(
        vocab_size=rows, **SHAPE | shape, tie_word_embeddings=True, attention_bias=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}, use_sliding_window=False,
        bos_token_id=end, eos_token_id=end, pad_token_id=None, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_input_embeddings().weight[len(tokenizer) :] = 0.01  # in released folders unused rows are all one
    model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, max_new_tokens=2048)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
