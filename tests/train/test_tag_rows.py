"""Rows of new tags under LoRA: as peft's own layers, drawn as trained, saved as rows, merged; nothing else changes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.device import collate
from helpers.layouts import VOCABULARY, some_layouts
from helpers.ranks import together
from helpers.real_tokenizers import byte_level
from helpers.tiny import family
from helpers.training import PROMPT, forking_lm, make_lm, mixture, same_bits, sft_config, weights_of
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load, save, with_settings
from polythink.models.logprobs import token_logprobs
from polythink.models.tag_rows import rows_of, train_rows
from polythink.problems.tasks.countdown import problems
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl
from polythink.train.adapters import add_adapters, merged, without_adapters
from polythink.train.config import GRPOConfig, TrainingConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

peft = pytest.importorskip("peft")
CLOSE = 1e-5
IDS = torch.tensor([[1, 2, 5, 3, 6, 2, 4]])
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=3, max_trace_tokens=48
)


def with_new_tags(lm):
    """The model, as if its tags had just been added."""
    return with_settings(lm, new_tags=lm.dialect.tags)


def logits(model) -> torch.Tensor:
    return model(IDS).logits


def shifted(model) -> None:
    """Rows and adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "tag_rows" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


MODELS = {
    "tied": lambda: make_lm(),
    "untied": lambda: make_lm(tie_word_embeddings=False),
    "scaled": lambda: family("gemma3_text", head_dim=8, tie_word_embeddings=True),  # times the root of 32
}


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_those_of_peft(kind):
    """The slow twin: peft's own layers, which copy whole tables. The same logits, the same gradient, the same merge."""
    ours, base = MODELS[kind](), MODELS[kind]().model
    before, ids = logits(ours.model).detach(), [3, 5, 6]
    rows = train_rows(ours.model.requires_grad_(False), ids)
    assert torch.equal(logits(ours.model), before), "nothing is changed yet"
    names = {name for name, p in ours.model.named_parameters() if p.requires_grad}
    assert names == {"tag_rows.embedding", "tag_rows.head"} - ({"tag_rows.head"} if kind != "untied" else set())
    shifted(ours.model)
    indices = {"embed_tokens": ids} | ({"lm_head": ids} if kind == "untied" else {})
    config = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=indices)
    theirs = peft.get_peft_model(base, config)
    table = theirs.get_base_model().get_input_embeddings().token_adapter.trainable_tokens_delta["default"]
    with torch.no_grad():
        table += rows.embedding
        if rows.head is not None:
            theirs.get_base_model().lm_head.token_adapter.trainable_tokens_delta["default"] += rows.head
    found, expected = logits(ours.model), logits(theirs)
    torch.testing.assert_close(found, expected, atol=CLOSE, rtol=CLOSE)
    assert not torch.allclose(found, before, atol=0.01)
    weight = torch.linspace(-1, 1, found.numel()).view(found.shape)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(rows.embedding.grad, table.grad, atol=CLOSE, rtol=1e-4)
    rows.merge(ours.model)
    assert rows_of(ours.model) is None
    assert not ours.model.get_input_embeddings()._forward_hooks
    torch.testing.assert_close(logits(ours.model), found, atol=CLOSE, rtol=CLOSE)
    tied = ours.model.lm_head.weight is ours.model.get_input_embeddings().weight
    assert tied == (kind != "untied")


def test_rows_of_a_model_in_half_precision_are_kept_in_float32():
    model = make_lm().model.to(torch.bfloat16)
    before = logits(model).detach()
    rows = train_rows(model, [3, 5])
    assert rows.embedding.dtype == torch.float32
    assert torch.equal(logits(model), before)
    shifted(model)
    changed = logits(model).detach()
    assert changed.dtype == torch.bfloat16
    rows.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(model), changed, atol=0.03, rtol=0.03)
    assert (changed - before).abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"float32_head": True}])
def test_logits_in_pieces_know_the_rows(options):
    """Without whole logits: the same log-probabilities and gradients, of the rows and of everything else."""
    lm, batch = family("llama", vocab_size=VOCABULARY), collate(some_layouts())
    train_rows(lm.model, [3, 5, 6])
    shifted(lm.model)
    found = []
    for memory in (1 << 40, 4 * VOCABULARY * 5):
        lm.model.zero_grad()
        values = token_logprobs(lm.model, batch, 0.8, memory_bytes=memory, **(options if memory < 1 << 40 else {}))
        (values * torch.linspace(0.5, 1.5, values.numel()).view(values.shape)).sum().backward()
        found.append({"values": values.detach(), **{n: p.grad.clone() for n, p in lm.model.named_parameters()}})
    for name, expected in found[0].items():
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(found[1][name], expected, atol=CLOSE, rtol=CLOSE, msg=name)


def test_without_adapters_the_model_is_the_base_and_merged_it_is_the_same():
    lm = with_new_tags(make_lm())
    before = logits(lm.model).detach()
    wrapped = add_adapters(lm, TrainingConfig(lora={"r": 2}), seed=0)
    trained = {name for name, p in lm.model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert trained == {"tag_rows.embedding"}
    assert rows_of(lm.model).ids_K.tolist() == sorted(lm.tag_ids.values())
    assert torch.equal(logits(lm.model), before)
    shifted(lm.model)
    changed = logits(lm.model).detach()
    with without_adapters(lm.model, switched=True):
        assert torch.equal(logits(lm.model), before)
    assert torch.equal(logits(lm.model), changed)
    copied = merged(lm, wrapped)
    assert torch.allclose(logits(copied.model), changed, atol=CLOSE)
    assert copied.model.lm_head.weight is copied.model.get_input_embeddings().weight
    assert not any("lora" in name or "tag_rows" in name for name in copied.model.state_dict())
    assert torch.equal(logits(lm.model), changed), "the model itself is as it was"
    assert torch.equal(logits(copy.deepcopy(lm.model)), changed), "the hooks of a copy read its own rows"


@pytest.mark.parametrize("tied", [True, False])
def test_sft_trains_the_rows_of_new_tags_and_no_others(mini, tmp_path, tied):
    lm = with_new_tags(make_lm(tie_word_embeddings=tied))
    base = make_lm(tie_word_embeddings=tied)
    before = weights_of(base.model)
    config = sft_config(lora={"r": 2}, steps=4, lr=1e-2)
    train_sft(lm, config, mixture(lm, config, mini), tmp_path)
    after = load(tmp_path / "model")
    assert same_bits(after.model.state_dict(), weights_of(lm.model))
    assert after.settings.new_tags == lm.settings.new_tags == (), "they are trained now"
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        differs = (after.model.state_dict()[name] != before[name]).any(1).nonzero()[:, 0].tolist()
        assert differs == sorted(lm.tag_ids.values()), name
    loaded = peft.PeftModel.from_pretrained(base.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(lm.model), atol=CLOSE, rtol=CLOSE)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    rows = {name: tuple(x.shape) for name, x in saved.items() if "lora_" not in name}
    assert set(rows.values()) == {(6, 32)}
    assert len(rows) == (1 if tied else 2)


def plain_folder(folder):
    """A model that has never heard of the tags."""
    byte_level().save_pretrained(folder)
    lm = make_lm()
    lm.model.resize_token_embeddings(len(byte_level()))
    lm.model.save_pretrained(folder)
    return folder


ROWS = [
    {"question": "9 8", "trace": "<Parallel><Path>9 + 8</Path><Path>9 - 8</Path></Parallel>\n<Summary>+</Summary>17"},
    {"question": "7 4", "trace": "<Parallel><Path>7 + 4</Path><Path>7 - 4</Path></Parallel>\n<Summary>+</Summary>11"},
]


def test_a_foreign_model_and_peft_alone_reads_what_it_became(tmp_path):
    """peft finds the base model, makes room for the tags, and has the same logits."""
    folder = plain_folder(tmp_path / "base")
    lm = load(folder)
    assert lm.settings.new_tags == lm.dialect.tags
    save(lm, tmp_path / "untrained")
    assert load(tmp_path / "untrained").settings.new_tags == lm.dialect.tags, "they still wait for a training"
    config = sft_config(lora={"r": 2}, steps=3, lr=1e-2, batch=2)
    train_sft(lm, config, ROWS, tmp_path / "run", prompt=PROMPT)
    found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter")
    ids = torch.tensor([lm.encode(ROWS[0]["trace"])])
    assert set(lm.tag_ids.values()) <= set(ids[0].tolist())
    torch.testing.assert_close(found(ids).logits, lm.model(ids).logits, atol=CLOSE, rtol=CLOSE)
    assert found.merge_and_unload().lm_head.weight.shape == lm.model.lm_head.weight.shape


def test_which_rows_are_trained(mini, tmp_path):
    """Those never trained; all of the dialect's or none on request. What was not trained still waits for it."""

    def rows(lm, **keys) -> list[int]:
        add_adapters(lm, TrainingConfig(lora={"r": 2, **keys}), seed=0)
        found = rows_of(lm.model)
        return [] if found is None else found.ids_K.tolist()

    tags = make_lm().tag_ids
    assert rows(make_lm()) == []
    assert rows(make_lm(), train_tags=True) == sorted(tags.values())
    assert rows(with_new_tags(make_lm()), train_tags=False) == []
    assert rows(with_settings(make_lm(), new_tags=("<Path>",))) == [tags["<Path>"]]
    for name, changes, left in (
        ("not", {"lora": {"r": 2, "train_tags": False}}, make_lm().dialect.tags),
        ("all", {}, ()),
    ):
        lm = with_new_tags(make_lm())
        config = sft_config(steps=1, **changes)
        train_sft(lm, config, mixture(lm, config, mini), tmp_path / name)
        assert load(tmp_path / name / "model").settings.new_tags == left
    lm, config = with_settings(make_lm(), new_tags=("<Path>", "<think1>")), sft_config(steps=1, lora={"r": 2})
    train_sft(lm, config, mixture(lm, config, mini), tmp_path / "another")
    assert lm.settings.new_tags == ("<think1>",), "a tag of another dialect still waits"
    saved = json.loads((tmp_path / "not" / "adapter" / "adapter_config.json").read_text())
    assert set(saved["trainable_token_indices"]) == {"model.embed_tokens"}, "new rows are in no other file"


def test_refusals_are_one_sentence(tmp_path):
    lm = with_new_tags(make_lm())
    with pytest.raises(UserError, match=r"lora\.target_modules gives the .* adapter.* or set lora\.train_tags: false"):
        add_adapters(lm, TrainingConfig(lora={"target_modules": ["q_proj", "embed_tokens"]}), 0)
    as_it_is = load(plain_folder(tmp_path), mode="sequential")
    with pytest.raises(UserError, match=r"loaded as it is, without </Parallel>, .* or with add_tags=True"):
        add_adapters(as_it_is, TrainingConfig(lora={"train_tags": True}), 0)


def by_words(given) -> float:
    return float(sum(given.segments[0].tokens) % 7)


def run_grpo(folder, steps: int = 2, tied: bool = True):
    lm = with_new_tags(forking_lm() if tied else make_lm(3, tie_word_embeddings=False))
    given = {"prompts_per_step": 2, "group_size": 4, "lr": 1e-2, "micro_batch": 8, "checkpoint_every": 1,
             "drop_zero_spread": False, "kl_coef": 0.1, "reward": {"function": by_words}, "lora": {}}  # fmt: skip
    config = parse_config(GRPOConfig, {"steps": steps, **given}, "test")
    train_grpo(lm, config, problems("mini", "train"), folder, prompt=PROMPT, params=PARAMS)
    return lm


def test_grpo_draws_what_it_trains_and_compares_with_the_base(tmp_path):
    lm = run_grpo(tmp_path / "whole")
    rows = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert all(row["logprob_gap"] < 1e-4 for row in rows), "the second step draws with changed rows"
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["kl"] > 1e-6, "the reference is the base, without adapters and rows"
    tags = list(lm.tag_ids.values())
    before, after = (x.model.get_input_embeddings().weight[tags] for x in (forking_lm(), lm))
    assert bool((before != after).any(1).all())
    run_grpo(tmp_path / "parts", 1)
    resumed = run_grpo(tmp_path / "parts")
    assert same_bits(weights_of(resumed.model), weights_of(lm.model)), "resumed to the same numbers"


def run_both(folder) -> None:
    for tied in (True, False):
        lm = with_new_tags(make_lm(tie_word_embeddings=tied))
        config = sft_config(lora={"r": 2}, steps=3, micro_batch=3, checkpoint_every=1, logits_memory_bytes=4000)
        data = mixture(lm, config, problems("mini", "train"))
        train_sft(lm, config, data, folder / f"sft-{tied}")
        run_grpo(folder / f"grpo-{tied}", tied=tied)


@pytest.mark.long
def test_several_processes_train_the_same_rows(tmp_path):
    run_both(tmp_path / "one")
    ended = together(2, run_both, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    for name in ("sft-True", "sft-False", "grpo-True", "grpo-False"):
        one, two = (tmp_path / world / name for world in ("one", "two"))
        for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
            ours, theirs = load_file(one / file), load_file(two / file)
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                torch.testing.assert_close(theirs[key], value, rtol=CLOSE, atol=CLOSE, msg=f"{name} {key}")
