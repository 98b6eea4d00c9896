"""A model written as GGUF and read again by transformers is the same model, with its tokenizer and settings."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from helpers.real_tokenizers import byte_level, model_of
from helpers.tiny import family, tiny
from polythink.errors import UserError
from polythink.models.gguf_header import ENDS_KEY, SETTINGS_KEY, read_header
from polythink.models.lm import LanguageModel, load, load_vocabulary, with_settings
from polythink.models.source import Source
from polythink.models.to_gguf import of_tokenizer, splitting, write_gguf, write_lm

pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
TEXT = "a b c <Parallel><Path>a</Path>"


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([[3, 5, 4, 7, 6, 3, 8]])).logits


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_itself_again(kind, tied, tmp_path):
    more = {"sliding_window": None} if kind == "mistral" else {}
    lm = family(
        kind,
        head_dim=8,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        **more,
    )
    for name, weight in lm.model.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # nothing that is 0 or 1 by itself
            weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    lm.settings = replace(lm.settings, decoding={"paths": 3}, mode="reread")
    write_lm(lm, tmp_path / "model.gguf")
    again = load(tmp_path / "model.gguf")
    assert torch.allclose(logits(again), logits(lm), atol=1e-5)
    assert again.settings == lm.settings
    assert (again.ends, again.context, again.encode(TEXT)) == (lm.ends, lm.context, lm.encode(TEXT))


def test_the_tokenizer_with_all_that_it_does(tmp_path):
    chat = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"
    lm = model_of(byte_level(bos=True, chat=chat), chat=True)
    write_lm(lm, tmp_path / "model.gguf")
    again = load_vocabulary(tmp_path / "model.gguf")
    assert again.encode_prompt("Zahl: 12 ü<eos>") == lm.encode_prompt("Zahl: 12 ü<eos>")
    assert again.decode(again.encode(TEXT)) == TEXT
    assert (again.ends, again.pad, again.settings, again.tag_ids) == (lm.ends, lm.pad, lm.settings, lm.tag_ids)
    assert again.tokenizer.chat_template == chat


@pytest.mark.parametrize(("dtype", "named"), [("float16", 1), ("bfloat16", 32), ("float32", 0)])
def test_the_weights_keep_their_type(dtype, named, tmp_path):
    lm = family("llama", head_dim=8)
    lm.model.to(getattr(torch, dtype))
    write_lm(lm, tmp_path / "model.gguf")
    again, bytes_each = load(tmp_path / "model.gguf").model.state_dict(), {"float32": 4}.get(dtype, 2)
    assert all(torch.equal(weight.float(), again[name]) for name, weight in lm.model.state_dict().items())
    assert read_header(tmp_path / "model.gguf")["general.file_type"] == named
    kept = sum(p.numel() for p in lm.model.parameters() if p.dim() > 1) * bytes_each
    assert kept < (tmp_path / "model.gguf").stat().st_size < kept + 20_000


def test_a_response_ends_where_it_ended(tmp_path):
    lm = model_of(byte_level())
    lm.model.generation_config.eos_token_id = [lm.eos, lm.tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    lm = with_settings(lm)
    write_lm(lm, tmp_path / "model.gguf")
    assert len(lm.ends) == 2
    assert load(tmp_path / "model.gguf").ends == load_vocabulary(tmp_path / "model.gguf").ends == lm.ends


def test_what_has_no_form_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "model.gguf"
    with pytest.raises(UserError, match=r"of the kind 'gpt2' is not written as GGUF here, only llama, mistral"):
        write_lm(family("gpt2", n_embd=32, n_layer=1, n_head=2), file)
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    with pytest.raises(UserError, match="rotary scaling of the kind 'linear'"):
        write_lm(family("qwen3", rope_parameters=scaled), file)
    with pytest.raises(UserError, match="with the activation 'gelu'"):
        write_lm(tiny(options={"hidden_act": "gelu"}), file)
    lm = tiny()
    lm.settings = replace(lm.settings, thoughts=8)
    with pytest.raises(UserError, match="thought embeddings have no place"):
        write_lm(lm, file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ([{"type": "ByteLevel", "use_regex": True}], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}], "smollm"),
        ([{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel", "use_regex": True}], ""),
        ([{"type": "ByteLevel", "use_regex": False}], ""),
        ([{"type": "ByteLevel", "use_regex": True, "add_prefix_space": True}], ""),
    ],
)
def test_the_rule_of_splitting_in_the_words_of_llama_cpp(parts, name):
    model = {"type": "BPE", "merges": [["a", "b"]]}
    assert splitting({"model": model, "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}}) == name
    assert not splitting(
        {"model": {"type": "WordLevel"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}}
    )


# ---- rotary scaling, which the writer does not write, and files from elsewhere have ----

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def scaled_file(file, kind: str, scaling: dict, add):
    """A model with that scaling, and a file of its weights into which `add` writes what a file says of it."""
    shape = {"head_dim": 16} if kind != "qwen2" else {}
    plain = family(kind, **shape)
    scaled = family(kind, **shape, rope_parameters={"rope_theta": 10_000.0} | scaling)
    scaled.model.load_state_dict(plain.model.state_dict())

    def words(writer, config):
        of_tokenizer(writer, config, plain.tokenizer)
        writer.add_string(SETTINGS_KEY, json.dumps(asdict(plain.settings)))
        writer.add_string(ENDS_KEY, json.dumps(plain.ends))
        add(writer, scaled.model)

    write_gguf(plain.model, file, words)
    return scaled, plain


def say(kind: str, **numbers):
    """Writes a scaling into a header: its kind, and numbers by their keys, with `__` for the dots."""

    def add(writer, model):
        writer.add_string(f"{writer.arch}.rope.scaling.type", kind)
        for name, value in numbers.items():
            write = writer.add_uint32 if isinstance(value, int) else writer.add_float32
            write(f"{writer.arch}.rope.{name.replace('__', '.')}", value)

    return add


def divisors(writer, model):
    """As llama.cpp's converter writes a Llama 3's."""
    found = model.model.rotary_emb.inv_freq.float().cpu()
    plain = 1 / 10_000.0 ** (torch.arange(len(found)) / len(found))
    writer.add_tensor("rope_freqs.weight", (plain / found).numpy())


@pytest.mark.parametrize(
    ("kind", "scaling", "add"),
    [
        ("qwen3", {"rope_type": "linear", "factor": 2.0}, say("linear", scaling__factor=2.0)),
        ("llama", {"rope_type": "linear", "factor": 2.0}, say("linear", scale_linear=2.0)),
        ("qwen2", YARN, say("yarn", scaling__factor=4.0, scaling__original_context_length=64)),
        (
            "qwen3", YARN | {"attention_factor": 0.5 * (1 + 0.1 * math.log(4.0)), "beta_fast": 16.0},
            say("yarn", scaling__factor=4.0, scaling__original_context_length=64, scaling__yarn_attn_factor=0.5,
                scaling__yarn_beta_fast=16.0),
        ),
        ("llama", LLAMA3 | {"original_max_position_embeddings": 64}, divisors),
        ("llama", LLAMA3 | {"original_max_position_embeddings": 8192}, divisors),
    ],
)  # fmt: skip
def test_positions_are_scaled_as_the_file_says(kind, scaling, add, tmp_path):
    scaled, plain = scaled_file(tmp_path / "model.gguf", kind, scaling, add)
    ids = torch.randint(3, 10, (1, 200), generator=torch.Generator().manual_seed(0)).to(scaled.device)
    found = load(tmp_path / "model.gguf")
    with torch.no_grad():
        logits, right, without = (lm.model(ids).logits for lm in (found, scaled, plain))
    torch.testing.assert_close(logits, right, rtol=1e-5, atol=1e-5)
    assert (logits - without).abs().max() > 1e-3
    assert {key: found.model.config.rope_parameters[key] for key in scaling} == pytest.approx(scaling)
    described = Source.of(str(tmp_path / "model.gguf")).described()[1]
    assert described.rope_parameters == found.model.config.rope_parameters


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (say("longrope", scaling__factor=2.0), "of the kind 'longrope', .*use the model's own folder"),
        (say("su", scaling__factor=2.0), "of the kind 'su', .*`--backend llama_cpp`"),
        (
            say("yarn", scaling__factor=2.0, scaling__yarn_log_multiplier=0.5),
            "with yarn_log_multiplier 0.5, ",
        ),
        (
            lambda writer, model: writer.add_tensor("rope_freqs.weight", np.array([1, 7, 2, 5, 1, 1, 1, 1], "float32")),
            "by the tensors rope_freqs.weight, .*`--backend llama_cpp`",
        ),
        (
            lambda writer, model: writer.add_tensor("rope_factors_long.weight", np.full(8, 2, "float32")),
            "by the tensors rope_factors_long.weight",
        ),
    ],
)
def test_a_scaling_that_transformers_has_no_words_for_is_refused_where_it_would_run(add, said, tmp_path):
    file = tmp_path / "model.gguf"
    scaled_file(file, "llama", {}, add)
    with pytest.raises(UserError, match=rf"cannot load a model from .*model.gguf': its positions are scaled {said}"):
        load(file)
    assert load_vocabulary(file).context, "llama.cpp may run it"
