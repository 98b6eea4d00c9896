"""A model written as GGUF and read again by transformers is the same model, with its tokenizer and settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.real_tokenizers import byte_level, model_of
from helpers.tiny import family, tiny
from polythink.errors import UserError
from polythink.models.gguf_header import read_header
from polythink.models.lm import LanguageModel, load, load_vocabulary, with_settings
from polythink.models.to_gguf import splitting, write_lm

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
