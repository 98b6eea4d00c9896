"""Formula against count, module by module; the rule of the papers' code; the command that prints the counts."""

from __future__ import annotations

import sys

import pytest
from test_anchors import P1, partialformer
from transformers import GPT2Config, Qwen3Config

from helpers.formulas import formula, published_macs
from helpers.shapes import VARIANTS, make_config
from helpers.sweep import sweep
from polythink.cli import main
from polythink.models.architectures import ARCHITECTURES, VanillaConfig
from polythink.models.architectures.counting import OTHER, Count, counted, total


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("seq2seq", "tied"),
    sweep([(False, True), (True, False), (True, True), (False, False)], [(True, False)]),  # which has both stacks
)
def test_formula_is_count(name, seq2seq, tied):
    """Every module, parameters and multiply-accumulates, exactly."""
    config = make_config(name, is_encoder_decoder=seq2seq, tie_word_embeddings=tied)
    sizes = (11, 7) if seq2seq else (11,)
    assert formula(config, *sizes) == counted(config, *sizes)


def test_formula_is_count_for_the_usual_backbone():
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    assert formula(config, 9) == counted(config, 9)


def test_modules_that_the_table_does_not_name_are_counted_too():
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    counts = counted(config, 9)
    tied = 50 * 32  # the output layer's weights are the word embeddings
    attention, feed_forward, norms = 4 * 32**2 + 4 * 32, 8 * 32**2 + 5 * 32, 5 * 2 * 32
    assert total(*counts.values()).parameters == tied + 16 * 32 + 2 * (attention + feed_forward) + norms
    assert counts[OTHER].macs == 2 * (9 * 12 * 32**2 + 2 * 9**2 * 32)


def test_anchor_by_formula():
    config = partialformer(*P1)
    config.is_encoder_decoder = True
    assert total(*formula(config, 1, 1).values()).parameters == 67_621_992


@pytest.mark.parametrize(
    ("config", "encoder", "decoder"),
    [
        (partialformer(*P1), 1_099.0, 6_029.9),
        (partialformer(360, 8, 16, 16, 6, 6), 169.5, 6_029.9),
        (VanillaConfig(), 380.5, 9_458.7),
        (VanillaConfig(num_source_layers=24), 1_522.0, 9_458.7),
    ],
    ids=["PartialFormer 24-6", "PartialFormer 6-6", "vanilla 6-6", "vanilla 24-6"],
)
def test_the_rule_of_the_published_code(config, encoder, decoder):
    assert [round(macs / 1e6, 1) for macs in published_macs(config)] == [encoder, decoder]


def run(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["polythink", "params", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    out = capsys.readouterr()
    return out.out if stopped.value.code in (0, None) else f"{stopped.value.code}: {out.err}"


def test_the_command(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "countdown-smoke", "--tokens", "16")
    assert [cell.strip() for cell in out.splitlines()[2].split("|")[1:-1]] == [
        "module",
        "qwen3",
        "eit",
        "partialformer",
    ]
    assert "one pass over 16 tokens" in out
    totals = [line for line in out.splitlines() if line.startswith("| all")]
    assert len(totals) == 2
    assert all(int(cell.replace(",", "")) > 100_000 for cell in totals[0].split("|")[2:-1])


@pytest.mark.slow
def test_encoder_decoders_side_by_side(monkeypatch, capsys, tmp_path):
    """A saved model beside the others in its shape: source and target lengths count."""
    make_config("vanilla", is_encoder_decoder=True).save_pretrained(tmp_path)
    short = run(monkeypatch, capsys, str(tmp_path), "--with", "", "--tokens", "7", "--source", "9")
    out = run(monkeypatch, capsys, str(tmp_path), "--with", ",".join(ARCHITECTURES), "--tokens", "7", "--source", "11")
    assert "one pass over 11 source and 7 target tokens" in out
    heads = [cell.strip() for cell in out.splitlines()[2].split("|")[2:-1]]
    assert heads == list(ARCHITECTURES)
    rows = {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")}
    assert {"encoder attention", "attention to the encoder", "feed-forward"} <= rows

    def totals(text: str) -> list[list[int]]:
        lines = [line for line in text.splitlines() if line.startswith("| all")]
        return [[int(cell.replace(",", "")) for cell in line.split("|")[2:-1]] for line in lines]

    (parameters, macs), (same, fewer) = totals(out), totals(short)
    assert (parameters[0], len(parameters)) == (same[0], len(ARCHITECTURES))
    assert macs[0] > fewer[0], "a longer source costs more"


def test_mistakes_at_the_command(monkeypatch, capsys, tmp_path):
    assert "takes its model from" in run(monkeypatch, capsys, "parallel-r1-seen-qwen3-4b")
    assert "did you mean 'eit'" in run(monkeypatch, capsys, "countdown-smoke", "--with", "eitt")
    wrong = run(monkeypatch, capsys, "countdown-smoke", "model.architecture=eit", "model.options={isi_kernl: 3}")
    assert wrong.startswith("2: ")
    assert "did you mean 'isi_kernel'" in wrong
    make_config("eit", is_encoder_decoder=True).save_pretrained(tmp_path)
    assert "did you mean 'vanilla'" in run(monkeypatch, capsys, str(tmp_path), "--with", "vanila")
    assert "overrides such as 'seed=1' are for recipes" in run(monkeypatch, capsys, str(tmp_path), "seed=1")
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    assert run(monkeypatch, capsys, str(tmp_path)).startswith("2: polythink: cannot read ")


def test_counts_add_up():
    assert Count(1, 2).plus(Count(3, 4), times=2) == Count(7, 10)


@pytest.mark.slow
def test_a_recipe_of_plain_text_is_counted(monkeypatch, capsys):
    said = run(monkeypatch, capsys, "translation-grammar-partialformer", "--with", "", "--tokens", "4", "--source", "4")
    assert "571,632" in said
    assert "4 source and 4 target tokens" in said
    assert "551,808" in run(monkeypatch, capsys, "translation-grammar", "--with", "")
