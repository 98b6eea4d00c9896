"""Texts by beam search, and evaluations as files."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from polythink.errors import UserError
from polythink.problems.problem import ProblemSet
from polythink.run.config import parse_config
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.text.config import TextEvalOptions, TextModelConfig, TokenizerConfig
from polythink.text.data.pairs import Pair
from polythink.text.evaluate import (
    encode_set,
    evaluate_texts,
    generate,
    losses,
    mean_loss,
    measure,
    plain,
    running_text,
)
from polythink.text.model import Example, create_text_model, forward_losses
from polythink.text.tokenizers import train_tokenizer

SHAPE = TextModelConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, dropout=0)
TEXTS = ProblemSet("few", (Pair("a b c", "c b a"), Pair("a", "a"), Pair("d a b c", "c b a d")), ("a note",))
END, MOST = 1, 3


def make(encoder: bool = True, seed: int = 0):
    tokenizer = train_tokenizer(TokenizerConfig(), ["a b c d"])
    return create_text_model(SHAPE, tokenizer, encoder, seed)


def score(lm, example: Example, ids: list[int], penalty: float) -> float:
    """sum(log p) / tokens^penalty by one forward; a text of `MOST` tokens is cut, a shorter one has its end."""
    tokens = ids if len(ids) == MOST else [*ids, END]
    nll = forward_losses(lm, [Example(example.source, tokens)]).sum().item()
    return -nll / len(tokens) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beam_search_finds_the_best_text_under_its_length_penalty(penalty):
    """Against every text of the four words, by beams that are enough for all of them."""
    lm = make(seed=6)
    lm.model.generation_config.update(bad_words_ids=[[0], [2], [3]])  # special tokens, which are no words
    (example,) = encode_set(lm, ProblemSet("one", TEXTS.problems[:1]))
    texts = [list(words) for length in range(MOST + 1) for words in product((4, 5, 6, 7), repeat=length)]
    best = max(texts, key=lambda ids: score(lm, example, ids, penalty))
    (found,) = generate(lm, [example], TextEvalOptions(beams=80, length_penalty=penalty, max_new_tokens=MOST))
    assert score(lm, example, found, penalty) == pytest.approx(score(lm, example, best, penalty), abs=1e-5)
    assert found == best


def test_a_higher_penalty_never_shortens():
    lm = make(seed=6)
    lengths = []
    for penalty in (0.0, 1.0, 4.0):
        found = generate(lm, encode_set(lm, TEXTS), TextEvalOptions(beams=8, length_penalty=penalty, max_new_tokens=12))
        lengths.append(sum(map(len, found)))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@pytest.mark.parametrize("beams", [1, 8])
@pytest.mark.parametrize("least", [0, 1, 7, 12])
def test_a_text_has_its_least_number_of_tokens(beams, least):
    lm = make(seed=6)
    examples = encode_set(lm, TEXTS)
    with torch.no_grad():
        lm.model.decoder.norm.weight.zero_()
        lm.model.decoder.norm.bias.copy_(5 * lm.model.lm_head.weight[END])  # the end is always the most probable
    found = generate(lm, examples, TextEvalOptions(beams=beams, max_new_tokens=12, min_new_tokens=least))
    assert [len(ids) for ids in found] == [least] * 3


@pytest.mark.parametrize("size", [2, 3])
def test_no_run_of_tokens_occurs_twice(size):
    def repeats(ids: list[int], size: int) -> int:
        runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(runs) - len(set(runs))

    lm = make(seed=1)
    examples = encode_set(lm, TEXTS)
    how = {"beams": 2, "max_new_tokens": 12, "min_new_tokens": 12}
    assert sum(repeats(ids, size) for ids in generate(lm, examples, TextEvalOptions(**how)))
    found = generate(lm, examples, TextEvalOptions(**how, no_repeat_ngram_size=size))
    assert [repeats(ids, size) for ids in found] == [0, 0, 0]
    if size == 3:
        assert sum(repeats(ids, 2) for ids in found), "shorter runs may repeat"


def test_a_long_source_is_read_up_to_a_number_of_tokens():
    lm = make()
    whole, cut = encode_set(lm, TEXTS), encode_set(lm, TEXTS, 3)
    assert [list(e.source) for e in cut] == [
        [*whole[0].source[:2], END],
        list(whole[1].source),
        [*whole[2].source[:2], END],
    ]
    assert [e.target for e in cut] == [e.target for e in whole]
    short = ProblemSet("short", (Pair("a b", "c b a"),))
    rows = measure(lm, ProblemSet("long", TEXTS.problems[:1]), TextEvalOptions(max_new_tokens=4, max_source_tokens=3))
    assert {**rows[0], "source": "a b"} == measure(lm, short, TextEvalOptions(max_new_tokens=4))[0]


def test_no_text_is_longer_than_the_longest():
    with pytest.raises(UserError, match=r"min_new_tokens \(9\) is more than max_new_tokens \(8\); lower the first"):
        parse_config(TextEvalOptions, {"min_new_tokens": 9, "max_new_tokens": 8}, "test")


def test_texts_come_in_their_order_whatever_the_rows():
    lm = make()
    examples = encode_set(lm, TEXTS)
    whole = generate(lm, examples, TextEvalOptions(max_new_tokens=6))
    assert whole == [generate(lm, [e], TextEvalOptions(max_new_tokens=6))[0] for e in examples]
    assert whole == generate(lm, examples, TextEvalOptions(max_new_tokens=6, max_num_seqs=1))


def test_losses_come_in_their_order():
    lm = make()
    examples = encode_set(lm, TEXTS)
    assert losses(lm, examples, tokens=1) == pytest.approx(losses(lm, examples), rel=1e-5)
    assert mean_loss(lm, examples) == pytest.approx(sum(losses(lm, examples)) / (4 + 2 + 5))


def test_running_text_is_all_of_it_in_blocks():
    found = running_text([Example((), (4, 5, 1)), Example((), (6, 1)), Example((), (7, 4, 1))], 3)
    assert [list(example.target) for example in found] == [[4, 5, 1], [6, 1, 7], [4, 1]]


def test_an_evaluation_in_its_files(tmp_path):
    lm, said = make(), []
    result = evaluate_texts(lm, TEXTS, "translation", TextEvalOptions(max_new_tokens=5), tmp_path, "few", said.append)
    assert said == ["note on few: a note"]
    assert result == read_json(tmp_path / "eval-few.json")
    assert result["metrics"].keys() == {"exact", "bleu", "loss", "perplexity"}
    rows = read_jsonl(tmp_path / "samples-few.jsonl")
    assert [row["reference"] for row in rows] == ["c b a", "a", "c b a d"]
    assert result["metrics"]["exact"]["value"] == sum(row["output"] == row["reference"] for row in rows) / 3
    assert result["metrics"]["loss"]["value"] == pytest.approx(sum(row["nll"] for row in rows) / 11)


def test_references_are_what_was_given_and_not_what_the_tokenizer_made_of_them(tmp_path):
    lm = make()
    texts = ProblemSet("odd", (Pair("a b", "a  zebra ﬁ"), Pair("a", "")))
    rows = measure(lm, texts, TextEvalOptions(max_new_tokens=1))
    assert [row["reference"] for row in rows] == ["a  zebra ﬁ", ""]
    assert plain("a  zebra ﬁ ") == "a zebra fi"
    assert [row["exact"] for row in rows] == [
        plain(row["output"]) == ref for row, ref in zip(rows, ("a zebra fi", ""), strict=True)
    ]


def test_running_text_is_measured_by_word(tmp_path):
    lm = make(encoder=False)
    result = evaluate_texts(
        lm, TEXTS, "language_modelling", TextEvalOptions(block=4), tmp_path, "few", lambda note: None
    )
    rows = read_jsonl(tmp_path / "samples-few.jsonl")
    assert [row["tokens"] for row in rows] == [4, 4, 3]
    assert sum(row["words"] for row in rows) == pytest.approx(8 + 3), "8 words and 3 ends"
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(result["metrics"]["word_perplexity"]["value"])
