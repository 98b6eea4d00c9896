"""Sets of texts: generated ones by hand and by split, files line by line, and error messages."""

from __future__ import annotations

import json
import sys

import pytest

from polythink.errors import UserError
from polythink.text.data.grammar import noun_phrase, sentence
from polythink.text.data.pairs import ORDERS, SHARES, Pair, generate_pairs, in_words, split_of
from polythink.text.data.sets import TEXTS, check_texts, has_source, load_texts

THE, A, THIS = ("the", "the"), ("a", "some"), ("this", "these")
DRAWN = sorted(name for name, source in TEXTS.items() if source.draw)


# ---- the grammar ----


@pytest.mark.parametrize(
    ("pair", "source", "translation"),
    [
        (
            sentence(noun_phrase(THE, "dog", False, "red"), "follow", noun_phrase(A, "cat", True)),
            "the red dog follows some cats",
            "to kelu palo man morank lirit",
        ),
        (
            sentence(noun_phrase(THIS, "queen", True), "see", noun_phrase(THE, "king", False, "old"), "today"),
            "these queens see the old king today",
            "oma san ofelin to garask gino dapunt",
        ),
        (
            sentence(
                noun_phrase(THE, "dog", False, modifier=("see", noun_phrase(A, "cat", True), True)),
                "follow",
                noun_phrase(THIS, "girl", True),
            ),
            "the dog that sees some cats follows these girls",
            "man morank dapit ke to kelu son nironk lirit",
        ),
        (
            sentence(
                noun_phrase(A, "poet", False),
                "hear",
                noun_phrase(THE, "wolf", True, modifier=("fear", noun_phrase(A, "monk", False), False)),
            ),
            "a poet hears the wolfs that a monk fears",
            "ma falin mo hilep belit ko tan hatumnk sutit",
        ),
        (
            sentence(
                noun_phrase(THE, "bird", True, modifier=("near", noun_phrase(THIS, "horse", False))),
                "love",
                noun_phrase(THE, "dog", False),
            ),
            "the birds near this horse love the dog",
            "so zefi uri tan tisan to keluk mokunt",
        ),
    ],
)
def test_sentences_by_hand(pair, source, translation):
    assert pair == Pair(source, translation)


def test_the_pairs_of_the_benchmark_stay_what_they_are():
    train = load_texts("grammar:train", 1000)
    assert train.problems == load_texts("grammar:train", 1000).problems
    assert train.problems[:10] == load_texts("grammar", 10).problems, "the first split is the one for training"
    assert max(len(pair.source.split()) for pair in train) <= 28
    assert 15 < sum(len(pair.source.split()) for pair in train) / 1000 < 19
    assert all(len(pair.source.split()) == len(pair.target.split()) for pair in train)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_splits_are_disjoint(name):
    sides = {split: {pair.source for pair in load_texts(f"{name}:{split}", 100)} for split in TEXTS[name].splits}
    assert all(len(sources) == 100 for sources in sides.values()), "sources differ"
    for split, sources in sides.items():
        assert not any(sources & other for key, other in sides.items() if key != split)
        assert {split_of(source) for source in sources} == {"test" if split == "long" else split}


def test_the_shares_of_the_splits():
    found = [split_of(str(number)) for number in range(20_000)]
    assert {split: round(100 * found.count(split) / len(found)) for split in SHARES} == SHARES


# ---- lists and numbers ----


@pytest.mark.parametrize(("order", "words"), [("copy", "c a b"), ("reverse", "b a c"), ("sort", "a b c")])
def test_lists_in_order(order, words):
    assert " ".join(ORDERS[order](["c", "a", "b"])) == words
    for split, low, high in (("train", 3, 12), ("long", 13, 20)):
        for pair in load_texts(f"{order}:{split}", 100):
            assert low <= len(pair.source.split()) <= high
            assert pair.target == " ".join(ORDERS[order](pair.source.split()))


def test_number_words():
    assert in_words(961, "en") == "nine hundred and sixty-one"
    assert in_words(961, "de") == "neunhunderteinundsechzig"
    assert in_words(95, "fr") == "quatre-vingt-quinze"


def test_number_words_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(UserError, match=r"\[translation\]"):
        in_words(10**9 + 7, "en")


def test_a_split_that_is_used_up():
    with pytest.raises(UserError, match="few:train has only about"):
        generate_pairs("few", lambda rng: Pair(str(rng.randrange(10)), "x"), "train", 100)


# ---- files ----


def test_two_files_line_by_line(tmp_path):
    (tmp_path / "x.en").write_text("a dog\nthe cat\n\nx\u2028y\n", encoding="utf-8")
    (tmp_path / "x.de").write_text("ein Hund\ndie Katze\nleer\nx y\n", encoding="utf-8")
    found = load_texts(f"{tmp_path}/x.{{en,de}}")
    assert found.problems == (Pair("a dog", "ein Hund"), Pair("the cat", "die Katze"), Pair("x\u2028y", "x y"))
    assert found.notes == ("1 pairs with an empty side were dropped",)
    assert len(load_texts(f"{tmp_path}/x.{{en,de}}", 1)) == 1


@pytest.mark.parametrize("form", ["{en,de}", "tsv", "txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path, monkeypatch, form):
    monkeypatch.setenv("HOME", str(tmp_path))
    for end, text in (("en", "a dog"), ("de", "ein Hund"), ("tsv", "a dog\tein Hund"), ("txt", "ein Hund")):
        (tmp_path / f"texts.{end}").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n")
    assert load_texts(f"~/texts.{form}").problems == (Pair("" if form == "txt" else "a dog", "ein Hund"),)


def test_one_file_of_each_form(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\nc\td\n")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in ("ab", "cd")))
    (tmp_path / "x.txt").write_text("a\n\nb\n")
    pairs = (Pair("a", "b"), Pair("c", "d"))
    assert load_texts(str(tmp_path / "x.tsv")).problems == load_texts(str(tmp_path / "x.jsonl")).problems == pairs
    assert load_texts(str(tmp_path / "x.txt")).problems == (Pair("", "a"), Pair("", ""), Pair("", "b"))
    assert has_source(str(tmp_path / "x.tsv"))
    assert not has_source(str(tmp_path / "x.txt"))


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({"x.en": "a\nb\n", "x.de": "a\n"}, "x.{en,de}", r"x\.en has 2 lines and .*x\.de has 1"),
        ({"x.en": "a\n"}, "x.{en,de}", r"cannot read .*x\.de: No such file"),
        ({"x.tsv": "a\tb\nc\n"}, "x.tsv", r"x\.tsv, line 2: must be source, tab, target; it has 0 tabs"),
        ({"x.jsonl": '{"source": "a"}\n'}, "x.jsonl", r"row 0 of .* has no text in 'target'"),
        ({"x.csv": "a,b\n"}, "x.csv", r"x\.csv is not a file of texts; give two files as NAME"),
        ({"x.tsv": ""}, "x.tsv", "has no pairs"),
        ({"x.txt": b"\xff\xfe"}, "x.txt", "it is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, files, name, message):
    for file, content in files.items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_texts(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gramar:train", "no set of texts 'gramar'; did you mean 'grammar'"),
        ("grammar:dev", "grammar has no split 'dev'"),
        ("corpus/x.{en,de}", r"here: no file corpus/x\.en"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(UserError, match=message):
        check_texts(name, "here")


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - set(DRAWN)))
def test_sets_of_the_hub_say_what_they_need(monkeypatch, name):
    check_texts(f"{name}:test", "here")
    assert has_source(name) == (name != "wikitext-103")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[data\]'.*without it, give two files as NAME"):
        load_texts(f"{name}:train")


def test_rows_of_the_hub(monkeypatch):
    rows = {"train": [{"translation": {"en": "a dog", "de": "ein Hund"}}, {"translation": {"en": "", "de": "x"}}]}
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(repo, config, split):
            asked.append((repo, config, split))
            return rows["train"]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    assert load_texts("wmt14-en-de:valid").problems == (Pair("a dog", "ein Hund"),)
    assert asked == [("wmt/wmt14", "de-en", "validation")]
    with pytest.raises(UserError, match=r"row 0 of cnn-dailymail:test has no text in 'article'"):
        load_texts("cnn-dailymail:test")
