"""Making, saving and loading models; tags as single tokens; what is refused."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from helpers.device import DEVICE, tensor
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models import source as source_module
from polythink.models.build import from_config, from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.lm import checkpoint_activations, load, save, with_settings
from polythink.models.place import check_path
from polythink.models.tags import add_tags, tag_ids
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.problems.prompts import get_prompt
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER

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
    ids = tensor([lm.encode("one two <Path> two </Path>")])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").to(DEVICE)
    assert torch.equal(back.model(ids).logits, lm.model(ids).logits)
    assert torch.equal(plain(ids).logits, lm.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("one <Path>").input_ids == lm.encode("one <Path>")
    assert "`parallel_r1`" in (tmp_path / "model" / "README.md").read_text()
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"], "a server that runs as another user reads it too"


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma3_text", "vanilla", "partialformer"])
def test_a_model_made_in_bfloat16_is_the_one_that_is_loaded(architecture, tmp_path):
    """Weights are of that type; rotary frequencies and other tables that are computed stay in float32, as in a load."""
    shape = {"hidden_size": 32, "num_attention_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "rope_theta": 1e6}
    made = from_config(ModelConfig(architecture=architecture, dtype="bfloat16", **shape), "parallel_r1", WORDS)
    save(made, tmp_path)
    back = load(tmp_path, device=str(made.device))
    tables = [dict(lm.model.named_buffers()) for lm in (made, back)]
    assert {name: x.dtype for name, x in tables[0].items()} == {name: x.dtype for name, x in tables[1].items()}
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])
    ids = torch.tensor([made.encode("one two path")], device=made.device)
    far = torch.tensor([[5, 1000, 4000]], device=made.device)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool, device=made.device).tril()
    first, second = (lm.model(ids, position_ids=far, attention_mask=mask).logits for lm in (made, back))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}


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
    ids = tensor([lm.encode("one two <Path> two </Path>")])
    grads = []
    lm.model.train()
    for _ in range(2):
        lm.model.zero_grad()
        lm.model(ids).logits.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in lm.model.parameters()]))
        checkpoint_activations(lm.model)
    assert any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())
    assert torch.equal(*grads)


def test_adding_tags_says_nothing_of_rows_that_are_replaced(lm, capfd, caplog):
    """transformers tells at length how it draws new rows; ours take their place."""
    transformers_logging.enable_propagation()
    type(transformers_logging.get_logger("transformers")).warning_once.cache_clear()  # some notes come once a process
    try:
        assert add_tags(lm.model, plain_tokenizer(), PARATHINKER)
    finally:
        transformers_logging.disable_propagation()
    assert "resizing" not in caplog.text + "".join(capfd.readouterr())


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
        (lambda f: [file.unlink() for file in f.iterdir()], "has no config.json"),
        (lambda f: (f / "polythink.json").write_bytes(b"\xff"), "is damaged"),
        (lambda f: (f / "polythink.json").write_text("{"), "is damaged"),
        (lambda f: (f / "polythink.json").write_text('{"mood": "good"}'), "is damaged"),
        (lambda f: (f / "polythink.json").write_text('{"decoding": [1]}'), "is damaged .*decoding"),
        (lambda f: (f / "config.json").unlink(), "has no config.json, so it is no model; give a model's own folder"),
        (lambda f: (f / "config.json").write_text("{}"), "cannot load a model from"),
        (lambda f: (f / "polythink.json").write_text('{"dialect": "paralel_r1"}'), "did you mean 'parallel_r1'"),
    ],
)  # fmt: skip
def test_damaged_folders(lm, tmp_path, spoil, message):
    save(lm, tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_what_is_not_there():
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
def test_what_is_no_folder_and_no_hub_id_is_refused_without_a_request(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match="no model folder"):
        from_pretrained(ModelConfig(path=path), "parallel_r1")
    check_path("Qwen/Qwen3-4B-Base")
    check_path("gpt2")


@pytest.mark.slow
def test_settings_and_recipes_of_models_are_read_without_torch():
    code = "import sys; sys.modules.update(torch=None, transformers=None); import polythink.models.{}"
    for module in ("config", "settings"):
        done = subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_key_of_the_model_has_a_description():
    assert all(field.description for field in ModelConfig.model_fields.values())


# ---- models that polythink did not write ----


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def foreign(request, tmp_path_factory):
    """A folder as plain transformers leaves it: a BPE tokenizer that splits the tags, and a chat template."""
    folder = tmp_path_factory.mktemp(request.param)
    base = Tokenizer(BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    texts = ["Janet has three ducks and two parallel paths to a summary; which path ends first?"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base.train_from_iterator(texts, BpeTrainer(vocab_size=320, special_tokens=["<s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<s>")
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}\n{% endfor %}assistant:"
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_any_transformers_folder_loads_with_defaults(foreign, caplog):
    lm = load(foreign)
    settings = lm.settings
    assert (settings.dialect, settings.mode, settings.prompt) == ("parallel_r1", "structured", "{problem}")
    assert settings.chat, "the tokenizer has a chat template"
    assert lm.decode(lm.encode_prompt("1 + 1")) == "user: 1 + 1\nassistant:"
    assert lm.model.dtype == torch.bfloat16, "as saved"
    assert not lm.model.training
    assert len(lm.tag_ids) == 6
    assert "added the tags <Parallel>" in caplog.text
    assert "untrained" in caplog.text
    rows = lm.model.get_input_embeddings().weight[list(lm.tag_ids.values())].float()
    assert torch.pdist(rows).min() > 0


def test_text_without_tags_reads_as_before(foreign):
    """Rows are added, nothing else changes."""
    ids = tensor([AutoTokenizer.from_pretrained(foreign)("three ducks").input_ids])
    plain = AutoModelForCausalLM.from_pretrained(foreign).to(DEVICE)
    with torch.no_grad():
        expected = plain(ids).logits
        assert torch.equal(load(foreign).model(ids).logits[..., : expected.shape[-1]], expected)


def test_such_a_model_forks_and_joins(foreign):
    lm = load(foreign, dtype="float32")
    params = SamplingParams(paths=2, max_main_tokens=6, max_path_tokens=4, max_summary_tokens=4, max_trace_tokens=40)
    rollout = Engine(lm, max_num_seqs=2).generate([Request(tuple(lm.encode_prompt("which path?")), "p", 0)], params)[0]
    assert rollout.segments


def test_arguments_win_over_the_file_and_the_defaults(foreign, lm, tmp_path):
    prompt = get_prompt("countdown_parallel")
    for folder in (foreign, tmp_path):
        if folder is tmp_path:
            save(with_settings(lm, mode="structured", prompt="{problem} :", decoding={"paths": 3}), folder)
        given = load(folder, dialect="parathinker:5", mode="sequential", prompt=prompt, chat=False, dtype="float16")
        assert (given.settings.dialect, given.settings.mode) == ("parathinker:5", "sequential")
        assert not given.settings.chat
        assert (given.settings.prompt, given.settings.prompt_hash) == (prompt.text, prompt.hash)
        assert given.dialect.inventory == 5
        assert given.model.dtype == torch.float16
    assert given.settings.decoding == {"paths": 3}, "what is not given stays"
    assert load(foreign, prompt="Solve {problem} now").settings.prompt_name == "custom"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"add_tags": False}, "does not hold <Parallel>, .* as single tokens"),
        ({"prompt": "solve it"}, r"holds \{problem\} 0 times; give a text that holds it once, or .*get_prompt"),
        ({"mode": "structurd"}, "did you mean 'structured'"),
        ({"dialect": "paralel_r1"}, "did you mean 'parallel_r1'"),
        ({"dtype": "float"}, "no dtype 'float'; use one of float32, bfloat16, float16"),
        ({"device": "gpu"}, "no device 'gpu' on this machine; use one of cpu"),
        ({"device": "cuda:99"}, "no device 'cuda:99' on this machine"),
        ({"device": "meta"}, "no device 'meta' on this machine"),
    ],
)
def test_arguments_that_cannot_be(foreign, given, message):
    with pytest.raises(UserError, match=message):
        load(foreign, **given)


def test_the_device_is_that_asked_for(foreign):
    assert load(foreign, device="cpu").device.type == "cpu"
    assert load(foreign).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


# ---- the hub, without a network ----


class Hub:
    """The hub as `load` asks it: `known` ids are there, others are not; `None`: it cannot be reached."""

    def __init__(self, known) -> None:
        self.known = known

    def model_info(self, name, timeout):
        if self.known is None:
            raise ConnectionError("no route to host")
        if name not in self.known:
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RepositoryNotFoundError("404", response=response)


def test_an_id_that_the_hub_does_not_have(monkeypatch):
    monkeypatch.setattr(source_module, "HfApi", lambda: Hub(known=()))
    with pytest.raises(UserError, match="no model folder 'some/model', and the hub has no model of that name"):
        load("some/model")


def test_without_a_network_an_id_is_refused_at_once_or_read_from_the_cache(foreign, monkeypatch):
    monkeypatch.setattr(source_module, "HfApi", lambda: Hub(known=None))
    with pytest.raises(UserError, match=r"no model folder 'some/model', and the hub cannot be asked .*no route"):
        load("some/model")
    asked = []

    def cached(auto):
        def read(path, local_files_only, **more):
            asked.append((path, local_files_only))
            return auto.from_pretrained(foreign)

        return SimpleNamespace(from_pretrained=read)

    monkeypatch.setattr(source_module, "try_to_load_from_cache", lambda name, file: str(foreign / file))
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(source_module, auto.__name__, cached(auto))
    assert load("some/model").settings.chat
    assert asked == [("some/model", True)] * 2
