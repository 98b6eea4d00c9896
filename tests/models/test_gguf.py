"""Models from .gguf files: read, saved as ordinary folders, refused where they cannot be read."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.device import DEVICE, tensor
from helpers.smollm2 import CHAT, SPECIAL, real_file, tiny_model, tiny_tokenizer, write_gguf
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models import place as place_module
from polythink.models import source as source_module
from polythink.models.build import from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.gguf_header import read_header
from polythink.models.lm import load, load_vocabulary, save, with_settings
from polythink.models.place import check_path, place_of

gguf = pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")
QUESTION = "Janet has 12 ducks"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(len(tokenizer)).to(DEVICE)


@pytest.fixture(scope="module")
def file(model, tokenizer, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model.cpu(), tokenizer)


@pytest.fixture(scope="module")
def packed(model, tokenizer, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("packed") / "tiny.Q8_0.gguf", model.cpu(), tokenizer, packed=True)


@pytest.fixture(scope="module")
def plain(file):
    return load(file, mode="sequential")


# ---- what is read ----


def test_the_weights_are_those_of_the_file(plain, model, file):
    ids = tensor([plain.encode_prompt(QUESTION)])
    with torch.no_grad():
        assert torch.equal(plain.model(ids).logits, model.to(DEVICE)(ids).logits)
    assert plain.model.dtype == torch.float32
    assert plain.model.get_input_embeddings().weight is plain.model.get_output_embeddings().weight
    assert load(file, mode="sequential", dtype="bfloat16").model.dtype == torch.bfloat16
    assert plain.model.name_or_path == str(file)


def test_the_tokenizer_is_that_of_the_model(plain, tokenizer):
    for text in ("  12 eggs", "\n 3.50", "a  b\n\n  16"):
        assert plain.encode(text) == tokenizer(text).input_ids, text
    chat = [{"role": "user", "content": QUESTION}]
    assert plain.encode_prompt(QUESTION) == tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert plain.ends == (2,)
    assert (plain.pad, plain.context, plain.settings.chat) == (2, 2048, True)
    vocabulary = load_vocabulary(plain.model.name_or_path, mode="sequential")
    assert (vocabulary.ends, vocabulary.context) == (plain.ends, 2048)
    assert vocabulary.encode_prompt(QUESTION) == plain.encode_prompt(QUESTION)


def test_without_weights_here_tags_are_added_by_an_export_or_not_at_all(file, model, tokenizer, tmp_path):
    said = rf"does not hold <Parallel> .* llama.cpp .*`polythink export {file} FILE.gguf` .* --mode sequential"
    with pytest.raises(UserError, match=said):
        load_vocabulary(file)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"a server's model cannot .* model.add_tags: true, and serve .* sequential"):
        load_vocabulary(tmp_path, mode="reread")
    assert load_vocabulary(tmp_path, mode="sequential").absent_tags


def test_packed_weights_are_unpacked_and_saved_as_an_ordinary_model(packed, model, tmp_path):
    lm = load(packed)
    name = "model.layers.1.mlp.down_proj.weight"
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = model.state_dict()[name].cpu().numpy()
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(raw, kind), kind))
    assert torch.equal(lm.model.state_dict()[name].cpu(), expected)
    assert not torch.equal(expected, model.state_dict()[name].cpu())
    save(lm, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    ids = tensor([lm.encode_prompt(QUESTION)])
    other = AutoModelForCausalLM.from_pretrained(tmp_path).to(DEVICE)
    assert not getattr(other, "is_quantized", False)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).model(ids).logits, lm.model(ids).logits)
        assert torch.equal(other(ids).logits, lm.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT


def test_a_recipe_adds_tags_of_rows_that_differ_and_keeps_the_heads_tied(packed):
    with pytest.raises(UserError, match=r"does not hold <Parallel>, .* as single tokens .*add_tags: true"):
        from_pretrained(ModelConfig(path=str(packed)), "parallel_r1")
    lm = from_pretrained(ModelConfig(path=str(packed), add_tags=True), "parallel_r1")
    table = lm.model.get_input_embeddings().weight
    assert table is lm.model.get_output_embeddings().weight
    assert torch.pdist(table[list(lm.tag_ids.values())]).min() > 0
    again = from_pretrained(ModelConfig(path=str(packed), add_tags=True), "parallel_r1")
    assert torch.equal(table, again.model.get_input_embeddings().weight), "to the last bit"


def test_a_rule_of_splitting_that_nobody_knows_is_said(model, tokenizer, tmp_path, caplog):
    load(write_gguf(tmp_path / "a.gguf", model.cpu(), tokenizer, rule="mine"), mode="sequential")
    assert "to be split by the rule 'mine'" in caplog.text


def test_a_file_without_a_chat_template_is_asked_bare(model, tokenizer, tmp_path):
    lm = load(write_gguf(tmp_path / "a.gguf", model.cpu(), tokenizer, chat=None), mode="sequential")
    assert not lm.settings.chat
    assert lm.encode_prompt("12") == tokenizer("12").input_ids


def test_the_header_is_that_which_its_own_library_reads(file):
    ours = read_header(file)
    theirs = gguf.GGUFReader(file).fields
    for key, field in theirs.items():
        if not key.startswith("GGUF."):
            value = field.contents()
            assert ours[key] == (len(value) if isinstance(value, list) else value), key
    assert len(ours) == sum(not key.startswith("GGUF.") for key in theirs)


# ---- as it is: without tags ----


def test_without_tags_the_engine_writes_what_generate_writes(plain):
    assert len(plain.absent_tags) == 6
    assert not plain.opens_blocks
    assert len(plain.tokenizer) == plain.model.get_input_embeddings().weight.shape[0], "nothing was added"
    params = SamplingParams(mode="sequential", temperature=0, max_main_tokens=24, max_trace_tokens=24)
    prompts = [plain.encode_prompt(text) for text in (QUESTION, "4 + 5", "end")]
    drawn = Engine(plain).generate([Request(tuple(p), str(i)) for i, p in enumerate(prompts)], params)
    for prompt, rollout in zip(prompts, drawn, strict=True):
        expected = plain.model.generate(tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        assert [token for segment in rollout.segments for token in segment.tokens] == expected
    cold = params.model_copy(update={"temperature": 1.0})
    assert "<Parallel>" not in Engine(plain).generate([Request(tuple(prompts[0]))], cold, seed=3)[0].text


def test_without_tags_nothing_forks_and_no_tag_is_trained(plain):
    from polythink.problems.prompts import get_prompt
    from polythink.train.data import TraceEncoder

    with pytest.raises(UserError, match=r"loaded as it is, without </Parallel>, .*load it in a mode that forks"):
        Engine(plain).generate([Request((5, 6))], SamplingParams())
    with pytest.raises(UserError, match=r"does not hold <Parallel>, .* as single tokens"):
        with_settings(plain, mode="structured")
    encode = TraceEncoder(plain, SamplingParams(mode="sequential"), get_prompt("none"))
    assert encode("1+1", "It is 2.")
    with pytest.raises(UserError, match=r"without </Path>, <Path> \(dialect"):
        encode("1+1", "<Path>It is 2.</Path>")


def test_tags_that_are_wanted_are_added_in_any_mode(file):
    assert not load(file, mode="sequential", add_tags=True).absent_tags
    assert not load(file).absent_tags


# ---- what is refused ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no whole .gguf file"),
        (b"PK\3\4" + bytes(40), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "its version is 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 5), "is no whole .gguf file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 40), "in the middle of its header"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_header(tmp_path / "a.gguf")
    with pytest.raises(UserError, match=r"a\.gguf"):
        load(tmp_path / "a.gguf")


def test_a_file_that_is_cut_off(file, tmp_path):
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot load a model from '.*cut.gguf'"):
        load(tmp_path / "cut.gguf")


def test_an_architecture_that_transformers_cannot_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "nothing-known")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="nothing-known"):
        load(tmp_path / "a.gguf")


def test_without_the_package_the_pip_line_is_said(file, monkeypatch):
    monkeypatch.setattr(place_module, "find_spec", lambda name: None if name == "gguf" else find_spec(name))
    with pytest.raises(UserError, match=r"needs gguf; `pip install gguf` installs what is lacking"):
        load(file)


# ---- where it is ----


def test_paths_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.gguf").write_bytes(b"")
    (tmp_path / "runs").mkdir()
    assert place_of("small.gguf") == (".", "small.gguf")
    assert place_of("a/b:c.gguf") == ("a/b", "c.gguf")
    assert place_of("a/b:sub/c.gguf") == ("a/b", "sub/c.gguf")
    assert place_of("a/b") == ("a/b", None)
    for good in ("small.gguf", "a/b:c.gguf", str(tmp_path / "small.gguf")):
        check_path(good)
    for bad, message in (
        ("smal.gguf", "no .gguf file 'smal.gguf'; did you mean 'small.gguf'"),
        ("runs/small.gguf", "no .gguf file 'runs/small.gguf'"),
        ("nowhere/small.gguf", "there is no folder 'nowhere'"),
        ("a/b/c:d.gguf", "there is no folder 'a/b'"),
        ("big-00001-of-00003.gguf", "is one part of a .gguf file; put the parts together"),
    ):
        with pytest.raises(UserError, match=message):
            check_path(bad)


def test_a_folder_of_files_alone_points_at_one(tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no config.json, so it is no model; it holds '.*small.gguf': give that"):
        load(tmp_path)


class Hub:
    """A hub whose one repository holds these files; None: it cannot be reached."""

    def __init__(self, files) -> None:
        self.files = files

    def model_info(self, name, timeout):
        if self.files is None:
            raise ConnectionError("no route to host")
        return type("Info", (), {"siblings": [type("File", (), {"rfilename": name}) for name in self.files]})


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        (["a.Q4.gguf"], "some/model", "holds .gguf files alone; name one of them: some/model:a.Q4.gguf"),
        (["a.Q4.gguf"], "some/model:b.gguf", "has no file 'b.gguf'; it has some/model:a.Q4.gguf"),
        (["config.json"], "some/model:b.gguf", "has no file 'b.gguf'; it has no .gguf file"),
        (None, "some/model:b.gguf", "no model folder 'some/model:b.gguf', and the hub cannot be asked"),
    ],
)
def test_files_of_the_hub(monkeypatch, files, path, message):
    monkeypatch.setattr(source_module, "HfApi", lambda: Hub(files))
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_file_of_the_hubs_cache_is_read_without_a_network(monkeypatch, file, plain):
    monkeypatch.setattr(source_module, "HfApi", lambda: Hub(None))
    monkeypatch.setattr(source_module, "try_to_load_from_cache", lambda name, wanted: str(file.parent / wanted))
    asked = []

    class Cached:
        def __init__(self, auto) -> None:
            self.auto = auto

        def from_pretrained(self, name, gguf_file, local_files_only, **more):
            asked.append((name, gguf_file, local_files_only))
            return self.auto.from_pretrained(file.parent, gguf_file=gguf_file, **more)

    for auto in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(source_module, auto.__name__, Cached(auto))
    monkeypatch.setattr(source_module, "hf_hub_download", lambda name, wanted, local_files_only: file.parent / wanted)
    lm = load("some/model:tiny.gguf", mode="sequential")
    assert asked == [("some/model", "tiny.gguf", True)] * 2
    assert torch.equal(lm.model.get_input_embeddings().weight, plain.model.get_input_embeddings().weight)


# ---- the real one ----


@pytest.mark.long
def test_the_tiny_one_is_built_as_the_real_one_and_the_real_one_answers():
    lm = load(real_file(), mode="sequential")
    ours, theirs = tiny_tokenizer(), lm.tokenizer
    assert theirs.chat_template == ours.chat_template == CHAT
    assert theirs.convert_ids_to_tokens(list(range(len(SPECIAL)))) == list(SPECIAL)
    assert str(theirs.backend_tokenizer.pre_tokenizer) == str(ours.backend_tokenizer.pre_tokenizer)
    named = ("bos_token", "eos_token", "pad_token", "unk_token")
    assert [getattr(theirs, name) for name in named] == [getattr(ours, name) for name in named]
    assert lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    params = SamplingParams(mode="sequential", temperature=0, max_main_tokens=12, max_trace_tokens=12)
    prompt = lm.encode_prompt("What is the capital of France?")
    (rollout,) = Engine(lm).generate([Request(tuple(prompt))], params)
    assert "Paris" in rollout.text
    expected = lm.model.generate(tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    assert [token for segment in rollout.segments for token in segment.tokens] == expected
