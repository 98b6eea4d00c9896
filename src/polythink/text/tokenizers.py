"""Tokenizers for plain text, in hub format: a closed vocabulary of words, SentencePiece BPE, raw bytes.

All start with the same special tokens.
"""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from polythink.errors import UserError, install_extra
from polythink.models.tokenizers import byte_level, word_level
from polythink.text.config import TokenizerConfig

PAD, END, UNKNOWN, START = SPECIALS = ("<pad>", "</s>", "<unk>", "<s>")


def vocabulary_size(config: TokenizerConfig) -> int:
    """Size of the trained vocabulary (an upper bound for kind "words")."""
    return len(SPECIALS) + 256 if config.kind == "bytes" else config.size


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for these texts."""
    if config.kind == "bpe":
        return bpe_tokenizer(train_sentencepiece(texts, config.size, config.sentences))
    return _frequent_words(texts, config.size) if config.kind == "words" else _in_hub_format(byte_level(SPECIALS))


def _frequent_words(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """One token for each of the most frequent words, separated by white space; other words are unknown."""
    counts = Counter(word for text in texts for word in text.split())
    words = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(SPECIALS)]
    return _in_hub_format(word_level((*SPECIALS, *sorted(words)), UNKNOWN))


def train_sentencepiece(texts: Iterable[str], size: int, sentences: int = 2_000_000) -> bytes:
    """A SentencePiece BPE model (Kudo and Richardson 2018) with the special tokens first.

    Texts are normalised by NFKC first, and not by SentencePiece. `UserError` if they have fewer than `size` pieces.
    """
    try:
        import sentencepiece
    except ImportError:
        raise UserError(f"tokenizer.kind bpe needs {install_extra('translation')}") from None
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(unicodedata.normalize("NFKC", text) for text in texts), model_writer=model,
            model_type="bpe", vocab_size=size, character_coverage=0.9999, normalization_rule_name="identity",
            input_sentence_size=sentences, shuffle_input_sentence=True, num_threads=1, minloglevel=2,
            pad_id=0, eos_id=1, unk_id=2, bos_id=3, pad_piece=PAD, eos_piece=END, unk_piece=UNKNOWN, bos_piece=START,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).strip().rpartition("] ")[2]
        raise UserError(f"no tokenizer of {size} pieces for these texts: {reason}") from error
    return model.getvalue()


def bpe_tokenizer(model: bytes) -> PreTrainedTokenizerFast:
    """A SentencePiece BPE model in hub format: the same pieces for the same text.

    SentencePiece always merges the neighbours that form the best piece; the hub's BPE follows a list of merges. The
    list holds every pair of pieces that forms a piece, best piece first.
    """
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=model)
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(vocabulary.keys() - set(SPECIALS), key=lambda p: -pieces.get_score(vocabulary[p]))
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _in_hub_format(tokenizer)


def _in_hub_format(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, bos_token=START,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
