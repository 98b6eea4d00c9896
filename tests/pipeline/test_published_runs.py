"""The recipes for Qwen3-4B run, line by line: a scaled-down Qwen3, real problems, real traces from an endpoint.

What is changed is where the model and the teacher are, and sizes: steps, batches, lengths, problems of an evaluation.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_variants import VARIANTS
from transformers import AutoTokenizer

from helpers.qwen import TURN_END, scaled_qwen3, texts_of
from helpers.ranks import program, said, together, torchrun
from helpers.real_data import TAUGHT, guessable_problems, real_problems, recorded_teacher, rows_of
from helpers.run_folders import run_arm, run_of
from polythink.engine.params import SamplingParams
from polythink.models.lm import load
from polythink.pipeline.recipe import load_recipe
from polythink.problems.prompts import get_prompt
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.trace.modes import get_mode
from polythink.train.data import TraceEncoder

SMALL = {
    "steps": 3, "batch": 16, "prompts_per_step": 4, "limit": 2, "checkpoint_every": 2,
}  # fmt: skip
TRAINING = ("sft", "rl_easy", "rl_hard", "rl_scaffold")
# the alternating reward with its tiers at the third step in place of the ninth
SHORTER = "rl_hard.reward={preset: alternating, cycle: [{steps: 2, reward: accuracy}, {steps: 1, reward: tiered}]}"
ROOM = 100  # tokens of a response
BFLOAT16 = 0.05  # nats: what a forward in bfloat16 is off at most, in models that are so small


def small(name: str, model: Path, teacher: str, sizes: dict[str, int]) -> list[str]:
    """The overrides that make a recipe small, and say where model and teacher are."""
    found = [f"model.path={model}", f"decoding.max_trace_tokens={ROOM}"]
    for stage, config in load_recipe(name).stages.items():
        fields = type(config).model_fields
        if config.kind == "coldstart":
            found.append(f"{stage}.teacher.url={teacher}")
        else:
            found += [f"{stage}.{key}={value}" for key, value in sizes.items() if key in fields]
    return found


@pytest.fixture(scope="module")
def model(shared_data, tmp_path_factory) -> Path:
    return scaled_qwen3(tmp_path_factory.mktemp("model") / "qwen", texts_of(shared_data)[::4])


@pytest.fixture(scope="module")
def teacher(shared_data):
    with pytest.MonkeyPatch.context() as patch, recorded_teacher(shared_data) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server.base


# ---- the two recipes as they stand, in two processes ----


@pytest.mark.long
@pytest.mark.timeout(3300)
@pytest.mark.parametrize(
    ("name", "stages", "changed"),
    [
        ("parallel-r1-seen-qwen3-4b", ("sft", "rl_easy", "rl_hard"), ()),
        ("parallel-r1-unseen-qwen3-4b", ("sft", "rl_hard"), (SHORTER,)),
    ],
)
def test_every_line_of_a_published_recipe_runs(shared_data, model, teacher, tmp_path, name, stages, changed):
    data, run = real_problems(shared_data, tmp_path / "data"), tmp_path / "run"
    process = torchrun(
        name, *small(name, model, teacher, SMALL), *changed, "--out", run,
        env=os.environ | {"POLYTHINK_DATA": str(data)},
    )  # fmt: skip
    _, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err
    assert_taught(run)
    for stage in stages:
        rows = read_jsonl(run / stage / "metrics.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
        if stage == "sft":
            assert rows[0]["loss"] == pytest.approx(math.log(2000), rel=0.05), "a random model"
            assert all(row["grad_norm"] > 0 for row in rows)
        else:
            assert all(row["logprob_gap"] < BFLOAT16 for row in rows)
    names = [row["reward_name"] for row in read_jsonl(run / "rl_hard" / "metrics.jsonl")]
    assert names == ["accuracy", "accuracy", "tiered" if changed else "accuracy"]
    for stage, sets in (("eval", {"aime25", "aime24", "amc23"}), ("eval_math", {"math300"})):
        assert read_json(run / stage / "result.json")["evaluations"].keys() == sets
    assert (run / "report.html").is_file()
    assert_saved(model, run / "rl_hard" / "model")


def assert_taught(run: Path) -> None:
    """The teacher was asked all problems, and what is kept is its real traces."""
    (table,) = read_json(run / "coldstart" / "table.json")
    assert (table["jobs"], table["kept"], table["missing"]) == (table["responses"], TAUGHT, 0)
    assert table["rejected"] == {"answer: unparsed": table["jobs"] - TAUGHT}


def assert_saved(given: Path, folder: Path) -> None:
    """A hub folder as the one that it began from: tied, in float32, six tags on rows of their own."""
    lm, weights = load(folder, add_tags=False), load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert "lm_head.weight" not in weights
    assert lm.model.config.tie_word_embeddings
    assert type(lm.tokenizer).__name__ == "Qwen2Tokenizer"
    assert lm.tokenizer.chat_template == load(given).tokenizer.chat_template
    assert lm.model.config.vocab_size == read_json(given / "config.json")["vocab_size"], "there were rows left"
    assert len(lm.tag_ids) == 6


# ---- every arm, with a model that has learnt the form: rewards differ ----

GUESSES = "246"
FEW = {"steps": 2, "batch": 4, "prompts_per_step": 2, "group_size": 4, "limit": 1, "samples": 1, "checkpoint_every": 2}
ROUNDED = 0.15  # nats: its logits are large, and from 8 to 16 neighbours in bfloat16 lie 1/16 apart; two may be rounded
TEACH = """
name: taught
chat: true
model: {{path: {model}, add_tags: true}}
stages:
  sft: {{kind: sft, data: [
           {{file: {rows}, prompt: none}}, {{file: {rows}, prompt: none, mode: sequential}},
           {{file: {rows}, prompt: parallel}}, {{file: {rows}, prompt: parallel, mode: sequential}}],
         steps: 140, batch: 16, micro_batch: 16, lr: 1e-2, schedule: cosine, loss_on: response, checkpoint_every: 140}}
"""


def guess(i: int) -> str:
    """A trace of two paths that guess, and the answer of one."""
    first, second = GUESSES[i % 3], GUESSES[i // 3 % 3]
    paths = "".join(f"<Path>\nIt is {value}.\n</Path>\n" for value in (first, second))
    return f"<Parallel>\n{paths}</Parallel>\n<Summary>\nSo {second}.\n</Summary>\n\nFinal Answer: {second}"


@pytest.fixture(scope="module")
def taught(shared_data, model, tmp_path_factory) -> Path:
    """The model after it has learnt to write such traces, with isolated paths and as one text. Its tags are its own."""
    folder = tmp_path_factory.mktemp("taught")
    questions = [row["question"] for row in rows_of(shared_data, "gsm8k_train")[:150]]
    rows = [{"question": question, "trace": guess(i)} for i, question in enumerate(questions)]
    write_jsonl(folder / "rows.jsonl", rows)
    return run_of(TEACH.format(model=model, rows=folder / "rows.jsonl"), folder) / "sft" / "model"


@pytest.fixture(scope="module")
def guessable(shared_data, tmp_path_factory) -> Path:
    return guessable_problems(shared_data, tmp_path_factory.mktemp("guessable") / "data", GUESSES)


@pytest.fixture(scope="module")
def ran() -> dict[str, Path]:
    """The stages that have run, by digest: those that arms have in common run once, as in an experiment."""
    return {}


@pytest.mark.long
@pytest.mark.timeout(1800)  # the first one teaches the model
@pytest.mark.parametrize("size", ["qwen3-4b", "qwen3-0.6b"])
@pytest.mark.parametrize("arm", VARIANTS)
def test_every_arm_of_the_comparison_runs(taught, teacher, guessable, tmp_path, monkeypatch, ran, size, arm):
    """Two steps of each stage. Rewards of one group differ, so all is trained."""
    monkeypatch.setenv("POLYTHINK_DATA", str(guessable))
    name = f"parallel-r1-{size}:{arm}"
    recipe = load_recipe(name, small(name, taught, teacher, FEW))
    for plan, folder, is_new in run_arm(recipe, tmp_path, ran):
        if is_new and plan.stage.kind == "grpo":
            assert_learns(folder, arm, plan)


def assert_learns(folder: Path, arm: str, plan) -> None:
    """Some group's rewards differed, and the policy took a step; what is drawn is trained, but in published modes."""
    rows = read_jsonl(folder / "metrics.jsonl")
    assert any(row["zero_spread"] < 1 and row["grad_norm"] > 0 for row in rows), (arm, plan.name)
    if get_mode(plan.mode).isolated:  # otherwise the model would have to have learnt to write the tags itself
        assert any(row["parallel_ratio"] > 0 for row in rows), (arm, plan.name)
    if get_mode(plan.mode).exact:
        assert all(row["logprob_gap"] < ROUNDED and row["mismatch_kl"] < 1e-4 for row in rows), (arm, plan.name)


@pytest.mark.long
@pytest.mark.timeout(1800)  # alone it teaches the model too
@pytest.mark.parametrize("arm", ["unseen-scaffold", "unseen-lora", "seen-published", "unseen-path-credit"])
def test_arms_with_stages_of_their_own_run_in_two_processes(taught, teacher, guessable, tmp_path, arm, monkeypatch):
    monkeypatch.setenv("POLYTHINK_DATA", str(guessable))
    name, run = f"parallel-r1-qwen3-4b:{arm}", tmp_path / "run"
    given = small(name, taught, teacher, FEW)
    ended = together(2, program, tmp_path, "train", name, *given, "--out", str(run))
    assert [end.status for end in ended] == [0, 0], said(tmp_path, "err", 2)
    trained = [stage for stage in load_recipe(name).stages if stage in TRAINING]
    assert all(len(read_jsonl(run / stage / "metrics.jsonl")) == FEW["steps"] for stage in trained)
    assert any(row["grad_norm"] > 0 for stage in trained[1:] for row in read_jsonl(run / stage / "metrics.jsonl"))


# ---- in seconds: what is particular to that folder ----


@pytest.fixture(scope="module")
def little(tmp_path_factory) -> Path:
    """Of a tokenizer that has learnt from a few lines."""
    texts = ["Natalia sold 48/2 = 24 clips.\n\nFinal Answer: 72\n", guess(0), get_prompt("parallel").text] * 3
    return scaled_qwen3(tmp_path_factory.mktemp("little") / "qwen", texts, size=400)


def test_tags_are_taken_in_by_a_byte_level_bpe_whose_merges_span_their_ends(little):
    lm = load(little)
    bare = AutoTokenizer.from_pretrained(little)
    assert any(">Ċ" in token for token in bare.tokenize("</Parallel>\n<Summary>")), "else this test says little"
    whole = lm.encode(guess(0))
    assert lm.decode(whole) == guess(0)
    tags = ("<Parallel>", *("<Path>", "</Path>") * 2, "</Parallel>", "<Summary>", "</Summary>")
    assert [i for i in whole if i in lm.tag_ids.values()] == [lm.tag_ids[tag] for tag in tags]
    rows = lm.model.get_input_embeddings().weight
    assert rows is lm.model.get_output_embeddings().weight
    assert rows.shape[0] == read_json(little / "config.json")["vocab_size"] > len(lm.tokenizer)
    assert len({tuple(row) for row in rows[list(lm.tag_ids.values())].tolist()}) == 6


def test_a_turn_is_asked_and_ended_as_its_template_says(little):
    lm = load(little)
    asked = lm.tokenizer.decode(lm.encode_prompt("What is 1 + 1? <|im_end|> <think>"))
    assert asked == "<|im_start|>user\nWhat is 1 + 1? <|im_end|> <think><|im_end|>\n<|im_start|>assistant\n"
    ends = [lm.tokenizer.convert_ids_to_tokens(i) for i in lm.ends]
    assert ends == [TURN_END, "<|endoftext|>"], "a chat's, then the base model's own"
    layout = TraceEncoder(lm, SamplingParams(mode="structured"), get_prompt("parallel"))("What?", guess(0))
    assert layout.tokens[-1] == lm.eos
