"""Making, saving and loading models; tags as single tokens; what is refused."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config, from_pretrained
from polythink.models.lm import check_path, checkpoint_activations, load, save, with_settings
from polythink.models.tags import add_tags, tag_ids
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.trace.dialect import PARALLEL_R1

WORDS = ("one", "two", "parallel", "path", "summary", "end", "<", ">", "/")
SMALL = ModelConfig(hidden_size=32, num_hidden_layers=2, intermediate_size=48)


@pytest.fixture
def lm():
    return from_config(SMALL, "parallel_r1", WORDS, seed=3)


def test_same_seed_same_weights(lm):
    again, other = (from_config(SMALL, "parallel_r1", WORDS, seed=s) for s in (3, 4))
    weights = [torch.cat([p.flatten() for p in m.model.parameters()]) for m in (lm, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_saved_folder_loads_here_and_in_plain_transformers(lm, tmp_path):
    lm = with_settings(lm, mode="sequential", prompt="{problem} :", prompt_name="x", prompt_hash="ab" * 32)
    save(lm, tmp_path / "model")
    back = load(tmp_path / "model")
    assert back.settings == lm.settings
    ids = torch.tensor([lm.encode("one two <Path> two </Path>")])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(back.model(ids).logits, lm.model(ids).logits)
    assert torch.equal(plain(ids).logits, lm.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("one <Path>").input_ids == lm.encode("one <Path>")
    assert "`parallel_r1`" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("make", [lambda: word_tokenizer(WORDS, PARALLEL_R1), lambda: byte_tokenizer(PARALLEL_R1)])
def test_each_tag_is_one_token_wherever_it_stands(make):
    tokenizer = make()
    ids = tag_ids(tokenizer, PARALLEL_R1)
    assert len(set(ids.values())) == 6
    for text in ("one<Path>two", "one <Path> two", "<Path>\n<Path>"):
        assert ids["<Path>"] in tokenizer(text, add_special_tokens=False)["input_ids"]


def test_bytes_hold_any_text():
    lm = from_config(ModelConfig(tokenizer="bytes", hidden_size=32, num_hidden_layers=1), "parallel_r1")
    text = "Janet’s ducks: 3 × 4 = 12\n\n\t<Parallel><Path>é</Path> 漢 \\boxed{12}"
    assert lm.decode(lm.encode(text)) == text
    assert lm.decode([*lm.encode("x"), lm.eos, lm.pad]) == "x"


def test_a_closed_vocabulary_refuses_other_text(lm):
    with pytest.raises(UserError, match="no token for 'Janet', 'ducks'; use a model with an open vocabulary"):
        lm.encode("one Janet two ducks")


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """One that has never heard of the tags: it takes them apart."""
    words = {w: i for i, w in enumerate(("<unk>", "<eos>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


def test_tags_of_several_tokens_are_refused_or_added(lm, tmp_path):
    lm.model.resize_token_embeddings(11)
    lm.model.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not hold <Parallel>, .* as single tokens .*add_tags: true"):
        from_pretrained(ModelConfig(path=str(tmp_path)), "parallel_r1")
    adopted = from_pretrained(ModelConfig(path=str(tmp_path), add_tags=True), "parallel_r1")
    rows = adopted.model.get_input_embeddings().weight[list(adopted.tag_ids.values())]
    assert len(adopted.tag_ids) == 6
    assert torch.pdist(rows).min() > 0  # all different: identical rows could never be told apart
    path, summary = (adopted.tag_ids[t] for t in ("<Path>", "<Summary>"))
    table = adopted.model.get_input_embeddings().weight
    word = adopted.encode("path")[0]
    assert torch.cosine_similarity(table[path], table[word], dim=0) > torch.cosine_similarity(
        table[summary], table[word], dim=0
    )
    assert add_tags(adopted.model, adopted.tokenizer, PARALLEL_R1) == []  # nothing left to add


def test_tags_that_are_one_unknown_token_are_missing_too(lm):
    tokenizer = plain_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert tokenizer("<Path>", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    assert add_tags(lm.model, tokenizer, PARALLEL_R1) == list(PARALLEL_R1.tags)
    assert len(tag_ids(tokenizer, PARALLEL_R1)) == 6


def test_checkpointed_activations_change_memory_alone(lm):
    ids = torch.tensor([lm.encode("one two <Path> two </Path>")])
    grads = []
    lm.model.train()
    for _ in range(2):
        lm.model.zero_grad()
        lm.model(ids).logits.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in lm.model.parameters()]))
        checkpoint_activations(lm.model)
    assert any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())
    assert torch.equal(*grads)


def test_unused_rows_of_a_checkpoint_are_overwritten(lm):
    """Released checkpoints have spare rows that are one and the same vector; tags must not stay on them."""
    tokenizer = plain_tokenizer()
    lm.model.resize_token_embeddings(64)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[11:] = 0.5
    add_tags(lm.model, tokenizer, PARALLEL_R1)
    rows = lm.model.get_input_embeddings().weight[list(tag_ids(tokenizer, PARALLEL_R1).values())]
    assert torch.pdist(rows).min() > 0
    assert lm.model.get_input_embeddings().weight.shape[0] == 64


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "polythink.json").unlink(), "has no polythink.json"),
        (lambda f: [file.unlink() for file in f.iterdir()], "has no polythink.json"),
        (lambda f: (f / "polythink.json").write_bytes(b"\xff"), "is damaged"),
        (lambda f: (f / "polythink.json").write_text("{"), "is damaged"),
        (lambda f: (f / "polythink.json").write_text('{"mood": "good"}'), "is damaged"),
        (lambda f: (f / "polythink.json").write_text('{"decoding": [1]}'), "is damaged .*decoding"),
        (lambda f: (f / "config.json").unlink(), "cannot load a model from"),
        (lambda f: (f / "polythink.json").write_text('{"dialect": "paralel_r1"}'), "did you mean 'parallel_r1'"),
    ],
)  # fmt: skip
def test_damaged_folders(lm, tmp_path, spoil, message):
    save(lm, tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_what_is_not_there():
    with pytest.raises(UserError, match="no model folder 'nowhere'"):
        load("nowhere")
    with pytest.raises(UserError, match="did you mean 'qwen3'"):
        from_config(ModelConfig(architecture="qwen33"), "parallel_r1", WORDS)
    with pytest.raises(UserError, match="has no chat template"):
        with_settings(from_config(SMALL, "parallel_r1", WORDS), chat=True).encode_prompt("one")


def test_a_model_without_sdpa_is_loaded_with_the_attention_that_it_has(lm, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model("gemma2", vocab_size=len(lm.tokenizer), head_dim=16, intermediate_size=48, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert from_pretrained(ModelConfig(path=str(tmp_path)), "parallel_r1").model.config._attn_implementation == "eager"
    lm.model.save_pretrained(tmp_path)
    assert from_pretrained(ModelConfig(path=str(tmp_path)), "parallel_r1").model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "a/b/c", "file.txt"])
def test_what_is_no_folder_and_no_name_on_the_hub_is_refused_without_asking_it(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match="no model folder"):
        from_pretrained(ModelConfig(path=path), "parallel_r1")
    check_path("Qwen/Qwen3-4B-Base")
    check_path("gpt2")
