"""A model of a dialect that a YAML file declares: its folder holds the production, and needs the file no more."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from polythink.errors import UserError
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import load, save
from polythink.models.settings import SETTINGS_FILE, read_settings
from polythink.models.tags import add_tags
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.trace.dialect import DIALECTS, get_dialect
from polythink.trace.parse import parse

WORDS = ("one", "two")
SMALL = ModelConfig(hidden_size=32, num_hidden_layers=2, intermediate_size=48)
# tags with a space, without letters, with regex characters, and one closing tag for all
MINE = """
name: mine
nests: false
block:
  - tag: "(fork it)?"
  - plan: ["🧭", "✋"]
    outline: ["💡*", "✋"]
  - paths: ["🛤", "✋"]
    counted: outlines
  - summary: ["🤝", "✋"]
"""
TEXT = "(fork it)? 🧭 💡* one ✋ ✋ 🛤 two ✋ 🤝 one ✋"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_the_folder_keeps_the_production_when_the_file_is_gone(file, tmp_path):
    lm = from_config(SMALL, str(file), WORDS, seed=3)
    declared = lm.dialect
    save(lm, tmp_path / "model")
    file.unlink()
    moved = shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    back = load(moved)
    assert back.dialect == declared
    assert back.settings == lm.settings
    assert back.settings.dialect == "mine"
    assert load(moved, dialect="mine").dialect == declared
    assert "`mine`" in (tmp_path / "elsewhere" / "README.md").read_text(encoding="utf-8")
    ids = back.encode(TEXT)
    assert sum(i in back.tag_ids.values() for i in ids) == 9
    assert parse(back.decode(ids), back.dialect).blocks[0].plan.outlines == (" one ",)


def test_the_same_dialect_by_file_is_the_stored_one_and_another_of_that_name_is_refused(file, tmp_path):
    save(from_config(SMALL, str(file), WORDS), tmp_path / "model")
    assert load(tmp_path / "model", dialect=str(file)).dialect == get_dialect(str(file))
    file.write_text(MINE.replace("💡*", "💡+"), encoding="utf-8")
    with pytest.raises(UserError, match="differs from the dialect 'mine' with which the model was saved"):
        load(tmp_path / "model", dialect=str(file))
    file.write_text(MINE.replace("💡*", "💡+").replace("name: mine", "name: other"), encoding="utf-8")
    other = load(tmp_path / "model", dialect=str(file))
    assert (other.settings.dialect, other.dialect) == ("other", get_dialect(str(file)))


def test_a_published_dialect_takes_the_place_of_the_stored_one(file, tmp_path):
    save(from_config(SMALL, str(file), WORDS), tmp_path / "model")
    published = load(tmp_path / "model", dialect="npr")
    assert (published.settings.dialect, published.settings.production) == ("npr", {})
    save(published, tmp_path / "model")
    assert "production" not in json.loads((tmp_path / "model" / SETTINGS_FILE).read_text())
    with pytest.raises(UserError, match="no dialect 'mine'"):
        load(tmp_path / "model", dialect="mine")


def test_a_damaged_production_is_named(file, tmp_path):
    save(from_config(SMALL, str(file), WORDS), tmp_path / "model")
    path = tmp_path / "model" / SETTINGS_FILE
    settings = json.loads(path.read_text())
    assert read_settings(path).production == settings["production"]
    settings["production"]["block"][0]["tga"] = "x"
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"the production in polythink.json, element 1 of its block has no key 'tga'"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", [*DIALECTS, "mine"])
@pytest.mark.parametrize("make", [byte_tokenizer, lambda dialect: word_tokenizer(WORDS, dialect)], ids=["b", "w"])
def test_each_tag_is_one_token(file, name, make):
    dialect = get_dialect(str(file) if name == "mine" else name)
    tokenizer = make(dialect)
    for tag in dialect.tags:
        assert (
            len(tokenizer(f"one{tag}two", add_special_tokens=False)["input_ids"])
            - len(tokenizer("one", add_special_tokens=False)["input_ids"])
            - len(tokenizer("two", add_special_tokens=False)["input_ids"])
            == 1
        )


def test_new_rows_of_tags_without_words_are_numbers(file):
    lm = from_config(SMALL.model_copy(update={"tokenizer": "bytes"}), "parallel_r1", seed=1)
    dialect = get_dialect(str(file))
    assert set(add_tags(lm.model, lm.tokenizer, dialect)) == set(dialect.tags)
    assert torch.isfinite(lm.model.get_input_embeddings().weight).all()
