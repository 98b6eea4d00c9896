"""Bad input and bad luck, through the whole program: one sentence, an exit status, never a traceback, nothing lost."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from helpers.program import HEAD, Forked
from helpers.run_folders import run_of
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import ModelSettings, save
from polythink.models.tokenizers import word_tokenizer
from polythink.problems.tasks.countdown import VOCABULARY
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.trace.dialect import PARALLEL_R1

RECIPE = (
    HEAD
    + """\
  start: {kind: coldstart, problems: ["countdown-easy:train"], limit: 20,
          teacher: {kind: countdown, styles: {parallel: 1}}}
  sft: {kind: sft, steps: 20, batch: 4, lr: 3e-3, data: [{stage: start}], checkpoint_every: 4}
  rl: {kind: grpo, problems: ["countdown-mini:train"], steps: 7, prompts_per_step: 2, group_size: 2, lr: 1e-3,
       checkpoint_every: 2, reward: {cases: [{when: [right], value: 1}]}, drop_zero_spread: false}
  check: {kind: eval, problems: ["countdown-mini:heldout"], limit: 4, samples: 2}
"""
)
ONLY = {  # one stage that takes the recipe's own model
    "sft": 'stages={only: {kind: sft, steps: 1, data: [{problems: "countdown-easy:train", weight: 1}]}}',
    "grpo": 'stages={only: {kind: grpo, problems: ["countdown-easy:train"], steps: 1, reward: accuracy}}',
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path / "small.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of that recipe's run, with nothing in its way."""
    return run_of(RECIPE, tmp_path_factory.mktemp("whole"))


def sentence(status: int, err: str) -> str:
    """What the program says of a user's mistake, once it is sure that it says it as it should."""
    assert status == 2
    assert err.startswith("polythink: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("polythink: ").strip()


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sedd=1", "unknown key sedd; did you mean 'seed'?"),
        ("stf.steps=1", "unknown key stf; did you mean 'sft'?"),
        ("rl.stepz=1", "unknown key stages.rl.stepz; did you mean 'steps'?"),
        ("rl.reward.cases.0.wen=[right]", "unknown key stages.rl.reward.cases.0.wen; did you mean 'when'?"),
        ("sft.data.0.weigt=1", "unknown key stages.sft.data.0.weigt; did you mean 'weight'?"),
        ("start.teacher.stiles={parallel: 1}", "unknown key stages.start.teacher.stiles; did you mean 'styles'?"),
        ("check.decoding.pathz=1", "decoding of stage check: unknown key pathz; did you mean 'paths'?"),
        ("model.head_dimm=1", "unknown key model.head_dimm; did you mean 'head_dim'?"),
        ("model.head_dim=15", "model.head_dim must be a multiple of 2, got 15"),
        ("model.num_key_value_heads=3", "num_attention_heads (2) must be a multiple of num_key_value_heads (3)"),
        ("model.path=/nowhere/model", "no model folder '/nowhere/model'"),
        ("prompt=nowhere.txt", "no prompt file nowhere.txt"),
        ("sft.data.0={file: nowhere.jsonl}", "stages.sft.data: no file nowhere.jsonl"),
        ("check.problems=[nowhere.parquet]", "stages.check.problems: no file nowhere.parquet"),
    ],
)
def test_a_mistake_in_a_recipe_is_found_before_anything_is_done(polythink, recipe, override, said):
    status, out, err = polythink("train", recipe, override, "--out", recipe.parent / "run")
    assert said in sentence(status, err)
    assert out == ""
    assert not (recipe.parent / "run").exists()


MISSING = [
    ("train", "nowhere.yaml"),
    ("experiment", "nowhere.yaml"),
    ("report", "nowhere"),
    ("generate", "nowhere", "9 8 5 -> 5"),
    ("eval", "nowhere", "--problems", "countdown-easy", "--out", "out"),
    ("eval", "nowhere", "--problems", "nowhere.parquet", "--out", "out"),
    ("data", "show", "nowhere.parquet"),
    ("data", "grade", "nowhere.jsonl", "--text", "text", "--answer", "answer"),
    ("data", "coldstart", "nowhere.jsonl", "--teacher", "countdown", "--out", "out"),
    ("trace", "check", "nowhere.jsonl", "--field", "text"),
    ("trace", "show", "nowhere.parquet"),
]


@pytest.mark.parametrize("command", MISSING, ids=lambda command: " ".join(command[:3]))
def test_what_is_not_there_is_named(polythink, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    status, out, err = polythink(*command)
    assert "nowhere" in sentence(status, err)
    assert out == ""
    assert list(tmp_path.iterdir()) == []


# ---- models that cannot be used ----


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders as transformers writes them, of models that we must refuse."""
    folder, words = tmp_path_factory.mktemp("models"), word_tokenizer(VOCABULARY, PARALLEL_R1)
    recurrent = {"num_heads": 8, "head_dim": 8, "state_size": 8, "expand": 2, "n_groups": 1}
    rotary = {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    for name, kind, tokenizer, shape in (
        ("recurrent", "mamba2", words, recurrent),
        ("alibi", "bloom", words, {"n_head": 4}),
        ("tags", "qwen3", tokenizer_without_tags(), rotary),
    ):
        sizes = {"vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 1, **shape}
        special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **special)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    cut = shutil.copytree(folder / "tags", folder / "cut") / "model.safetensors"
    os.truncate(cut, 1000)
    return folder


def tokenizer_without_tags() -> PreTrainedTokenizerFast:
    vocabulary = ("<unk>", "<eos>", "<", ">", "/", "Parallel", "Path", "Summary")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


@pytest.mark.parametrize("kind", ONLY)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recurrent", "mamba2 folds what it has read into a state"),
        ("alibi", "bloom takes positions from token distance (ALiBi)"),
        ("tags", "the tokenizer does not hold <Parallel>, </Parallel>, <Path>, </Path>, <Summary>, </Summary>"),
        ("cut", "cannot load a model from"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_before_it_is_trained(polythink, recipe, models, kind, name, said):
    run = recipe.parent / "run"
    status, _, err = polythink("train", recipe, f"model.path={models / name}", ONLY[kind], "--out", run)
    assert said in sentence(status, err)
    assert not (run / "only" / "metrics.jsonl").exists()
    assert not (run / "only" / "model").exists()


@pytest.mark.slow
def test_an_architecture_that_cannot_fork_or_be_made_is_refused(polythink, recipe):
    for architecture, said in (
        ("bloom", "(ALiBi)"),
        ("mamba2", "cannot make a 'mamba2' of that shape"),
        ("t5", "cannot make a 't5' of that shape"),
        ("qwen33", "did you mean 'qwen3'"),
    ):
        out = recipe.parent / architecture
        status, _, err = polythink("train", recipe, f"model.architecture={architecture}", ONLY["sft"], "--out", out)
        assert said in sentence(status, err)


# ---- a model of ours ----


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    shape = ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=48)
    lm = from_config(shape.model_copy(update={"tokenizer": "bytes", "max_position_embeddings": 64}), "parallel_r1")
    folder = tmp_path_factory.mktemp("ours")
    save(lm, folder, ModelSettings(decoding={"max_main_tokens": 20, "max_path_tokens": 9, "max_summary_tokens": 9}))
    return folder


@pytest.fixture
def sums(tmp_path) -> Path:
    write_jsonl(tmp_path / "sums.jsonl", [{"question": f"{i}+1", "answer": i + 1} for i in range(20)])
    return tmp_path / "sums.jsonl"


def test_a_prompt_that_leaves_no_room_is_refused(polythink, recipe, ours, tmp_path):
    status, _, err = polythink("generate", ours, "9" * 64)
    assert "the prompt has 64 tokens and the model's context holds 64" in sentence(status, err)
    write_jsonl(tmp_path / "long.jsonl", [{"question": q, "answer": 1} for q in ("1+0", "9" * 70)])
    evaluation = ("eval", ours, "--problems", tmp_path / "long.jsonl", "--samples", 1, "--out", tmp_path / "out")
    status, _, err = polythink(*evaluation, "--overlong", "refuse")
    assert "1 of the 2 problems of long cannot be asked: '1': the prompt has 70 tokens" in sentence(status, err)
    assert not (tmp_path / "out").exists()
    status, out, _ = polythink(*evaluation)
    assert status == 0
    assert (
        "note on long: 1 of 2 problems cannot be asked and were skipped; what is counted are the other 1 ('1': " in out
    )
    write_jsonl(tmp_path / "long.jsonl", [{"question": "9" * 70, "answer": 1}])
    status, _, err = polythink(*evaluation[:-1], tmp_path / "none")
    assert "none of the 1 problems of long can be asked" in sentence(status, err)
    assert not (tmp_path / "none").exists()
    training = ("train", recipe, ONLY["grpo"], "model.max_position_embeddings=4", "--out", tmp_path / "run")
    status, _, err = polythink(*training)
    assert "the model holds 4 positions" in sentence(status, err)


def test_an_evaluation_that_has_no_place_is_refused_before_it_is_drawn(polythink, ours, sums, monkeypatch):
    monkeypatch.setattr("polythink.engine.engine.Engine.generate", None)
    status, _, err = polythink("eval", ours, "--problems", sums, "--out", sums / "out")
    assert "cannot write" in sentence(status, err)


# ---- a full disk ----


@contextmanager
def full_disk(longest: int) -> Iterator[None]:
    """No file may become longer than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_evaluation_on_a_full_disk_goes_on_when_there_is_room(polythink, ours, sums, tmp_path):
    command = ("eval", ours, "--problems", sums, "--samples", 2, "--out")
    assert polythink(*command, tmp_path / "whole")[0] == 0
    with full_disk((tmp_path / "whole" / "samples.jsonl").stat().st_size // 2):
        status, _, err = polythink(*command, tmp_path / "out")
    assert sentence(status, err) == f"cannot write {tmp_path / 'out' / 'samples.partial.jsonl'}: File too large"
    assert content(tmp_path / "out").keys() == {"samples.partial.jsonl"}
    assert len(read_jsonl(tmp_path / "out" / "samples.partial.jsonl")) > 5
    assert polythink(*command, tmp_path / "out", "--resume")[0] == 0
    assert content(tmp_path / "out").keys() == {"eval.json", "samples.jsonl"}
    assert content(tmp_path / "out")["samples.jsonl"] == content(tmp_path / "whole")["samples.jsonl"]


USED = ("run/recipe.yaml", "out/eval.json", "out/samples.partial.jsonl", "notes/README", "model/config.json")


@pytest.mark.parametrize("file", USED)
def test_an_evaluation_writes_over_nothing(polythink, ours, sums, tmp_path, file):
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("mine")
    for more in ((), ("--resume",)) if file[:3] != "out" else ((),):
        status, _, err = polythink("eval", ours, "--problems", sums, "--out", (tmp_path / file).parent, *more)
        assert f"is in use: it holds {Path(file).name}; " in sentence(status, err)
        assert ("add --resume" in err) == (file[:3] == "out")
        assert ("nothing to resume" in err) == bool(more)
    assert content((tmp_path / file).parent) == {Path(file).name: b"mine"}


# ---- interrupted ----


def start_one(recipe: Path, out: Path, *options: str, fresh: bool = False) -> Forked | subprocess.Popen:
    """The program in a process and a group of its own: forked from this one, or a new interpreter."""
    arguments = ["train", str(recipe), "--out", str(out), *options]
    if not fresh:
        return Forked(*arguments)
    command = [sys.executable, "-c", "from polythink.cli.main import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def stop_at(process: Forked | subprocess.Popen, file: Path, lines: int, number: signal.Signals) -> tuple[int, str]:
    """Signal the program and all that it started, as Ctrl-C does, when the file has so many lines."""
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= lines):
        time.sleep(0.003)
    assert process.poll() is None, "it ended before it could be stopped"
    os.killpg(process.pid, number)
    return process.wait(60), process.communicate()[1]


def outcome(run: Path) -> tuple:
    """All that a run comes to, but for the times it took."""
    rows = [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for stage in ("sft", "rl")
        for row in read_jsonl(run / stage / "metrics.jsonl")
    ]
    files = ("start/kept.jsonl", "sft/model/model.safetensors", "rl/model/model.safetensors", "rl/samples.jsonl")
    samples = (run / "check" / "samples-countdown-mini-heldout.jsonl").read_bytes()
    return rows, [(run / name).read_bytes() for name in files], samples


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_run_that_is_stopped_again_and_again_comes_to_what_an_unstopped_one_does(polythink, recipe, whole, fresh):
    run = recipe.parent / "run"
    start = partial(start_one, fresh=fresh)
    interrupted = stop_at(start(recipe, run), run / "sft/metrics.jsonl", 6, signal.SIGINT)
    assert interrupted[0] == 130
    kept = (
        r"polythink: interrupted; stage 2 of 4, sft, is kept up to step (4|8|12) of 20; the same command with --resume"
    )
    assert re.fullmatch(kept + " goes on\n", interrupted[1])
    terminated = stop_at(start(recipe, run, "--resume"), run / "sft/metrics.jsonl", 14, signal.SIGTERM)
    assert terminated[0] == 143
    assert re.fullmatch(
        r"polythink: terminated; stage 2 of 4, sft, is kept up to step (12|16|20) of 20; .*\n", terminated[1]
    )
    killed = stop_at(start(recipe, run, "--resume"), run / "rl/metrics.jsonl", 3, signal.SIGKILL)
    assert killed == (-signal.SIGKILL, "")
    assert not (run / "rl" / "result.json").exists()
    status, _, err = polythink("train", recipe, "--out", run)
    assert "holds a run already; add --resume" in sentence(status, err)
    status, out, _ = polythink("train", recipe, "--out", run, "--resume")
    assert status == 0
    assert f"report: {run / 'report.html'}\nnext: polythink generate {run} " in out
    assert re.search(r"^\| countdown-mini-heldout +\| check +\| +[\d.]+% ", out, re.MULTILINE)
    assert outcome(run) == outcome(whole)


@pytest.mark.slow
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(polythink, recipe, whole):
    run = recipe.parent / "run"
    (checkpoint,) = (whole / "sft" / "checkpoint").glob("step-*/*.distcp")
    with full_disk(checkpoint.stat().st_size // 2):
        status, _, err = polythink("train", recipe, "--out", run)
    assert sentence(status, err) == f"cannot write {run / 'sft' / 'checkpoint' / 'step-000004'}: File too large"
    assert [row["step"] for row in read_jsonl(run / "sft" / "metrics.jsonl")] == [1, 2, 3, 4]
    assert {path.name for path in (run / "sft" / "checkpoint").iterdir()} == {"lock", "training.json"}
    assert read_json(run / "start" / "result.json")["table"] == read_json(whole / "start" / "result.json")["table"]
    assert polythink("train", recipe, "--out", run, "--resume")[0] == 0
    assert outcome(run) == outcome(whole)
