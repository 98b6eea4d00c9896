"""Recipes for plain text: the published shapes have their parameters, plans are identified by content, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helpers.formulas import formula
from polythink.errors import UserError
from polythink.models.architectures.counting import counted, total
from polythink.pipeline.recipe import load_recipe
from polythink.pipeline.text import TextPlan, TextRecipe
from polythink.run.config import parse_config

SMALL = {
    "name": "small",
    "task": "translation",
    "stages": {
        "train": {"kind": "text", "data": "copy:train", "valid": "copy:valid", "steps": 2, "batch": 4},
        "test": {"kind": "text_eval", "data": ["copy:test"]},
    },
}


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


def digests(recipe: TextRecipe) -> dict[str, str]:
    return {plan.name: plan.digest for plan in recipe.plan()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("translation-wmt14-ende-partialformer", 67_621_992),  # P1
        ("translation-wmt16-enro-partialformer", 63_025_512),  # P1v, 20,000 pieces
        ("translation-wmt14-enfr-partialformer", 67_345_512),  # P1v, 32,000 pieces
        ("summarisation-cnndm-partialformer", 31_764_618),  # P2
        ("lm-wikitext103-partialformer", 72_442_112 + 32_768 * 1024),  # P6 and its embeddings
        ("translation-wmt14-ende-vanilla", 60_917_760),  # T1
        ("translation-wmt14-ende-eit", 60_985_824),  # E1
        ("translation-grammar", 551_808),
        ("translation-grammar-partialformer", 571_632),
    ],
)
def test_shapes_have_the_parameters_that_are_known(name, parameters):
    """By the formula, which is that of the real modules (tests/models/architectures/test_counting.py)."""
    config = load_recipe(name).architecture_config()
    assert total(*formula(config, 1, 1).values()).parameters == parameters
    if parameters < 1_000_000:
        assert total(*counted(config, 16, 16).values()).parameters == parameters


def test_published_values_of_translation():
    recipe = load_recipe("translation-wmt14-ende-partialformer")
    train, test = recipe.stages["train"], recipe.stages["test"]
    assert (train.lr, train.schedule, train.warmup, train.betas) == (2e-3, "inverse_sqrt", 16_000, (0.9, 0.997))
    assert (train.label_smoothing, train.max_grad_norm, train.weight_decay) == (0.1, 0, 0)
    assert (train.batch_tokens * train.accumulate, train.epochs, train.average) == (8 * 4096 * 2, 30, 10)
    assert (test.beams, test.length_penalty) == (4, 0.6)
    enro, enfr = (load_recipe(f"translation-{pair}-partialformer") for pair in ("wmt16-enro", "wmt14-enfr"))
    assert [r.stages["train"].batch_tokens * r.stages["train"].accumulate for r in (enro, enfr)] == [32_768, 262_144]
    assert [(r.stages["test"].beams, r.stages["test"].length_penalty) for r in (enro, enfr)] == [(5, 1.3), (4, 0.8)]
    assert load_recipe("translation-wmt14-ende-eit").model.options["isi_kernel"] == 7
    assert load_recipe("translation-wmt14-ende-vanilla").model.options == {}


def test_a_plan_is_self_contained(small):
    train, test = load_recipe(small, ["seed=3", "train.seed=5"]).plan()
    assert (train.seed, train.previous, test.seed, test.previous) == (5, None, 3, "train")
    assert parse_config(TextPlan, train.model_dump(mode="json"), "plan") == train


def test_identity_follows_content(small):
    plain = digests(load_recipe(small))
    for override, changed in (
        ("train.lr=1", {"train", "test"}),
        ("model.architecture=eit", {"train", "test"}),
        ("tokenizer.kind=bytes", {"train", "test"}),
        ("test.beams=4", {"test"}),
        ("seed=2", {"train", "test"}),
        ("test.max_num_seqs=8", set()),
        ("train.checkpoint_every=7", set()),
    ):
        found = digests(load_recipe(small, [override]))
        assert {name for name in plain if plain[name] != found[name]} == changed, override


def test_identity_follows_the_content_of_files(small, tmp_path):
    (tmp_path / "x.en").write_text("a\n")
    found = []
    for target in ("b\n", "c\n", "b\n"):
        (tmp_path / "x.de").write_text(target)
        found.append(digests(load_recipe(small, [f"train.data='{tmp_path}/x.{{en,de}}'"]))["train"])
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=translatoin", "task must be 'translation', 'summarisation' or 'language_modelling'"),
        ("train.stepz=5", "did you mean 'steps'"),
        ("mode=structured", "unknown key mode"),
        ("train.kind=sft", "stages.train.kind is 'sft'"),
        ("train.data=copi:train", "stages.train.data: no set of texts 'copi'; did you mean 'copy'"),
        ("train.valid=copy:dev", "stages.train.valid: copy has no split 'dev'"),
        ("train.data=nowhere/x.tsv", "stages.train.data: no file nowhere/x.tsv"),
        ("test.data=[wikitext-103]", "wikitext-103 has no sources, which translation needs"),
        ("test.data=[copy:test, copy:test]", "two of them would write the same files"),
        ("train.block=8", "translation reads pairs, not running text"),
        ("train=null", "there is no model to measure yet"),
        ("model.architecture=qwen3", "no architecture 'qwen3' for text"),
        ("model.options={ffn_ratio: 2}", "vanilla has no 'ffn_ratio'"),
        ("model.num_attention_heads=7", "hidden_size 512 is not a multiple of num_attention_heads 7"),
        ("tokenizer.kind=wordpiece", "tokenizer.kind must be 'words', 'bpe' or 'bytes'"),
    ],
)
def test_mistakes_get_one_sentence(small, override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(small, [override])
    assert "\n" not in str(caught.value)
