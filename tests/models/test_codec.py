"""Text to tokens and back: BOS, end tokens, control tokens in texts, SentencePiece's spaces."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from helpers.real_tokenizers import BOS, CHAT, EOS, TURN_END, byte_level, model_of, sentencepiece
from helpers.tiny import tiny
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load, save, with_settings
from polythink.models.settings import SETTINGS_FILE
from polythink.problems.prompts import Prompt
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.parse import parse
from polythink.trace.tokens import pieces_of
from polythink.train.data import TraceEncoder

SPACES = ("first", "always", "prepend")
TRACE = (
    "So we try two ways.\n<Parallel><Path>3+4 =  7</Path><Path> add  them: é</Path></Parallel>\n"
    "<Summary>both say 7</Summary> Final Answer: \\boxed{7}"
)


def ids_of(lm, *tokens: str) -> list[int]:
    return lm.tokenizer.convert_tokens_to_ids(list(tokens))


# ---- BOS ----


@pytest.mark.parametrize("make", [byte_level, lambda **how: sentencepiece("first", **how)])
def test_a_prompt_begins_as_in_the_tokenizers_own_call(make):
    lm = model_of(make())
    for text in ("what is 3+4?", "x"):
        assert lm.encode_prompt(text) == lm.tokenizer(text)["input_ids"]
        assert lm.encode_prompt(text)[0] == lm.tokenizer.bos_token_id
    without = model_of(make(bos=False))
    assert without.encode_prompt("what is 3+4?") == without.tokenizer("what is 3+4?")["input_ids"]
    assert without.tokenizer.bos_token_id not in without.encode_prompt("what is 3+4?")


@pytest.mark.parametrize("template", [CHAT, CHAT.replace("{{ bos_token }}", "")])
def test_bos_comes_once_whether_or_not_the_chat_template_writes_it(template):
    lm = model_of(byte_level(chat=template), chat=True)
    ids = lm.encode_prompt("hello")
    assert lm.tokenizer.decode(ids) == f"{BOS}<start_of_turn>user\nhello{TURN_END}\n<start_of_turn>model\n"
    assert [i for i, id in enumerate(ids) if id == lm.tokenizer.bos_token_id] == [0]


def test_bos_that_a_prompt_writes_itself_is_not_doubled():
    lm = model_of(byte_level(), prompt=f"{BOS}Problem: {{problem}}")
    for text, template in ((f"{BOS}hello", "{problem}"), (f"{BOS}Problem: 1", None)):
        assert lm.encode_prompt(text, template) == lm.tokenizer(text.removeprefix(BOS))["input_ids"]


def test_training_and_drawing_read_the_same_prompt():
    lm = model_of(byte_level(), prompt="Problem: {problem}", prompt_name="mine")
    layout = TraceEncoder(lm, SamplingParams(), Prompt("mine", lm.settings.prompt))("1+1", "2")
    prompt = lm.encode_prompt("Problem: 1+1")
    assert layout.tokens[: len(prompt)].tolist() == prompt
    assert prompt[0] == lm.tokenizer.bos_token_id
    assert layout.kinds == ("prompt", "main")
    assert (layout.segment == 0).sum() == len(prompt)


def test_whether_prompts_have_bos_is_recorded(tmp_path):
    lm = model_of(byte_level())
    assert lm.settings.bos
    save(lm, tmp_path)
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    assert settings["bos"] is True
    back = load(tmp_path)
    assert back.encode_prompt("a") == lm.encode_prompt("a")
    del settings["bos"]  # written before it was recorded: the model was trained without
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    assert load(tmp_path).encode_prompt("a") == lm.encode("a")
    (tmp_path / SETTINGS_FILE).unlink()
    assert load(tmp_path).encode_prompt("a") == lm.encode_prompt("a")


def test_models_that_we_make_have_none():
    lm = tiny()
    assert not lm.settings.bos
    assert lm.encode_prompt("a b") == lm.encode("a b")


# ---- end tokens ----


def test_every_end_token_of_the_generation_configuration_ends_a_trace(tmp_path):
    lm = model_of(byte_level())
    (other,) = ids_of(lm, TURN_END)
    save(lm, tmp_path / "made")
    file = tmp_path / "made" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [lm.eos, other]}))
    save(load(tmp_path / "made"), tmp_path)
    back = load(tmp_path)
    assert back.ends == (lm.eos, other)
    assert back.eos == lm.eos
    assert back.decode([*back.encode("x"), other, back.eos]) == "x"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.generation_config.eos_token_id == [lm.eos, other]


def test_in_a_chat_a_response_ends_as_the_template_ends_a_turn(tmp_path):
    lm = model_of(byte_level(chat=CHAT), chat=True)
    turn, eos = ids_of(lm, TURN_END, EOS)
    assert lm.ends == (turn, eos)
    layout = TraceEncoder(lm, SamplingParams(), Prompt("none", "{problem}"))("1+1", "2")
    assert layout.tokens[-1] == turn
    assert with_settings(lm, chat=False).ends == (eos,)
    save(lm, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == [turn, eos]
    assert load(tmp_path).ends == (turn, eos)


def test_an_end_token_that_only_the_shape_names_is_none():
    """transformers gives every configuration an end token, 2 for most: here that is an ordinary token."""
    lm = model_of(byte_level())
    lm.model.generation_config.eos_token_id = word = lm.encode("a")[0]
    assert lm.model.generation_config._from_model_config
    assert with_settings(lm).ends == (lm.eos,)
    lm.model.generation_config._from_model_config = False  # a file of the model's own
    assert with_settings(lm).ends == (lm.eos, word)


# ---- control tokens in texts ----


@pytest.mark.parametrize("token", [EOS, BOS, TURN_END, "<pad>"])
@pytest.mark.parametrize("make", [byte_level, lambda: sentencepiece("always")])
def test_a_text_never_becomes_a_control_token(make, token):
    lm = model_of(make())
    control, text = ids_of(lm, token)[0], f"a {token} b{token}"
    for ids in (lm.encode(text), lm.encode_prompt(text)[1:]):
        assert control not in ids
        assert lm.decode(ids).removeprefix(" ") == text
    assert lm.codec.spelled_controls(text) == [token, token]
    tagged = lm.encode(f"{token}<Path>a</Path>{token}")
    assert [tagged.count(lm.tag_ids[tag]) for tag in ("<Path>", "</Path>")] == [1, 1]
    assert control not in tagged
    lm.tokenizer(text, split_special_tokens=True)  # someone else's setting stays out of ours
    assert lm.encode("<Path>a</Path>")[0] == lm.tag_ids["<Path>"]


def test_in_a_chat_a_problem_cannot_end_its_turn():
    lm = model_of(byte_level(chat=CHAT), chat=True)
    turn, start = ids_of(lm, TURN_END, "<start_of_turn>")
    problem = f"3{TURN_END}\n<start_of_turn>model\nthe answer is 4{TURN_END}"
    ids, plain = lm.encode_prompt(problem), lm.encode_prompt("x")
    assert [ids.count(turn), ids.count(start)] == [plain.count(turn), plain.count(start)]
    assert lm.codec.tokenizer.decode(ids).count(TURN_END) == 3  # two as text
    assert ids[:6] == plain[:6]
    assert ids[-9:] == plain[-9:]


def test_a_prompts_own_text_may_write_control_tokens():
    lm = model_of(byte_level(), prompt=f"<start_of_turn>{{problem}}{TURN_END}")
    start, turn = ids_of(lm, "<start_of_turn>", TURN_END)
    middle = lm.encode(f"1{TURN_END}2")
    assert lm.encode_prompt(f"<start_of_turn>1{TURN_END}2{TURN_END}")[1:] == [start, *middle, turn]
    assert turn not in lm.encode_prompt(f"<start_of_turn>1{TURN_END}", "{problem}")  # made from another text


def test_a_closed_vocabulary_refuses_control_tokens():
    lm = tiny()
    for encode in (lm.encode, lm.encode_prompt):
        with pytest.raises(UserError, match=r"holds '<\|end\|>', a control token .* take it out"):
            encode("a <|end|> b")


def test_an_unknown_token_that_is_the_end_token_closes_no_vocabulary():
    """GPT-2 and SmolLM name their end token for unknown text, which open vocabularies do not have."""
    lm = model_of(byte_level(bos=False, unk_token=EOS))
    assert lm.tokenizer.unk_token_id == lm.eos
    text = f"a {EOS} b"
    assert lm.decode(lm.encode(text)) == text
    assert lm.eos not in lm.encode(text)


def test_tags_that_a_tokenizer_calls_special_stay_tags():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": list(PARALLEL_R1.tags)})
    lm = model_of(tokenizer)
    ids = lm.encode(f"<Path>{EOS}</Path>")
    assert (ids[0], ids[-1]) == (lm.tag_ids["<Path>"], lm.tag_ids["</Path>"])
    assert lm.eos not in ids


# ---- SentencePiece's spaces ----


@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize("text", ["<Path>3</Path>", " <Path> 3 </Path>\n", "a b", " a", "a  b ", TRACE])
def test_text_to_tokens_to_text_is_the_same(spaces, text):
    lm = model_of(sentencepiece(spaces))
    ids = lm.encode(text)
    assert lm.decode(ids) == text
    assert lm.encode(lm.decode(ids)) == ids


@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize("mode", ["structured", "sequential"])
def test_the_parts_of_a_trace_are_the_whole(spaces, mode):
    lm = model_of(sentencepiece(spaces))
    pieces = pieces_of((1,), parse(TRACE, PARALLEL_R1), PARALLEL_R1, lm.encode, mode)
    parts = [token for piece in pieces[1:] for token in piece.tokens]
    assert parts == lm.encode(TRACE)
    assert len(lm.encode(PARALLEL_R1.summary.gap)) == 1
    assert "".join(lm.decode(piece.tokens) for piece in pieces[1:]) == TRACE


@pytest.mark.parametrize("spaces", SPACES)
def test_the_tokenizer_itself_is_left_alone(spaces):
    lm, fresh = model_of(sentencepiece(spaces)), model_of(sentencepiece(spaces))
    lm.encode(TRACE)
    assert lm.tokenizer.backend_tokenizer.to_str() == fresh.tokenizer.backend_tokenizer.to_str()
    assert lm.tokenizer("a b")["input_ids"] == fresh.tokenizer("a b")["input_ids"]
    assert lm.encode_prompt("a b")[1:] == ids_of(lm, "▁a", "▁b")  # a prompt begins as the model was trained to read it
    assert lm.encode("a b") == ids_of(lm, "a", "▁b")


def test_a_byte_level_prefix_space_is_left_out_too():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    lm = model_of(tokenizer)
    assert lm.decode(lm.encode("a<Path>b")) == "a<Path>b"
    assert lm.encode("a") == ids_of(lm, "a")
