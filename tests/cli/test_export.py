"""`polythink export`, and `--backend llama_cpp` where it cannot be meant."""

from __future__ import annotations

import sys

import pytest
import torch

from helpers.tiny import tiny
from polythink.cli import generate as generate_module
from polythink.models.lm import load, save

pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")


def test_a_model_is_exported_and_is_the_same(polythink, tmp_path):
    lm, file = tiny(), tmp_path / "model.gguf"
    save(lm, tmp_path / "model")
    status, out, _ = polythink("export", tmp_path / "model", file)
    assert (status, out) == (0, f"{file}\n")
    again, ids = load(file), torch.tensor([lm.encode("a b c c a")])
    assert again.settings == load(tmp_path / "model").settings
    with torch.no_grad():
        assert torch.allclose(again.model(ids).logits, lm.model(ids).logits, atol=1e-5)
    status, _, err = polythink("export", tmp_path / "model", file)
    assert status == 2
    assert "exists" in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("export", "{model}", "{folder}/model.bin"), "must end in .gguf"),
        (("export", "{model}", "{file}"), "model.gguf exists; give another FILE.gguf, or add --overwrite"),
        (("export", "{model}", "{folder}/q.gguf", "--quantize", "q9_0"), "llama.cpp writes no type 'q9_0'; did you"),
        (("generate", "{model}", "a b", "--backend", "llama_cpp"), "runs a .gguf file; `polythink export"),
        (("generate", "{model}", "a b", "--backend", "lama_cpp"), "no backend 'lama_cpp'; did you mean 'llama_cpp'?"),
        (("generate", "{file}", "a b", "--backend", "llama_cpp", "--dtype", "float32"), "--dtype is of a model in"),
        (("serve", "{file}", "--backend", "llama_cpp"), "polythink serve runs models in torch"),
        (("eval", "{file}", "--problems", "countdown", "--out", "{folder}/out", "--backend", "llama_cpp", "--heads"),
         "--heads looks at attention inside the model"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(arguments, why, polythink, tmp_path):
    save(tiny(), tmp_path / "model")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    places = {"model": tmp_path / "model", "file": tmp_path / "model.gguf", "folder": tmp_path}
    status, _, err = polythink(*(argument.format(**places) for argument in arguments))
    assert status == 2
    assert why in err
    assert err.count("\n") == 1


def test_a_lacking_llama_cpp_is_said_of_the_option_that_needs_it(polythink, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    save(tiny(), tmp_path / "model")
    for kind, why in (("Q8_0", "--quantize Q8_0 needs llama-cpp-python, which is not"), ("q9_0", "no type 'q9_0'")):
        status, _, err = polythink("export", tmp_path / "model", tmp_path / "q.gguf", "--quantize", kind)
        assert status == 2
        assert why in err
        assert "backend" not in err


def test_a_lacking_llama_cpp_is_said_before_anything_is_read(polythink, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    monkeypatch.setattr(generate_module, "open_engine", None)
    status, _, err = polythink("generate", tmp_path / "model.gguf", "a b", "--backend", "llama_cpp")
    assert status == 2
    assert "--backend llama_cpp needs llama-cpp-python, which is not installed" in err
