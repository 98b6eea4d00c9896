"""Which model was measured, by whom, when: in every result, and the same for the same weights."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from helpers.backends import CannedBackend
from helpers.tiny import tiny
from polythink.engine.params import SamplingParams
from polythink.evaluate.provenance import provenance_of, weights_hash
from polythink.evaluate.run import evaluate
from polythink.models.lm import load, save
from polythink.problems.problem import Problem
from polythink.run.folder import read_json

KEYS = ["model", "weights", "version", "commit", "command", "date", "device", "dtype", "torch", "transformers",
        "python", "seed", "problems", "limit"]  # fmt: skip


def test_a_result_says_where_it_comes_from(tmp_path, monkeypatch) -> None:
    save(tiny(), tmp_path / "m")
    lm = load(tmp_path / "m")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/polythink", "eval", "my model"])
    evaluate(
        lm, [Problem("p", "b c", "7")], samples=1, seed=4, out=tmp_path / "out", log=lambda line: None,
        params=SamplingParams(mode="sequential", max_main_tokens=3), about={"problems": "mine:test", "limit": 9},
    )  # fmt: skip
    found = read_json(tmp_path / "out" / "eval.json")["provenance"]
    assert list(found) == KEYS
    assert found["model"] == str(tmp_path / "m")
    assert found["weights"] == weights_hash(lm.model)
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    assert (found["seed"], found["problems"], found["limit"]) == (4, "mine:test", 9)
    assert found["command"] == "polythink eval 'my model'"
    assert found["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])


def test_a_backend_without_a_model_in_this_process_leaves_those_keys_empty() -> None:
    result = evaluate(
        CannedBackend({"p": ["Final Answer: 7"]}), [Problem("p", "3 + 4?", "7")], samples=1, log=lambda line: None,
        about={"model": "http://host/v1"},
    )  # fmt: skip
    found = result["provenance"]
    assert list(found) == KEYS
    assert (found["model"], found["weights"], found["device"]) == ("http://host/v1", None, None)
    assert provenance_of(None, {})["model"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_hash_is_that_of_the_weights(tmp_path, dtype) -> None:
    lm = tiny()
    lm.model.to(getattr(torch, dtype))
    first = weights_hash(lm.model)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    save(lm, tmp_path / "m")
    again = load(tmp_path / "m", dtype=dtype)
    assert weights_hash(again.model) == first, "saved and loaded, the weights are the same"
    tensor = next(again.model.parameters())
    with torch.no_grad():
        before = tensor[0].clone()
        tensor[0] += 1
        assert weights_hash(again.model) != first, "a change is seen though the hash is kept"
        tensor[0] = before
        assert weights_hash(again.model) == first
    assert weights_hash(lm.model.to(torch.float16)) != first, "other numbers are computed in another type"


def test_the_hash_is_kept_while_nothing_changes(monkeypatch) -> None:
    lm = tiny()
    first = weights_hash(lm.model)
    monkeypatch.setattr("polythink.evaluate.provenance._bytes", None)
    assert weights_hash(lm.model) == first
