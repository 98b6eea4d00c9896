"""Text from the command line: a whole tiny run, in one process."""

from __future__ import annotations

import re

import pytest

from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl

TINY = (
    "train.steps=4", "train.validate_every=2", "train.valid_limit=8", "train.batch_tokens=400", "train.average=2",
    "train.average_every=1", "test.limit=6", "test.max_new_tokens=8", "model.hidden_size=16",
    "model.intermediate_size=32", "model.num_hidden_layers=1",
)  # fmt: skip


@pytest.mark.slow
def test_translation_from_text_to_bleu(polythink, tmp_path):
    (tmp_path / "x.en").write_text("a small dog\nthe cat\nthis is a house\nmy house is small\n" * 8)
    (tmp_path / "x.de").write_text("ein kleiner Hund\ndie Katze\ndas ist ein Haus\nmein Haus ist klein\n" * 8)
    files, out = f"{tmp_path}/x.{{en,de}}", tmp_path / "run"
    own = (
        f"train.data='{files}'",
        f"train.valid='{files}'",
        f"test.data=['{files}']",
        "tokenizer.size=70",
        "test.heads=true",
    )
    status, printed, err = polythink("train", "translation-numbers", *TINY, *own, "--out", out)
    assert (status, err) == (0, "")
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert re.search(r"^\| problems +\| stage \| +exact \| +bleu \|", printed, re.MULTILINE)
    rows = read_jsonl(out / "train/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "valid_loss" in row] == [2, 4]
    (evaluation,) = (out / "test").glob("eval-*.json")
    result = read_json(evaluation)
    assert result["n"] == 6
    assert result["metrics"].keys() == {"exact", "bleu", "loss", "perplexity"}
    assert result["decoding"]["beams"] == 4
    report = (out / "report.html").read_text()
    for text in (
        "ein kleiner Hund",
        "BLEU",
        "exact match",
        "validation",
        "Loss (nats per token)",
        "6 texts",
        "Heads, test",
    ):
        assert text in report, text
    status, printed, _ = polythink("train", "translation-numbers", *TINY, *own, "--out", out)
    assert status == 2
    status, printed, _ = polythink("train", "translation-numbers", *TINY, *own, "--out", out, "--resume")
    assert status == 0


def test_language_modelling(polythink, tmp_path):
    (tmp_path / "x.txt").write_text("one two three\n\nfour five\n" * 20)
    own = (
        f"train.data={tmp_path}/x.txt",
        "train.valid=null",
        f"test.data=['{tmp_path}/x.txt']",
        "tokenizer.kind=bytes",
    )
    shape = ("train.steps=2", "train.block=16", "test.limit=9", "model.hidden_size=16", "model.num_hidden_layers=1")
    status, _, err = polythink("train", "lm-tiny", *own, *shape, "--out", tmp_path / "run")
    assert (status, err) == (0, "")
    (evaluation,) = (tmp_path / "run/test").glob("eval-*.json")
    metrics = read_json(evaluation)["metrics"]
    assert metrics.keys() == {"loss", "perplexity", "word_perplexity"}
    assert metrics["word_perplexity"]["value"] > metrics["perplexity"]["value"] > 1
    assert "word perplexity" in (tmp_path / "run/report.html").read_text()


def test_lines_that_do_not_belong_together(polythink, tmp_path):
    (tmp_path / "x.en").write_text("a\nb\n")
    (tmp_path / "x.de").write_text("a\n")
    files = f"train.data='{tmp_path}/x.{{en,de}}'"
    status, _, err = polythink("train", "translation-numbers", files, "--out", tmp_path / "run")
    assert status == 2
    assert "has 2 lines and" in err
