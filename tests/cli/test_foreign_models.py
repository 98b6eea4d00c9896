"""Commands on models that polythink did not write: a .gguf file, a hub's folder, a template with its own thinking."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers.program import invoke
from helpers.smollm2 import CHAT, tiny_model, tiny_tokenizer, write_gguf
from polythink.cli.app import app
from polythink.cli.model import ModelChoice, find_model, settle
from polythink.cli.serve import name_of
from polythink.errors import UserError
from polythink.models.build import from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.lm import load, load_vocabulary, save
from polythink.run.jsonl import write_jsonl

pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")
polythink = partial(invoke, app)
FEW = ("max_main_tokens=8", "max_path_tokens=5", "max_summary_tokens=5", "max_trace_tokens=60")
THINKS = CHAT + "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>' }}{% endif %}"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    tokenizer = tiny_tokenizer()
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_model(len(tokenizer)), tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """As transformers leaves it, with a chat template that has a thinking of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("hub"), tiny_tokenizer()
    tokenizer.chat_template = THINKS
    tiny_model(len(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_generate_forks_at_once_without_training_and_without_a_recipe(file, folder):
    for model, asked in ((file, ("--dialect", "parathinker:4")), (folder, ("fork_at=0", "--prompt", "parallel"))):
        done = polythink("generate", model, "4 + 5", "--paths", 3, *asked, *FEW, "--json")
        assert done.exit_code == 0, done.stderr
        segments = json.loads(done.stdout)["segments"]
        assert [s["path"] for s in segments if s["kind"] == "path"] == [1, 2, 3]
        assert "resizing" not in done.stderr


def test_generate_takes_the_model_as_it_is_in_a_mode_of_flat_text(file):
    one = polythink("generate", file, "4 + 5", "--mode", "sequential", *FEW, "temperature=0")
    other = polythink("generate", file, "4 + 5", "mode=sequential", *FEW, "temperature=0", "--dtype", "float32")
    assert one.exit_code == 0, one.stderr
    assert one.stdout == other.stdout != ""
    assert "added the tags" not in one.stderr + other.stderr
    assert settle(str(file), ModelChoice(), ["mode=sequential"])[1].mode == "sequential"


def test_a_prompt_after_the_changes_is_said_at_once(file):
    with pytest.raises(UserError, match=r"the prompt stands before max_main_tokens=8 and other changes: .* '4 plus 5'"):
        polythink("generate", file, "max_main_tokens=8", "4 plus 5")


def test_eval_of_the_plain_model(file, tmp_path):
    write_jsonl(tmp_path / "set.jsonl", [{"question": "4 + 5", "answer": "9"}, {"question": "1 + 1", "answer": "2"}])
    done = polythink(
        "eval", file, "--mode", "sequential", "--problems", tmp_path / "set.jsonl", "-n", 1, "--out", tmp_path / "e",
        *FEW[:1], *FEW[3:], "temperature=0", "--prompt", "sequential",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = json.loads((tmp_path / "e" / "eval.json").read_text())
    assert (result["n"], result["provenance"]["model"], result["provenance"]["dtype"]) == (2, str(file), "float32")
    assert result["dialect"] == "parallel_r1"


def test_chat_says_what_a_model_as_it_is_cannot_do(file):
    turns = "4 + 5\n/mode structured\n1 + 1\n/mode sequential\n1 + 1\n"
    done = polythink("chat", file, "--mode", "sequential", *FEW, "temperature=0", input=turns)
    assert "the model was loaded as it is, without </Parallel>" in done.stderr
    assert len(done.stdout.splitlines()) >= 4
    assert done.exit_code == 2, "one line was a mistake"


def test_bench_decodes_it(file):
    done = polythink("bench", "decode", file, "--cases", "1x2", "--peers", "none", "--steps", 2, "--rounds", 1,
                     "--prompt", 8, "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["model"]["architecture"] == "llama"


def test_where_a_model_is(file, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert find_model("tiny.gguf") == "tiny.gguf"
    assert find_model("some/model:tiny.gguf") == "some/model:tiny.gguf"
    assert name_of("tiny.gguf", "tiny.gguf") == "tiny"
    for given, message in (
        ("tinny.gguf", "did you mean 'tiny.gguf'"),
        (str(file.parent), "holds no model; it holds .*tiny.gguf: give that file"),
    ):
        with pytest.raises(UserError, match=message):
            find_model(given)


# ---- a chat template with a thinking of its own ----


def test_its_own_thinking_is_said_and_switched(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        lm = load(folder, mode="sequential")
    assert "its chat template has a thinking of its own" in caplog.text
    assert not lm.decode(lm.encode_prompt("4")).endswith("<think>")
    caplog.clear()
    off = load(folder, mode="sequential", chat_template_kwargs={"enable_thinking": False})
    assert "thinking" not in caplog.text
    assert off.decode(off.encode_prompt("4")).endswith("<think>")
    assert off.decode(off.encode_chat([{"role": "user", "content": "4"}])).endswith("<think>")
    save(off, tmp_path / "saved")
    assert load(tmp_path / "saved").settings.chat_template_kwargs == {"enable_thinking": False}
    vocabulary = load_vocabulary(folder, mode="sequential", chat_template_kwargs={"enable_thinking": False})
    assert vocabulary.encode_prompt("4") == off.encode_prompt("4")
    config = ModelConfig(path=str(folder), add_tags=True, chat_template_kwargs={"enable_thinking": False})
    assert from_pretrained(config, "parallel_r1").settings.chat_template_kwargs == {"enable_thinking": False}


def test_it_is_switched_from_the_command_line(folder, caplog):
    def told(*more: str) -> str:
        caplog.clear()
        done = polythink("generate", folder, "4", "--mode", "sequential", *FEW, "temperature=0", *more)
        assert done.exit_code == 0, done.stderr
        return caplog.text

    assert "enable_thinking=false (or true) decides" in told()
    assert "thinking" not in told("--chat-template-kwargs", "enable_thinking=false")
    with pytest.raises(UserError, match="must look like key=value"):
        settle(str(folder), ModelChoice(chat_template_kwargs=["enable_thinking"]), [])


# ---- what a tokenizer lacks ----


def test_a_tokenizer_without_an_end_token_takes_the_models(folder, tmp_path):
    lm = load(folder, mode="sequential")
    lm.model.generation_config.eos_token_id = [2, 0]
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.eos_token = lm.tokenizer.pad_token = None
    lm.tokenizer.save_pretrained(tmp_path)
    back = load(tmp_path, mode="sequential")
    assert (back.tokenizer.eos_token, back.ends, back.pad) == ("<|im_end|>", (2, 0), 2)
    assert load_vocabulary(tmp_path, mode="sequential").ends == (2, 0)
