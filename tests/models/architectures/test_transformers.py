"""The models as citizens of transformers: what its own common model tests ask, asked of these classes.

The library's test mixins (`tests/test_modeling_common.py`, `tests/generation/test_utils.py`) are not part of its wheel,
so what they check is checked here anew, for every variant and both backbones where that applies:

    test_save_load, test_from_pretrained_no_checkpoint, test_load_save_without_tied_weights,
    test_tied_weights_keys, test_can_use_safetensors                -> saving, tying
    test_initialization, test_can_init_all_missing_weights          -> initialisation
    test_resize_tokens_embeddings, test_resize_embeddings_untied, test_model_get_set_embeddings -> embeddings
    test_training, test_training_gradient_checkpointing (both kinds), test_retain_grad_hidden_states -> training
    test_model_outputs_equivalence, test_hidden_states_output, test_attention_outputs,
    test_inputs_embeds, test_forward_signature, test_keep_logits     -> outputs
    test_greedy_generate, test_sample_generate, test_beam_search_generate, test_generate_with_and_without_cache,
    test_left_padding_compatibility, test_generate_continue_from_past_key_values -> generation
    test_sdpa_can_dispatch_composite_models, test_eager_matches_sdpa_inference -> attention implementations

Not run, with reasons:

    static, quantised and offloaded caches, torch.compile, torch.export: the head counts of keys and values differ and
        PartialFormer keeps one more set of keys, which `StaticCache` does not hold; a growing cache is the only one
    flash attention 2 and flex attention: maps are formed, or SDPA chooses the kernel
    assisted decoding, contrastive search, prompt lookup: they crop caches of models with one vocabulary; nothing of
        these architectures is in them
    head pruning, torchscript, model parallelism over several devices, DeepSpeed: gone from the library or need devices
    sequence classification, token classification, question answering heads: not offered
    pipelines, processors, remote code: no tokenizer and no code of their own is published with a model
    peft: not installed here; `get_input_embeddings` and linear layers are what it asks for
"""

from __future__ import annotations

import copy
import inspect
import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
)

from helpers.shapes import VARIANTS, VOCABULARY, make, make_config, tokens
from helpers.sweep import sweep
from polythink.models.architectures import ARCHITECTURES
from polythink.models.architectures.calls import CACHE_NAME

ALL = pytest.mark.parametrize("name", VARIANTS)
BACKBONES = pytest.mark.parametrize("backbone", ["causal", "seq2seq"])
PAIRS = pytest.mark.parametrize(  # every variant, half of them with an encoder
    ("name", "backbone"),
    sweep(
        [(name, backbone) for name in VARIANTS for backbone in ("causal", "seq2seq")],
        list(zip(VARIANTS, ["causal", "seq2seq"] * len(VARIANTS), strict=False)),
    ),
)
AUTO = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


def batch(backbone: str, labels: bool = False) -> dict[str, torch.Tensor]:
    """Inputs with padding."""
    ids, real = tokens(3, 8), torch.ones(3, 8, dtype=torch.long)
    real[1, :3] = 0
    inputs = {"input_ids": ids, "attention_mask": real}
    if labels:
        target = tokens(3, 6 if backbone == "seq2seq" else 8, seed=5)
        target[0, -2:] = -100
        inputs["labels"] = target
    elif backbone == "seq2seq":
        inputs["decoder_input_ids"] = tokens(3, 6, seed=5)
    return inputs


# ---- saving, tying, initialisation ----


@pytest.mark.slow
@PAIRS
def test_saved_and_loaded(name, backbone, tmp_path):
    """safetensors, one copy of what is tied, and the automatic classes find the right one."""
    model = make(name, backbone)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    again = AUTO[backbone].from_pretrained(tmp_path)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(model(**batch(backbone)).logits, again(**batch(backbone)).logits)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    config = AutoConfig.from_pretrained(tmp_path)
    ours = {key: value for key, value in model.config.to_dict().items() if not key.startswith(("_", "transformers"))}
    assert {key: config.to_dict()[key] for key in ours} == ours | {"dtype": config.to_dict()["dtype"]}


@BACKBONES
def test_untied(backbone, tmp_path):
    model = make("eit", backbone, tie_word_embeddings=False)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    tied = make("eit", backbone)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tied.parameters()) + VOCABULARY * 32
    model.save_pretrained(tmp_path)
    again = AUTO[backbone].from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
@PAIRS
def test_every_weight_is_drawn(name, backbone, tmp_path):
    """Also those that a checkpoint lacks, which come as empty memory; two draws with one seed are one."""
    from safetensors.torch import load_file, save_file

    config = make_config(name)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(AUTO[backbone].from_config(copy.deepcopy(config)))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    models[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = sorted(weights)[::2]
    save_file({k: v for k, v in weights.items() if k not in missing}, tmp_path / "model.safetensors", {"format": "pt"})
    state = AUTO[backbone].from_pretrained(tmp_path).state_dict()
    for key, value in weights.items():
        if key not in missing:
            assert torch.equal(state[key], value), key
        elif value.ndim > 1:
            assert 0.5 < (state[key].std() / value.std()).item() < 2, f"{key} is not drawn as it was"


def test_published_embedding_scale():
    weight = make("vanilla", hidden_size=256).get_input_embeddings().weight
    assert weight[1:].std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert not weight[0].any(), "the padding row"


# ---- embeddings ----


@BACKBONES
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [VOCABULARY + 6, VOCABULARY - 6])
def test_resized_embeddings(backbone, tied, size):
    model = make("partialformer", backbone, tie_word_embeddings=tied)
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size == model.get_output_embeddings().weight.shape[0]
    kept = min(size, VOCABULARY)
    assert torch.equal(model.get_input_embeddings().weight[:kept], before[:kept])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    inputs = {key: value.clamp(max=size - 1) for key, value in batch(backbone).items()}
    assert model(**inputs).logits.shape[-1] == size


@BACKBONES
def test_embeddings_given_and_set(backbone):
    model, inputs = make("eit", backbone), batch(backbone)
    expected = model(**inputs).logits
    given = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    del given["input_ids"]
    assert torch.equal(model(**given).logits, expected)
    other = torch.nn.Embedding(VOCABULARY, 32)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    assert not torch.equal(model(**inputs).logits, expected)


# ---- training ----


def gradients(model, backbone) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch(backbone, labels=True)).loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@ALL
@BACKBONES
def test_gradients_reach_every_weight(name, backbone):
    """But biases that cannot matter: of keys, and the last before a softmax over keys."""
    model = make(name, backbone).train()
    found = gradients(model, backbone)
    unmoved = {key for key, p in model.named_parameters() if key not in found or not found[key].any()}
    assert not {key for key in unmoved if not key.endswith("bias")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone", "reentrant"),
    sweep(
        [(name, backbone, old) for name in VARIANTS for backbone in ("causal", "seq2seq") for old in (False, True)],
        [*((name, "seq2seq", False) for name in VARIANTS), ("eit", "causal", True), ("partialformer", "seq2seq", True)],
    ),
)
def test_gradient_checkpointing_changes_nothing(name, backbone, reentrant):
    model = make(name, backbone).train()
    expected = gradients(model, backbone)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, backbone)
    assert set(found) == set(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@PAIRS
def test_a_few_steps_lower_the_loss(name, backbone):
    model = make(name, backbone).train()
    optimiser, inputs = torch.optim.Adam(model.parameters(), lr=5e-3), batch(backbone, labels=True)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        losses.append(model(**inputs).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_cross_entropy():
    """Shifted in the decoder-only backbone, not in the other; with `num_items_in_batch` the sum over so many."""
    for backbone in ("causal", "seq2seq"):
        model, inputs = make("vanilla", backbone), batch(backbone, labels=True)
        out, labels = model(**inputs), inputs["labels"]
        logits, labels = (out.logits[:, :-1], labels[:, 1:]) if backbone == "causal" else (out.logits, labels)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        torch.testing.assert_close(out.loss, expected)
        whole = model(**inputs, num_items_in_batch=torch.tensor(50)).loss
        torch.testing.assert_close(whole, expected * (labels != -100).sum() / 50)


@pytest.mark.slow
@BACKBONES
@pytest.mark.parametrize("name", ["eit", "partialformer"])
def test_trainers_of_the_library(name, backbone, tmp_path):
    """`Trainer` and `Seq2SeqTrainer`, unmodified: smoothed labels, checkpointing, prediction by generation."""
    pytest.importorskip("accelerate", reason="transformers' trainers need accelerate")
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

    model, data = make(name, backbone), batch(backbone, labels=True)
    rows = [{key: value[i] for key, value in data.items()} for i in range(3)]
    shared = {
        "output_dir": str(tmp_path), "max_steps": 3, "per_device_train_batch_size": 3, "report_to": [],
        "gradient_checkpointing": True, "logging_steps": 1, "save_steps": 3, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    if backbone == "causal":
        trainer = Trainer(model, TrainingArguments(**shared), train_dataset=rows)
    else:
        # labels are taken away before a smoothed loss, so the collator makes the decoder's input of them, as here
        before = model.prepare_decoder_input_ids_from_labels(data["labels"])
        rows = [{**row, "decoder_input_ids": ids} for row, ids in zip(rows, before, strict=True)]
        more = {"predict_with_generate": True, "label_smoothing_factor": 0.1, "generation_max_length": 6}
        arguments = Seq2SeqTrainingArguments(**shared, **more)
        trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    if backbone == "seq2seq":
        assert trainer.predict(rows).predictions.shape[0] == 3
    assert json.loads((tmp_path / "checkpoint-3" / "config.json").read_text())["model_type"] == name


# ---- outputs ----


@ALL
@BACKBONES
def test_hidden_states_and_attentions(name, backbone):
    model = make(name, backbone)
    with torch.no_grad():
        plain = model(**batch(backbone)).logits
        out = model(**batch(backbone), output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(out.logits, plain, atol=1e-5, rtol=0)
    side = "decoder_" if backbone == "seq2seq" else ""
    assert len(out[f"{side}hidden_states"]) == 3
    kinds = [(out[f"{side}attentions"], 2)]
    if backbone == "seq2seq":
        kinds += [(out.cross_attentions, 2), (out.encoder_attentions, 3)]
        assert len(out.encoder_hidden_states) == 4
    for weights, layers in kinds:
        assert len(weights) == layers
        for w in weights:
            torch.testing.assert_close(w.sum(-1), torch.ones(w.shape[:-1]))


@BACKBONES
def test_tuples_and_signature(backbone):
    model = make("partialformer", backbone)
    named = model(**batch(backbone, labels=True))
    unnamed = model(**batch(backbone, labels=True), return_dict=False)
    assert torch.equal(unnamed[0], named.loss)
    assert torch.equal(unnamed[1], named.logits)
    assert next(iter(inspect.signature(model.forward).parameters)) == "input_ids"


def test_only_the_logits_that_are_wanted():
    model, ids = make("eit"), tokens(2, 7)
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, full[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([4, 1])).logits, full[:, [4, 1]])


@pytest.mark.parametrize("name", ["vanilla", "partialformer-full"])
@BACKBONES
def test_eager_is_sdpa(name, backbone):
    model = make(name, backbone)
    expected = model(**batch(backbone)).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**batch(backbone)).logits, expected, atol=1e-5, rtol=0)


# ---- generation ----

WAYS = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 8},
    "beam": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.6},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone", "way"),
    sweep(  # every model and every way
        [(name, backbone, way) for name in VARIANTS for backbone in ("causal", "seq2seq") for way in WAYS],
        [
            *((name, backbone, next(iter(WAYS))) for name in VARIANTS for backbone in ("causal", "seq2seq")),
            *(
                (name, backbone, way)
                for name, backbone in (("eit", "causal"), ("partialformer", "seq2seq"))
                for way in WAYS
            ),
        ],
    ),
)
def test_generated_with_and_without_cache(name, backbone, way):
    """The same tokens, with padded prompts of different lengths in the batch."""
    model, inputs = make(name, backbone), batch(backbone)
    inputs.pop("decoder_input_ids", None)
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        config = GenerationConfig(
            max_new_tokens=6, min_new_tokens=3, use_cache=use_cache, eos_token_id=1, pad_token_id=0,
            decoder_start_token_id=1, **WAYS[way],
        )  # fmt: skip
        found.append(model.generate(**inputs, generation_config=config))
    assert torch.equal(*found)
    assert found[0].shape[0] == 3 * WAYS[way].get("num_return_sequences", 1)


@ALL
def test_generation_goes_on_from_a_cache(name):
    model, ids = make(name), tokens(2, 6)
    how = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "return_dict_in_generate": True}
    whole = model.generate(ids, max_new_tokens=6, **how).sequences
    part = model.generate(ids, max_new_tokens=3, **how)
    rest = model.generate(part.sequences, **{CACHE_NAME: part[CACHE_NAME]}, max_new_tokens=3, **how)
    assert torch.equal(rest.sequences, whole)


def test_one_configuration_serves_both_backbones():
    """Making the second model leaves the first as it was."""
    config = make_config("eit", interaction_in=None)
    _, causal, seq2seq = ARCHITECTURES["eit"]
    models = causal(config), seq2seq(config)
    assert [model.config.is_encoder_decoder for model in models] == [False, True]
    assert [model.config.interacts("target") for model in models] == [True, False]


def test_every_architecture_has_both_backbones():
    assert {config().model_type for config, _, _ in ARCHITECTURES.values()} == set(ARCHITECTURES)
    for config, causal, seq2seq in ARCHITECTURES.values():
        assert AutoModelForCausalLM._model_mapping[config] is causal
        assert AutoModelForSeq2SeqLM._model_mapping[config] is seq2seq
