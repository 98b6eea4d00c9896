"""Two small tokenizers in hub format: a closed vocabulary of words, and raw bytes. Each tag is one token in both."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from polythink.trace.dialect import Dialect

HEADINGS = 16
END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"


def word_tokenizer(words: Sequence[str], dialect: Dialect) -> PreTrainedTokenizerFast:
    """One token per word, words separated by white space. Any other word becomes the unknown token.

    Where paths begin with the number of their outline, those of the first `HEADINGS` paths are words too.
    """
    headings = (word for place in range(1, HEADINGS + 1) for word in dialect.heading(place).split())
    return _finish(word_level((PAD, END, UNKNOWN, *words, *headings), UNKNOWN), dialect, unk_token=UNKNOWN)


def byte_tokenizer(dialect: Dialect) -> PreTrainedTokenizerFast:
    """One token per byte: encodes any text, into long sequences."""
    return _finish(byte_level((PAD, END)), dialect)


def word_level(words: Sequence[str], unknown: str) -> Tokenizer:
    """One token per word, ids in this order; `unknown`, one of the words, stands for all others."""
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_level(special: Sequence[str]) -> Tokenizer:
    """One token per byte, after the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({c: i for i, c in enumerate((*special, *alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _finish(tokenizer: Tokenizer, dialect: Dialect, **special: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([PAD, END])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in dialect.tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False, **special
    )
