"""Small tokenizers built like those of released models: with BOS, several end tokens, SentencePiece's spaces."""

from __future__ import annotations

import string

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from polythink.models.lm import LanguageModel
from polythink.models.settings import ModelSettings
from polythink.trace.dialect import get_dialect

BOS, EOS, TURN_END, TURN = "<bos>", "<eos>", "<end_of_turn>", "<start_of_turn>"
SPECIAL = ("<pad>", EOS, BOS, TURN, TURN_END)
# Gemma's: writes BOS itself, and ends every turn with a token that is not the tokenizer's EOS
CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def byte_level(bos: bool = True, chat: str | None = None, **more: str) -> PreTrainedTokenizerFast:
    """Bytes, as in Llama-3; with `bos` its call puts BOS in front of every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({c: i for i, c in enumerate((*SPECIAL, *alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, bos, chat, **more)


def sentencepiece(spaces: str, bos: bool = True, chat: str | None = None) -> PreTrainedTokenizerFast:
    """Llama-2's: pieces begin with the space before them, and each text is given one.

    `spaces`: "first" or "always" (Metaspace), or "prepend" (a rule of the normaliser).
    """
    letters = (*string.ascii_letters, *string.digits, *".,:;+-=<>/|_\\{}()?")
    merges = [("▁", letter) for letter in string.ascii_lowercase]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ("<unk>", *SPECIAL, *fallback, "▁", *letters, *("".join(pair) for pair in merges))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if spaces == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=spaces, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer, bos, chat, unk_token="<unk>")


def _finish(tokenizer: Tokenizer, bos: bool, chat: str | None, **more: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    if bos:
        head = [(BOS, tokenizer.token_to_id(BOS))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=head)
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": "<pad>", **more}
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)
    found.chat_template = chat
    return found


def model_of(tokenizer: PreTrainedTokenizerFast, dialect: str = "parallel_r1", **settings) -> LanguageModel:
    """A tiny random model over that tokenizer, to which the dialect's tags are added."""
    rules = get_dialect(dialect)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in rules.tags])
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(model, tokenizer, ModelSettings(dialect=dialect, **settings))
