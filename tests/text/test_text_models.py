"""Models of plain text: what they read, their loss against torch's, their tokenizers against SentencePiece's own."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from polythink.errors import UserError
from polythink.models import architectures
from polythink.run.config import parse_config
from polythink.text.config import ARCHITECTURES, TextModelConfig, TokenizerConfig
from polythink.text.model import (
    IGNORED,
    Example,
    TextModel,
    architecture_config,
    create_text_model,
    forward_losses,
    load_text_model,
    make_batch,
    save_text_model,
    token_losses,
)
from polythink.text.tokenizers import bpe_tokenizer, train_sentencepiece, train_tokenizer, vocabulary_size

SMALL = TextModelConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, dropout=0, num_source_layers=1
)
WORDS = ["a b c d e", "f g h"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog", "the dog was not quick at all", "foxes jump, dogs sleep over there",
    "überall schlafen Hunde, nirgends springt ein Fuchs", "der schnelle braune Fuchs springt über den faulen Hund",
]  # fmt: skip


def make(encoder: bool = True, **shape) -> TextModel:
    tokenizer = train_tokenizer(TokenizerConfig(kind="words"), WORDS)
    return create_text_model(SMALL.model_copy(update=shape), tokenizer, encoder, seed=0)


EXAMPLES = [Example((4, 5, 6, 1), (7, 8, 1)), Example((9, 1), (10, 11, 4, 5, 1)), Example((6, 7, 1), (1,))]


def test_words_have_their_ids_and_the_end():
    lm = make()
    assert lm.encode("a b zebra c") == [4, 5, 2, 6, 1]
    assert lm.decode([4, 5, 1, 0, 0]) == "a b"
    few = train_tokenizer(TokenizerConfig(kind="words", size=8), ["x y y v w", "y x z v w"])
    assert len(few) == 8
    assert few.backend_tokenizer.encode("v w x y z").ids == [4, 5, 6, 7, 2], "the rarest word has no room"


def test_a_batch_by_hand():
    batch = make_batch(make(), EXAMPLES[:2])
    assert batch["input_ids"].tolist() == [[4, 5, 6, 1], [9, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert batch["decoder_input_ids"].tolist() == [[3, 7, 8, 1, 0], [3, 10, 11, 4, 5]]
    assert batch["labels"].tolist() == [[7, 8, 1, IGNORED, IGNORED], [10, 11, 4, 5, 1]]
    alone = make_batch(make(encoder=False), EXAMPLES[:2])
    assert alone.keys() == {"input_ids", "labels"}
    assert alone["input_ids"].tolist() == [[3, 7, 8, 1, 0, 0], [3, 10, 11, 4, 5, 1]]
    assert alone["labels"].tolist() == [[IGNORED, 7, 8, 1, IGNORED, IGNORED], [IGNORED, 10, 11, 4, 5, 1]]


@pytest.mark.parametrize("encoder", [True, False])
def test_losses_are_those_of_the_model_and_smoothed_as_published(encoder):
    lm = make(encoder)
    batch = make_batch(lm, EXAMPLES)
    output = lm.model(**batch)
    plain = token_losses(lm, output.logits, batch["labels"])
    tokens = sum(len(example.target) for example in EXAMPLES)
    assert plain.sum().item() / tokens == pytest.approx(output.loss.item(), rel=1e-6)
    torch.testing.assert_close(forward_losses(lm, EXAMPLES), plain)
    assert [(row > 0).sum() for row in plain] == [len(example.target) for example in EXAMPLES], "0 where padded"
    smoothed = token_losses(lm, output.logits, batch["labels"], 0.3)
    uniform = -output.logits.log_softmax(-1).mean(-1)[:, : plain.shape[1]].masked_fill(plain == 0, 0)
    torch.testing.assert_close(smoothed, 0.7 * plain + 0.3 * uniform)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", [True, False])
def test_a_text_loses_the_same_alone_and_in_a_batch(encoder, architecture):
    lm = make(encoder, architecture=architecture)
    together = forward_losses(lm, EXAMPLES).sum(1)
    alone = torch.stack([forward_losses(lm, [example]).sum() for example in EXAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("encoder", "auto"), [(True, AutoModelForSeq2SeqLM), (False, AutoModelForCausalLM)])
def test_a_saved_model_is_an_ordinary_folder(tmp_path, encoder, auto):
    lm = make(encoder, architecture="partialformer", options={"ffn_ratio": 2})
    save_text_model(lm, tmp_path)
    again = load_text_model(tmp_path)
    assert again.has_encoder == encoder
    assert again.encode("a b zebra") == lm.encode("a b zebra")
    for model in (again.model, auto.from_pretrained(tmp_path)):
        batch = make_batch(lm, EXAMPLES)
        torch.testing.assert_close(model.eval()(**batch).logits, lm.model(**batch).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "</s>"
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_the_seed_makes_the_model():
    first, same = (make().model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], same[name]) for name in first)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"architecture": "vanila"}, "no architecture 'vanila' for text; did you mean 'vanilla'"),
        ({"dropout": 1.5}, "dropout must be less than 1"),
        ({"hiden_size": 3}, "did you mean 'hidden_size'"),
    ],
)
def test_mistakes_in_a_shape(data, message):
    with pytest.raises(UserError, match=message):
        parse_config(TextModelConfig, data, "model")


def test_options_of_another_architecture():
    with pytest.raises(UserError, match=r"model.options: eit has no 'ffn_ratio'"):
        architecture_config(
            SMALL.model_copy(update={"architecture": "eit", "options": {"ffn_ratio": 2}}), 100, encoder=True
        )


def test_the_architectures_of_recipes_are_those_of_the_package():
    assert set(ARCHITECTURES) == set(architectures.ARCHITECTURES)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match="cannot load a model from"):
        load_text_model(tmp_path)


# ---- SentencePiece ----


def test_pieces_are_those_of_sentencepiece():
    from sentencepiece import SentencePieceProcessor

    model = train_sentencepiece(TEXTS, 90)
    theirs, ours = SentencePieceProcessor(model_proto=model), bpe_tokenizer(model)
    assert len(ours) == 90
    unseen = [
        "a fox over a dog",
        "  two  spaces ",
        "zzz aaa thethethe",
        "日本 dog",
        "ﬁne Ünder",
        "",
        "dogsdogs schnell",
    ]
    for text in TEXTS + unseen:
        expected = theirs.encode(unicodedata.normalize("NFKC", text))
        assert ours.backend_tokenizer.encode(text, add_special_tokens=False).ids == expected, text
    for text in TEXTS:
        assert ours.decode(ours.backend_tokenizer.encode(text).ids, skip_special_tokens=True) == text


def test_more_pieces_than_there_are():
    with pytest.raises(UserError, match=r"no tokenizer of 5000 pieces for these texts: Vocabulary size too high"):
        train_tokenizer(TokenizerConfig(kind="bpe", size=5000), TEXTS)


def test_bytes_hold_any_text():
    tokenizer = train_tokenizer(TokenizerConfig(kind="bytes"), [])
    assert len(tokenizer) == vocabulary_size(TokenizerConfig(kind="bytes")) == 260
    for text in (*TEXTS, "日本 ", "\n\t"):
        ids = tokenizer.backend_tokenizer.encode(text).ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
