"""Heads compared: measures against definitions written out, heads made alike by hand, padding, every kind of model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from helpers.shapes import VARIANTS, make, tokens
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.head_file import load, save
from polythink.evaluate.heads import analyse, analyse_traces, map_similarity
from polythink.evaluate.samples import make_requests
from polythink.models.batch import collate
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import with_settings
from polythink.models.thoughts import thoughts_of
from polythink.problems.prompts import get_prompt
from polythink.problems.sets import load_problems
from polythink.problems.vocabulary import words_of

CLOSE = {"atol": 1e-5, "rtol": 0}


def qwen3(layers: int = 2) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=29, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def seq2seq_batch() -> dict[str, torch.Tensor]:
    """Two texts, the first with padding at the end on both sides."""
    real, labels = torch.ones(2, 9, dtype=torch.long), tokens(2, 6, seed=2)
    real[0, 7:], labels[0, 4:] = 0, -100
    return {"input_ids": tokens(2, 9), "attention_mask": real, "labels": labels}


def test_similarity_is_its_definition():
    """Jensen-Shannon by hand; equal heads have 1, heads without a common key 0, one half and one whole 0.689."""
    weights = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0]]])
    found = map_similarity(weights)
    torch.testing.assert_close(found[0], torch.tensor([1, 1, 0, 1 - 0.311278]), **CLOSE)
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), (2, 7))
    m = (p + q) / 2
    expected = 1 - (p * np.log2(p / m) + q * np.log2(q / m)).sum(-1).mean() / 2
    found = map_similarity(torch.tensor(np.stack([p, q], 1)))
    assert found[0, 1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture(name):
    """All attentions are there, in order, of the maps that the model reports; the model is left as it was."""
    model, batch = make(name, "seq2seq").train(), seq2seq_batch()
    found = analyse(model, batch)
    assert [(h.place, h.layer) for h in found.attentions] == [
        ("encoder", 0), ("encoder", 1), ("encoder", 2), ("decoder", 0), ("decoder", 1), ("cross", 0), ("cross", 1),
    ]  # fmt: skip
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_pre_hooks for m in model.modules())
    shown = model.eval()(**batch, output_attentions=True)
    for place, weights, real in (
        ("encoder", shown.encoder_attentions, (7, 9)), ("decoder", shown.decoder_attentions, (4, 6)),
        ("cross", shown.cross_attentions, (4, 6)),
    ):  # fmt: skip
        first = int(place == "decoder")  # its first query has one key
        chosen = [weights[1][text, :, first:t].transpose(0, 1) for text, t in enumerate(real)]
        similarity = map_similarity(torch.cat(chosen).detach())
        np.testing.assert_allclose(found.at(place)[1].similarity, similarity, atol=1e-5)
    for heads in found.attentions:
        for matrix in (heads.similarity, heads.outputs):
            np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        np.testing.assert_allclose(np.diag(heads.similarity), 1, atol=1e-5)
        assert (heads.entropy > 0).all()
        assert (heads.entropy <= 1 + 1e-6).all()


@pytest.mark.parametrize("frame", ["causal", "seq2seq"])
def test_padding_counts_nowhere(frame):
    model = make("vanilla", frame)
    if frame == "seq2seq":
        batch = {name: x[:1] for name, x in seq2seq_batch().items()}
        bare = {"input_ids": batch["input_ids"][:, :7], "labels": batch["labels"][:, :4]}
    else:
        bare = {"input_ids": tokens(1, 8)}
        padding = torch.zeros(1, 3, dtype=torch.long)
        batch = {
            "input_ids": torch.cat([padding, bare["input_ids"]], 1),
            "attention_mask": (torch.arange(11) > 2)[None],
        }
    for a, b in zip(analyse(model, batch).attentions, analyse(model, bare).attentions, strict=True):
        for name in ("similarity", "outputs", "entropy"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-5)


def test_heads_made_alike_are_seen():
    """Two heads with the same query and key weights have the same maps; with the same V and O too, the same outputs."""
    model = make("vanilla")
    attention = model.decoder.layers[0].self_attention
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[8:16], projection.bias[8:16] = projection.weight[:8], projection.bias[:8]
    first = analyse(model, {"input_ids": tokens(2, 12)}).attentions[0]
    assert first.similarity[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(first.outputs[0, 1]) < 0.9
    with torch.no_grad():
        attention.v_proj.weight[8:16], attention.v_proj.bias[8:16] = (
            attention.v_proj.weight[:8],
            attention.v_proj.bias[:8],
        )
        attention.o_proj.weight[:, 8:16] = -attention.o_proj.weight[:, :8]
    first = analyse(model, {"input_ids": tokens(2, 12)}).attentions[0]
    assert first.outputs[0, 1] == pytest.approx(-1, abs=1e-5)
    assert first.similarity[0, 2:].max() < 0.95


def test_contributions_are_what_the_layer_adds():
    """Their sum is the attention's output: cosines are of real contributions, also after PartialFormer's gate."""
    model, ids = make("partialformer"), tokens(1, 5)
    block, kept = model.decoder.layers[0].self_attention, {}
    block.register_forward_hook(lambda module, arguments, out: kept.update(out=out[0]))
    block.o_proj.register_forward_pre_hook(lambda module, arguments: kept.update(z=arguments[0]))
    found = analyse(model, {"input_ids": ids}).attentions[0].outputs
    z, weight = kept["z"].view(1, 5, 6, 8), block.o_proj.weight.view(32, 6, 8)
    added = torch.stack([z[0, :, h] @ weight[:, h].T for h in range(6)], 1)  # (T, E, d)
    torch.testing.assert_close(added.sum(1) + block.o_proj.bias, kept["out"][0], **CLOSE)
    expected = torch.nn.functional.cosine_similarity(added[1:, 0], added[1:, 3], dim=-1).mean()
    assert found[0, 3] == pytest.approx(expected.item(), abs=1e-5)


def test_even_attention():
    """Without queries every head attends evenly: entropy 1, similarity 1."""
    model = make("vanilla")
    for layer in model.decoder.layers:
        torch.nn.init.zeros_(layer.self_attention.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attention.q_proj.bias)
    for heads in analyse(model, {"input_ids": tokens(2, 7)}).attentions:
        np.testing.assert_allclose(heads.entropy, 1, atol=1e-5)
        np.testing.assert_allclose(heads.similarity, 1, atol=1e-5)


def tree_batch() -> dict[str, torch.Tensor]:
    """Prefix 0-3, paths 4-5 and 6-7, join 8-9; and a row of padding."""
    mask = torch.ones(11, 11, dtype=torch.bool).tril()
    mask[6:8, 4:6] = False
    mask[10, :10] = False
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 0]])
    return {"input_ids": tokens(1, 11), "attention_mask": mask[None, None], "position_ids": positions}


@pytest.mark.parametrize("make_model", [qwen3, lambda: make("eit"), lambda: make("partialformer-full")])
def test_parallel_paths(make_model):
    """Masks of their own hold in every model: a path has no weight on its sibling, and padding is left out."""
    model, batch = make_model(), tree_batch()
    found = analyse(model, batch)
    model.set_attn_implementation("eager")
    shown = model(**{**batch, "attention_mask": additive(batch["attention_mask"])}, output_attentions=True)
    for heads, weights in zip(found.attentions, shown.attentions, strict=True):
        assert (weights[0, :, 6:8, 4:6] == 0).all()
        similarity = map_similarity(weights[0, :, 1:10].transpose(0, 1).detach())  # the first query has one key
        np.testing.assert_allclose(heads.similarity, similarity, atol=1e-5)


def additive(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("trained", [0, 1])
def test_thought_embeddings_and_scaled_queries_count(trained):
    """The maps are those of a forward that is given the paths, and the scale after a join of more than were trained."""
    shape = ModelConfig(hidden_size=32, num_hidden_layers=2, head_dim=8, thought_embeddings=True)
    lm = with_settings(from_config(shape, "parathinker", words_of("countdown")), trained_paths=trained)
    torch.nn.init.normal_(thoughts_of(lm.model).table, std=3, generator=torch.Generator().manual_seed(0))
    engine, prompt = Engine(lm), get_prompt("countdown_parallel")
    decoding = SamplingParams(paths=3, max_path_tokens=6, max_summary_tokens=6, max_main_tokens=3, max_trace_tokens=80)
    found = load_problems("countdown-mini:heldout", limit=1)
    heads = analyse_traces(engine, found, prompt, decoding, seed=0)
    layout = engine.generate(make_requests(engine, found, prompt, 1), decoding, 0)[0].layout()
    batch = collate([layout])
    lm.model.set_attn_implementation("eager")
    with torch.no_grad():
        shown = lm.model(
            input_ids=batch.tokens, position_ids=batch.positions, path_ids=batch.path_ids,
            attention_mask=additive(batch.mask), query_scale=batch.query_scale, output_attentions=True,
        ).attentions  # fmt: skip
    assert max(layout.scales) > 1 or not trained
    for layer, weights in zip(heads.attentions, shown, strict=True):
        similarity = map_similarity(weights[0, :, 1:].transpose(0, 1))
        np.testing.assert_allclose(layer.similarity, similarity, atol=1e-5)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    found = analyse(make("e_eit", "seq2seq"), seq2seq_batch())
    save(found, tmp_path / "heads.npz")
    again = load(tmp_path / "heads.npz")
    assert again.texts == 2
    assert again.places == ["encoder", "decoder", "cross"]
    for a, b in zip(found.attentions, again.attentions, strict=True):
        assert (a.place, a.layer) == (b.place, b.layer)
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("similarity", "outputs", "entropy"))


def test_what_cannot_be_compared(tmp_path):
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=29, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="no output projection o_proj"):
        analyse(gpt2, {"input_ids": tokens(1, 6)})
    with pytest.raises(UserError, match="two keys to choose from"):
        analyse(make("vanilla"), {"input_ids": tokens(1, 1)})
    (tmp_path / "heads.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no analysis of heads"):
        load(tmp_path / "heads.npz")
