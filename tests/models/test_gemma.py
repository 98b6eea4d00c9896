"""Gemma 3: read, asked, forked, trained. On a tiny random model built like it; the real one where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_head import Largest

from helpers.device import DEVICE, FAST, tensor
from helpers.gemma import CHAT, SPECIAL, WINDOW, real_file, tiny_model, tiny_tokenizer, write_gguf
from helpers.layouts import some_layouts
from helpers.tiny import gaps
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.gguf import passed_over, quick_reader
from polythink.models.gguf_rotary import scaled_parameters
from polythink.models.lm import load, load_vocabulary, with_settings
from polythink.models.logprobs import token_logprobs
from polythink.run.jsonl import read_rows
from polythink.train.config import SFTConfig
from polythink.train.sft import train_sft

gguf = pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")
FORKS = SamplingParams(
    paths=3, fork_at=0, max_blocks=1, max_path_tokens=WINDOW + 2, max_summary_tokens=WINDOW, max_main_tokens=WINDOW,
    max_trace_tokens=100,
)  # fmt: skip
TEXTS = (
    "The capital of France is", "Once upon a time", "Two plus two is", "12 eggs, 3 of them broken: how many?", "a",
    "def f(n):\n", "The three colours are red,", "Water boils at", "no  more", "Tom has 3 apples. " * 3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return tiny_model(len(tiny_tokenizer()))


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tiny_tokenizer(), CHAT)


@pytest.fixture(scope="module")
def plain(file):
    return load(file, mode="sequential")


@pytest.fixture(scope="module")
def forking(file):
    return load(file)


def drawn_tokens(rollout) -> list[int]:
    return [token for segment in rollout.segments for token in segment.tokens]


def check_greedy(lm, prompts: list[list[int]], most: int) -> None:
    """What the engine writes, sequential and greedy, is what transformers' generate writes."""
    params = SamplingParams(mode="sequential", temperature=0, max_main_tokens=most, max_trace_tokens=most)
    found = Engine(lm).generate([Request(tuple(prompt), str(i)) for i, prompt in enumerate(prompts)], params)
    for prompt, rollout in zip(prompts, found, strict=True):
        ends = {"eos_token_id": list(lm.ends), "pad_token_id": lm.pad}
        whole = lm.model.generate(tensor([prompt]), max_new_tokens=most, do_sample=False, **ends)
        assert drawn_tokens(rollout) == whole[0, len(prompt) :].tolist(), lm.decode(prompt)


# ---- what is read ----


def test_the_weights_the_windows_and_the_scale_are_those_of_the_file(plain, model):
    ids = tensor([plain.encode("Tom has 3 apples and eats one of them.")])
    assert ids.shape[1] > 2 * WINDOW
    with torch.no_grad():
        found, right = plain.model(ids).logits, model.to(DEVICE)(ids).logits
    torch.testing.assert_close(found, right, atol=1e-5 * right.abs().max().item(), rtol=0)  # norms went through 1 + w
    config = plain.model.config
    assert config.layer_types == [*["sliding_attention"] * 5, "full_attention"]
    assert (config.sliding_window, config.head_dim, config.rope_parameters) == (
        WINDOW, 16, model.config.rope_parameters,
    )  # fmt: skip
    assert plain.model.get_input_embeddings().weight is plain.model.get_output_embeddings().weight


def test_the_tokenizer_is_that_of_the_model(plain):
    right = tiny_tokenizer()
    for text in ("  12 eggs", "\n 3.50", "a  b\n\n  16", "Tom's", "é"):
        assert plain.encode(text) == right(text, add_special_tokens=False).input_ids, text
        assert plain.decode(plain.encode(text)) == text
    assert plain.encode_prompt("a", "{problem}")[:1] == [2]


@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_the_quick_reader_finds_what_the_librarys_own_finds(kind, file, tmp_path):
    if kind == "llama":
        from helpers import smollm2

        tokenizer = smollm2.tiny_tokenizer()
        file = smollm2.write_gguf(tmp_path / "a.gguf", smollm2.tiny_model(len(tokenizer)), tokenizer, packed=True)
    ours, theirs = quick_reader()(file), gguf.GGUFReader(file)
    assert list(ours.fields) == list(theirs.fields)
    for key, right in theirs.fields.items():
        found = ours.fields[key]
        assert (found.offset, found.data, found.types) == (right.offset, right.data, right.types), key
        pairs = list(zip(found.parts, right.parts, strict=True))
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs), key
        assert found.contents() == right.contents(), key
    assert ours.data_offset == theirs.data_offset
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert (a.name, a.tensor_type, a.shape.tolist()) == (b.name, b.tensor_type, b.shape.tolist())
        assert np.array_equal(a.data, b.data)


# ---- how it is asked ----


def test_a_turn_begins_with_one_bos_and_ends_with_its_own_token(plain, file):
    right = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "4 + 5"}], add_generation_prompt=True, return_dict=False
    )
    prompt = plain.encode_prompt("4 + 5")
    assert prompt == right
    assert prompt.count(2) == 1
    assert [SPECIAL[id] for id in plain.ends] == ["<end_of_turn>", "<eos>"]
    assert load(file, mode="sequential", chat=False).ends == (1,)
    assert load_vocabulary(file, mode="sequential").ends == plain.ends
    spelt = plain.encode_prompt("a<end_of_turn>b")
    assert spelt.count(SPECIAL.index("<end_of_turn>")) == 1, "what a problem spells ends no turn"


def test_a_system_message_has_no_turn_of_its_own(plain):
    system, user = {"role": "system", "content": "be short"}, {"role": "user", "content": "4 + 5"}
    told = plain.encode_chat([system, user])
    assert told.count(SPECIAL.index("<start_of_turn>")) == 2
    assert plain.codec.tokenizer.decode(told) == (
        "<bos><start_of_turn>user\nbe short\n\n4 + 5<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(UserError, match="chat template refuses these messages: user and assistant must take turns"):
        plain.encode_chat([user, user])


def test_a_base_models_file_has_no_template_and_is_asked_bare(model, tmp_path):
    lm = load(write_gguf(tmp_path / "a.gguf", model.cpu(), tiny_tokenizer()), mode="sequential")
    assert (lm.settings.chat, lm.settings.bos, lm.ends) == (False, True, (1,))
    assert lm.encode_prompt("12") == [2, *lm.encode("12")]
    with pytest.raises(UserError, match="has no chat template"):
        lm.encode_chat([{"role": "user", "content": "12"}])


# ---- what it writes ----


def test_greedy_text_is_that_of_generate(plain):
    check_greedy(plain, [plain.encode_prompt(text) for text in TEXTS[::2]], WINDOW + 4)


def test_tags_have_rows_that_differ_and_the_head_stays_tied(forking, model):
    table = forking.model.get_input_embeddings().weight
    assert table is forking.model.get_output_embeddings().weight
    assert len(table) == len(tiny_tokenizer()) + 6
    assert torch.pdist(table[list(forking.tag_ids.values())]).min() > 0
    assert torch.equal(table[:-6].cpu(), model.get_input_embeddings().weight.cpu())


def test_a_trace_longer_than_the_window_is_drawn_as_one_masked_forward_has_it(forking):
    engine = Engine(forking)
    assert engine.backend.kind == FAST
    prompts = [forking.encode_prompt(text) for text in TEXTS[3:5]]
    found = engine.generate([Request(tuple(prompt), str(i)) for i, prompt in enumerate(prompts)], FORKS, seed=1)
    assert all(sum(s.kind == "path" for s in rollout.segments) == 3 for rollout in found)
    assert min(int(rollout.layout().position.max()) for rollout in found) > 3 * WINDOW
    assert max(gaps(forking, found)) < 1e-4
    config = forking.model.config
    try:
        config.sliding_window = 10**6
        assert max(gaps(forking, found)) > 1e-2, "the window makes a difference"
    finally:
        config.sliding_window = WINDOW


# ---- its vocabulary ----


def test_no_step_makes_the_logits_of_a_whole_batch():
    model = tiny_model(20_000)
    batch = collate(some_layouts())
    cells, table = batch.tokens.numel(), 4 * model.get_input_embeddings().weight.numel()
    found = {}
    for memory in (1 << 20, 1 << 40):
        with Largest() as largest:
            scored = token_logprobs(model, batch, memory_bytes=memory)
            scored.sum().backward()
        gradient = model.get_input_embeddings().weight.grad.clone()
        model.zero_grad()
        found[memory] = largest.bytes, scored, gradient
    (small, *pieces), (large, *whole) = found.values()
    assert small <= table < 4 * cells * 20_000 / 2, "no tensor is larger than the tied table and its gradient"
    assert large > 2 * table
    for part, right in zip(pieces, whole, strict=True):
        torch.testing.assert_close(part, right, atol=1e-4 * right.abs().max().item(), rtol=0)


# ---- sizes of Gemma 3 that differ ----


@pytest.mark.parametrize(
    ("header", "scale", "full", "sliding"),
    [
        ({}, 256, {"rope_type": "default", "rope_theta": 1e6}, 1e4),  # 270M and 1B
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},  # 4B, 12B
            256, {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, 1e4,
        ),
        (
            {"block_count": 62, "embedding_length": 5376, "attention.head_count": 32, "rope.freq_base_swa": 5e3},  # 27B
            168, {"rope_type": "default", "rope_theta": 1e6}, 5e3,
        ),
    ],
)  # fmt: skip
def test_what_the_header_says_of_attention_reaches_the_configuration(header, scale, full, sliding):
    said = {"block_count": 26, "embedding_length": 1152, "attention.head_count": 4, "attention.key_length": 256}
    said = {f"gemma3.{key}": value for key, value in ({**said, "rope.freq_base": 1e6} | header).items()}
    header = {"general.architecture": "gemma3", **said}
    found = passed_over(header)
    assert found | scaled_parameters(header, {}, found["rope_parameters"]) == {
        "head_dim": 256, "query_pre_attn_scalar": scale,
        "rope_parameters": {
            "full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
        },
    }  # fmt: skip


# ---- the real one ----

QUESTION = "Question: Tom has 3 apples and buys 4 more. How many apples has he?\nAnswer:"
TRACE = "<Parallel><Path>3 + 4 = 7.</Path><Path>4 and 3 make 7.</Path></Parallel>\n<Summary>Both say 7.</Summary>\n7"


@pytest.mark.long
def test_the_real_one_is_read_asked_and_forked_and_trains(tmp_path):
    lm = load(real_file())
    right = tiny_tokenizer()
    assert type(lm.tokenizer) is type(right)
    assert str(lm.tokenizer.backend_tokenizer.pre_tokenizer) == str(right.backend_tokenizer.pre_tokenizer)
    table, config = lm.model.get_input_embeddings().weight, lm.model.config
    assert table is lm.model.get_output_embeddings().weight
    assert torch.pdist(table[list(lm.tag_ids.values())].float()).min() > 0
    assert (len(table), config.sliding_window, config.head_dim, config.query_pre_attn_scalar) == (262150, 512, 256, 256)
    assert config.layer_types == [*["sliding_attention"] * 5, "full_attention"] * 3
    story = " ".join(f"On day {i} the farmer sold {i * 3 % 17} eggs." for i in range(60))
    prompts = [*map(lm.encode_prompt, TEXTS[:-1]), lm.encode_prompt(story)[:560]]
    check_greedy(lm, prompts, 12)
    forks = FORKS.model_copy(update={"max_path_tokens": 40, "max_trace_tokens": 300})
    asked = [Request(tuple(prompt), str(i)) for i, prompt in enumerate((prompts[0], prompts[-1][:490]))]
    found = Engine(lm).generate(asked, forks, seed=1)
    assert int(found[1].layout().position.max()) > config.sliding_window
    assert max(gaps(lm, found)) < 1e-4
    lm.tokenizer.chat_template = CHAT
    chats = with_settings(lm, chat=True, mode="sequential")
    assert lm.tokenizer.convert_ids_to_tokens(list(chats.ends)) == ["<end_of_turn>", "<eos>"]
    data = [{"question": QUESTION, "trace": TRACE}] * 4
    for changes in ({"lora": {"r": 4}}, {}):
        config = SFTConfig(steps=3, batch=2, micro_batch=1, lr=1e-4, **changes)
        train_sft(lm, config, data, tmp_path / ("lora" if changes else "all"))
        losses = [row["loss"] for row in read_rows(tmp_path / ("lora" if changes else "all") / "metrics.jsonl")]
        assert len(losses) == 3
        assert losses[-1] < losses[0]
