"""Thought embeddings in saved folders and in recipes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.thoughts import INVENTORY, fill, forward, furthest, make, trace
from polythink.errors import UserError
from polythink.models.build import add_thoughts, from_config, from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.lm import load, save
from polythink.models.thoughts import THOUGHTS_FILE, attach, thoughts_of
from polythink.pipeline.runners import first_model
from polythink.run.config import parse_config
from polythink.trace.dialect import DIALECTS


def test_a_saved_folder_loads_with_its_tables(tmp_path):
    lm, layout = make("qwen3"), trace()
    save(lm, tmp_path)
    back = load(tmp_path)
    assert back.settings == lm.settings
    assert torch.equal(forward(back, layout), forward(lm, layout))
    assert json.loads((tmp_path / "polythink.json").read_text())["thoughts"] == INVENTORY
    assert f"thought embeddings | for 9 path numbers, in `{THOUGHTS_FILE}`" in (tmp_path / "README.md").read_text()
    half = load(tmp_path, dtype="bfloat16")
    assert thoughts_of(half.model).table.dtype == torch.bfloat16


def test_plain_transformers_loads_the_weights_and_loses_the_tables(tmp_path):
    """Without an error: whoever wants the tables must load the folder here."""
    lm, layout = make("qwen3"), trace()
    save(lm, tmp_path)
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    lost = dataclasses.replace(lm, model=plain.to(lm.device).eval())
    assert furthest(forward(lost, layout), forward(lm, layout)) > 0.1
    with torch.no_grad():
        thoughts_of(lm.model).table.zero_()
    assert torch.equal(forward(lost, layout), forward(lm, layout))


def test_a_folder_written_again_without_tables_holds_none(tmp_path):
    save(make("qwen3"), tmp_path)
    bare = make("qwen3", None)
    attach(bare.model, None)
    save(bare, tmp_path)
    assert not (tmp_path / THOUGHTS_FILE).exists()
    assert load(tmp_path).settings.thoughts == 0
    settings = json.loads((tmp_path / "polythink.json").read_text())
    del settings["thoughts"]  # as it was written before there were any
    (tmp_path / "polythink.json").write_text(json.dumps(settings))
    assert thoughts_of(load(tmp_path).model) is None


def other_shape(folder, index) -> None:
    table = load_file(folder / THOUGHTS_FILE)["table"]
    save_file({"table": table[index].contiguous()}, folder / THOUGHTS_FILE)


def resettle(folder, **changes) -> None:
    path = folder / "polythink.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / THOUGHTS_FILE).unlink(), "is missing thoughts.safetensors .9 thought"),
        (lambda f: other_shape(f, slice(1)), r"shape \(1, 10, 8\) .* with 9 path numbers needs \(2, 10, 8\)"),
        (lambda f: other_shape(f, (slice(None), slice(4))), r"shape \(2, 4, 8\) .* needs \(2, 10, 8\)"),
        (lambda f: other_shape(f, (..., slice(4))), r"shape \(2, 10, 4\) .* needs \(2, 10, 8\)"),
        (lambda f: resettle(f, thoughts=16), r"shape \(2, 10, 8\) .* with 16 path numbers needs \(2, 17, 8\)"),
        (lambda f: resettle(f, thoughts=0), "has thoughts.safetensors, but its polythink.json does not say so"),
        (lambda f: resettle(f, thoughts=-1), "at least one path number, given -1"),
        (lambda f: resettle(f, thoughts="many"), "is damaged .*thoughts"),
        (lambda f: (f / "polythink.json").unlink(), "has thoughts.safetensors, but no polythink.json"),
        (lambda f: (f / THOUGHTS_FILE).write_bytes(b"\0" * 30), r"thoughts.safetensors' is damaged"),
        (lambda f: save_file({"tabel": torch.zeros(1)}, f / THOUGHTS_FILE), r"thoughts.safetensors' is damaged"),
    ],
)
def test_folders_whose_tables_do_not_fit(tmp_path, spoil, message):
    save(make("qwen3"), tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_with_tables_is_not_adopted_without_them(tmp_path):
    save(make("qwen3"), tmp_path)
    (tmp_path / "polythink.json").unlink()
    with pytest.raises(UserError, match=r"has thoughts\.safetensors, but no polythink\.json"):
        from_pretrained(ModelConfig(path=str(tmp_path)), "parallel_r1")


def test_a_dialect_without_numbers_has_none():
    with pytest.raises(UserError, match="the dialect 'parallel_r1' numbers none"):
        add_thoughts(make("qwen3", None))
    with pytest.raises(UserError, match="the dialect 'parallel_r1' numbers none"):
        from_config(ModelConfig(thought_embeddings=True), "parallel_r1", ("a",))


@pytest.mark.skipif("parathinker" not in DIALECTS, reason="no dialect numbers its paths")
def test_a_recipe_asks_for_them(tmp_path):
    shape = ModelConfig(hidden_size=32, num_hidden_layers=2, head_dim=8, thought_embeddings=True)
    lm = from_config(shape, "parathinker", ("a", "b"))
    inventory = DIALECTS["parathinker"].inventory
    assert thoughts_of(lm.model).table.shape == (2, inventory + 1, 8)
    assert lm.settings.thoughts == inventory
    bare = from_config(shape.model_copy(update={"thought_embeddings": False}), "parathinker", ("a", "b"))
    save(bare, tmp_path)
    assert load(tmp_path).settings.thoughts == 0
    shape = shape.model_copy(update={"path": str(tmp_path)})
    for given in (from_pretrained(shape, "parathinker"), first_model(shape, "parathinker", 0)):
        assert given.settings.thoughts == thoughts_of(given.model).inventory == inventory
    assert add_thoughts(lm) is lm


SMALL = ModelConfig(hidden_size=32, num_hidden_layers=2, head_dim=8)


def test_a_folder_is_adopted_in_another_dialect(tmp_path):
    """Tags first, then the recipe's dialect, then embeddings for its numbers."""
    save(from_config(SMALL, "parallel_r1", ("a", "b")), tmp_path)
    config = SMALL.model_copy(update={"path": str(tmp_path)})
    with pytest.raises(UserError, match=r"does not hold <think1>, .* set model\.add_tags: true"):
        first_model(config, "parathinker", 0)
    config = config.model_copy(update={"add_tags": True})
    plain = first_model(config, "parathinker", 0)
    assert (plain.dialect.name, plain.settings.thoughts, len(plain.tag_ids)) == ("parathinker", 0, 34)
    marked = first_model(config.model_copy(update={"thought_embeddings": True}), "parathinker:5", 0)
    assert (marked.dialect.inventory, marked.settings.thoughts, thoughts_of(marked.model).inventory) == (5, 5, 5)


def test_embeddings_of_a_folder_are_kept_or_refused(tmp_path):
    lm = from_config(SMALL.model_copy(update={"thought_embeddings": True}), "parathinker", ("a", "b"))
    fill(lm)
    save(lm, tmp_path)
    config = SMALL.model_copy(update={"path": str(tmp_path), "add_tags": True})
    for wanted in (None, True):
        again = first_model(config.model_copy(update={"thought_embeddings": wanted}), "parathinker:8", 0)
        assert torch.equal(thoughts_of(again.model).table, thoughts_of(lm.model).table)
        assert (again.dialect.inventory, again.settings.thoughts) == (8, 16)
    for changes, dialect, message in (
        ({"thought_embeddings": False}, "parathinker", "thought_embeddings: false, but .* has 16 of them"),
        (
            {},
            "parathinker:64",
            "has 16 thought .* 'parathinker:64' numbers 64 .* dialect: parathinker:16",
        ),
        ({"thought_embeddings": True}, "parathinker:64", "has 16 thought embeddings"),
    ):
        with pytest.raises(UserError, match=message):
            first_model(config.model_copy(update=changes), dialect, 0)


@pytest.mark.parametrize("start", ["random", "folder"])
def test_a_recipe_says_how_new_ones_are_drawn(tmp_path, start):
    """Zeros unless it asks for a spread: then every row, row 0 too, and the same rows for the same seed."""
    shape = ModelConfig(hidden_size=32, num_hidden_layers=8, head_dim=32)
    save(from_config(shape, "parathinker", ("a", "b")), tmp_path)

    def table(seed: int = 0, **fields):
        fields = {"thought_embeddings": True, **fields}
        if start == "folder":
            lm = from_pretrained(ModelConfig(path=str(tmp_path), **fields), "parathinker", seed)
        else:
            lm = from_config(
                ModelConfig(**shape.model_dump(exclude=fields.keys()), **fields), "parathinker", ("a", "b"), seed
            )
        return thoughts_of(lm.model).table.detach()

    assert not table().any()
    drawn = table(thought_init=0.02)
    assert abs(drawn.mean()) < 0.002
    assert 0.018 < drawn.std() < 0.022
    assert 0.015 < drawn[:, 0].std() < 0.025
    assert torch.equal(drawn, table(thought_init=0.02))
    assert not torch.equal(drawn, table(1, thought_init=0.02))
    assert table(thought_init=0.5, dtype="bfloat16").std() > 0.45


def test_tables_of_a_folder_are_not_drawn_again(tmp_path):
    lm = from_config(ModelConfig(thought_embeddings=True, thought_init=1), "parathinker", ("a", "b"), seed=1)
    save(lm, tmp_path)
    again = from_pretrained(ModelConfig(path=str(tmp_path), thought_embeddings=True, thought_init=1), "parathinker", 2)
    assert torch.equal(thoughts_of(again.model).table, thoughts_of(lm.model).table)


def test_a_spread_of_none_is_refused():
    with pytest.raises(UserError, match=r"thought_init \(0.02\) is for new thought embeddings, and none are asked for"):
        parse_config(ModelConfig, {"thought_init": 0.02}, "model")
