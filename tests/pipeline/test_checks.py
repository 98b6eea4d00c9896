"""What a stage would refuse is refused before the first stage runs, and by `--dry-run`."""

from __future__ import annotations

import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.smollm2 import tiny_model, tiny_tokenizer
from polythink.errors import UserError
from polythink.pipeline import requirements
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.pipeline.requirements import check_requirements
from polythink.run.config import dump_yaml
from polythink.run.folder import read_json, write_text

LATE = [
    ("countdown-smoke", ["decoding.top_p=0.9"], "stages.rl_easy: decoding: reinforcement learning samples from"),
    ("countdown-smoke", ["rl_hard.decoding.top_k=5"], "stages.rl_hard: decoding: reinforcement learning samples"),
    ("countdown-smoke", ["rl_easy.decoding={temperature: 0}"], "stages.rl_easy: decoding: reinforcement learning"),
    ("countdown-smoke", ["rl_easy.decoding={path_temperature: 0}"], "set temperatures above 0"),
    ("countdown-smoke", ["final.best_of=[2, 99]"], "stages.final: best_of 99 must be from 1 to the number of samples"),
    ("countdown-smoke", ["sft.steps=null", "sft.epochs=1"], "demonstrations have no end and so no epochs"),
    ("countdown-smoke", ["sft.trainable=thoughts"], "stages.sft: trainable: thoughts, but the model has no thought"),
    ("countdown-smoke", ["model.thought_embeddings=true"], "mark numbered paths, and the dialect parallel_r1"),
    ("countdown-smoke", ["prompt=parallel"], "words that model.tokenizer: countdown lacks, such as"),
    ("countdown-smoke", ["sft.data.1.prompt=sequential"], "stages.sft: the prompt sequential has"),
    ("countdown-smoke", ["dialect=parathinker", "rl_easy.reward=well_formed", "rl_hard.reward=accuracy"],
     "stages.rl_easy: reward: rule 'reference' is the checker published with Parallel-R1"),
    ("countdown-smoke", ["dialect=parathinker", "rl_hard.reward=accuracy",
      "rl_easy.reward={preset: accuracy, rule: reference, add: [{term: malformed, weight: -1}]}"],
     "stages.rl_easy: reward: rule 'reference' is the checker published with Parallel-R1"),
    ("countdown-smoke", ["coldstart.rule=reference", "dialect=parathinker"], "stages.coldstart: rule 'reference'"),
    ("countdown-smoke", ["coldstart.problems=[gsm8k]"], "solves countdown problems, not those of gsm8k"),
    (
        "countdown-smoke",
        ["coldstart.prompt=countdown_sequential"],
        "teacher.styles: the prompt countdown_sequential asks for sequential responses",
    ),
    ("countdown-smoke", ["coldstart.teacher.styles={parallel: 0}"], "weights of styles must be 0 or more"),
    ("countdown-smoke", ["coldstart.assemble={}"], "assembled traces answer in their summary"),
    ("countdown-smoke", ["dialect=parathinker:4", "coldstart.teacher.paths=5"], "teacher.paths: 5 paths are more than"),
    ("countdown-smoke", ["rl_easy.decoding={paths: 40}"], "max_trace_tokens=96 is shared by all paths, and a block"),
    ("countdown-smoke", ["model.tokenizer=countdwn"], "model.tokenizer: no tokenizer 'countdwn'; did you mean 'count"),
    ("countdown-smoke", ["coldstart.teacher.kind=attribution"], "attribution needs paths with numbers, dialect paral"),
    ("multiply-tiny", ["sft.data.0.demonstrations.paths=3"], "cannot be divided among 3 paths; give paths from 1 to"),
    ("multiply-tiny", ["sft.data.0.demonstrations.retries=1"], "of multiplication: only style and paths can be"),
    ("multiply-tiny", ["dialect=parallel_r1", "model.thought_embeddings=false"],
     "stages.sft: data.demonstrations: multiplication divides its work by the numbers of paths"),
    ("parathinker-tiny", ["prompt=parallel", "model.tokenizer=bytes"],
     "the prompt parallel explains the tags of the dialect parallel_r1, and the recipe has dialect: parathinker"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overrides", "said"), LATE, ids=lambda value: str(value)[:40])
def test_what_a_stage_would_refuse_is_refused_at_once(name, overrides, said):
    with pytest.raises(UserError) as error:
        load_recipe(name, overrides)
    assert said in str(error.value)


def test_budgets_below_every_demonstration_are_noted_before_anything_runs():
    (first, *_) = said = load_recipe("countdown-smoke", ["decoding.max_path_tokens=1"]).notes()
    assert first.startswith(
        "stages.after_sft samples paths of at most max_path_tokens=1 tokens, and those of the demon"
    )
    assert "stages.rl_easy" in " ".join(said)
    assert load_recipe("countdown-smoke").notes() == []
    assert load_recipe("countdown-smoke", ["decoding.max_path_tokens=1", "mode=sequential"]).notes() == []
    assert load_recipe("parathinker-tiny").notes() == []
    assert load_recipe("parathinker-tiny", ["decoding.max_path_tokens=2"]).notes()


def lacking(monkeypatch, *modules: str) -> None:
    monkeypatch.setattr(requirements, "installed", lambda module: module not in modules)


@pytest.mark.parametrize(
    ("name", "overrides", "missing", "said"),
    [
        ("translation-grammar", [], "sacrebleu", "sacrebleu for BLEU in "),
        ("translation-grammar", ["tokenizer={kind: bpe, size: 300}"], "sentencepiece", "tokenizer.kind: bpe in train"),
        ("translation-numbers", [], "num2words", "num2words for number words"),
        ("translation-wmt14-ende-eit", [], "datasets", "datasets for sets of the hub in train"),
        ("countdown-smoke", ["final.problems=[gsm8k]"], "datasets", "datasets for sets of the hub in final"),
        ("parallel-r1-tiny:unseen-lora", [], "peft", "peft for lora in rl_hard; "),
        ("countdown-smoke", ["sft.lora={}", "rl_easy.lora={r: 2}"], "peft", "peft for lora in sft, rl_easy; "),
    ],
)
def test_a_package_that_a_late_stage_needs_is_asked_for_first(monkeypatch, name, overrides, missing, said):
    monkeypatch.delenv("POLYTHINK_DATA", raising=False)
    plans = load_recipe(name, overrides).plan()
    lacking(monkeypatch)
    check_requirements(plans)
    lacking(monkeypatch, missing)
    with pytest.raises(UserError) as error:
        check_requirements(plans)
    assert said in str(error.value)
    assert f"pip install {missing}" in str(error.value)


def test_all_missing_packages_are_named_at_once(monkeypatch):
    lacking(monkeypatch, "sacrebleu", "sentencepiece")
    recipe = load_recipe("translation-grammar", ["tokenizer={kind: bpe, size: 300}"])
    with pytest.raises(UserError, match="pip install sentencepiece sacrebleu"):
        check_requirements(recipe.plan())


def test_a_set_that_lies_in_the_data_folder_needs_no_hub(monkeypatch, tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    monkeypatch.setenv("POLYTHINK_DATA", str(tmp_path))
    lacking(monkeypatch, "datasets")
    check_requirements(load_recipe("countdown-smoke", ["final.problems=[gsm8k]"]).plan())


def test_all_that_a_recipe_lacks_is_named_at_once(monkeypatch, tmp_path):
    """Packages, and sets that are on no hub, with what to do; what each sentence asks for is enough."""
    monkeypatch.delenv("POLYTHINK_DATA", raising=False)
    lacking(monkeypatch, "datasets")
    with pytest.raises(UserError) as error:
        check_requirements(load_recipe("parallel-r1-seen-qwen3-4b").plan())
    packages, sets = re.fullmatch(r"(.*names\)); (the set .*)", str(error.value)).groups()
    assert "datasets for sets of the hub in coldstart, rl_easy, rl_hard, eval; pip install datasets" in packages
    assert sets.startswith("the set math300 of eval_math is on no hub (what it is: polythink explain math300); ")
    assert "math300.parquet in POLYTHINK_DATA" in sets
    assert sets.endswith("leave it out: eval_math=null")
    lacking(monkeypatch)
    with pytest.raises(UserError, match=r"^the set math300 of eval_math is"):  # once, of arms with stages of one name
        check_requirements(2 * load_recipe("parallel-r1-seen-qwen3-4b").plan())
    for enough in ("eval_math=null", "eval_math.problems=[math500]"):
        check_requirements(load_recipe("parallel-r1-seen-qwen3-4b", [enough]).plan())
    (tmp_path / "math300.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    monkeypatch.setenv("POLYTHINK_DATA", str(tmp_path))
    check_requirements(load_recipe("parallel-r1-seen-qwen3-4b").plan())


def test_a_module_that_is_hidden_counts_as_missing(monkeypatch):
    assert requirements.installed("yaml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert not requirements.installed("yaml")
    assert not requirements.installed("no_such_module_anywhere")


# ---- the user's own files ----

OWN = """
name: own
model: {path: Qwen/Qwen3-0.6B}
stages:
  sft: {kind: sft, data: [{file: traces.jsonl, columns: {trace: response}}], epochs: 2, sample_problems: [asked.jsonl]}
  rl: {kind: grpo, problems: [problems.jsonl], reward: accuracy, steps: 50}
  eval: {kind: eval, problems: [test.parquet, gsm8k]}
"""
PROBLEM = '{"question": "1+1", "answer": "2"}\n'
FILES = {
    "own.yaml": OWN, "traces.jsonl": '{"question": "1+1", "response": "2"}\n', "asked.jsonl": PROBLEM,
    "problems.jsonl": PROBLEM, "gsm8k_test.jsonl": PROBLEM,
}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a recipe, and files of every kind that it names."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    pq.write_table(pa.Table.from_pylist([{"question": "1+1", "answer": "2"}]), tmp_path / "test.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYTHINK_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("traces.jsonl", "", "stages.sft.data: traces.jsonl holds no rows; every row needs a text question and a text"),
        (
            "traces.jsonl",
            '{"question": "1+1", "respons": "2"}',
            "stages.sft.data: traces.jsonl, line 1: no column 'resp",
        ),
        (
            "traces.jsonl",
            '{"query": "1+1", "response": "2"}',
            "stages.sft.data: traces.jsonl, row 1: every row needs a",
        ),
        ("traces.jsonl", '{"question": "1+1", "response": 2}', "row 1: every row needs a text trace; here it is 2"),
        ("asked.jsonl", '{"q": "1+1", "answer": "2"}', "stages.sft.sample_problems: row 0 of asked has no question"),
        ("problems.jsonl", "", "stages.rl.problems: problems holds no problems"),
        (
            "problems.jsonl",
            PROBLEM + '{"question": "1+2", "a": "3"}',
            "stages.rl.problems: row 1 of problems has no ans",
        ),
        ("test.parquet", "", "stages.eval.problems: cannot read test.parquet: "),
        ("gsm8k_test.jsonl", '{"q": "1+1", "a": "2"}', "stages.eval.problems: row 0 of gsm8k has no question"),
    ],
)
def test_a_file_that_a_late_stage_could_not_use_is_said_first(own, file, text, said):
    plans = load_recipe("own.yaml").plan()
    check_requirements(plans)
    (own / file).write_text(text)
    with pytest.raises(UserError) as error:
        check_requirements(plans)
    assert said in str(error.value)


def test_a_file_of_texts_is_looked_into_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "valid.tsv").write_text("\t\na\tb\n")  # an empty pair is dropped, not refused
    recipe = load_recipe("translation-grammar", ["train.valid=valid.tsv"])
    lacking(monkeypatch)
    check_requirements(recipe.plan())
    for text, said in (("", "valid.tsv has no pairs"), ("a b\n", "valid.tsv, line 1: must be source, tab, target")):
        (tmp_path / "valid.tsv").write_text(text)
        with pytest.raises(UserError, match=f"^stages.train.valid: {said}"):
            check_requirements(recipe.plan())


def test_a_file_is_read_once_however_many_stages_name_it(own, monkeypatch):
    read = []
    monkeypatch.setattr(requirements, "load_problems", lambda name: read.append(name))
    check_requirements(load_recipe("own.yaml", ["eval.problems=[problems.jsonl, asked.jsonl]"]).plan())
    assert read == ["asked.jsonl", "problems.jsonl"]


# ---- a model from elsewhere, whose tokenizer knows no tags ----


@pytest.fixture
def foreign(tmp_path) -> str:
    """A recipe in flat text alone, over such a model."""
    tokenizer = tiny_tokenizer()
    tiny_model(len(tokenizer)).save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    rl = {"kind": "grpo", "problems": ["countdown-easy:train"], "steps": 1, "prompts_per_step": 2, "group_size": 2}
    final = {"kind": "eval", "problems": ["countdown-easy"], "limit": 2, "samples": 1}
    whole = {
        "name": "flat", "mode": "sequential", "model": {"path": str(tmp_path / "hub")},
        "decoding": {"max_main_tokens": 8}, "stages": {"rl": {**rl, "reward": "accuracy"}, "final": final},
    }  # fmt: skip
    write_text(tmp_path / "flat.yaml", dump_yaml(whole))
    return str(tmp_path / "flat.yaml")


def test_a_recipe_in_flat_text_needs_no_tags(foreign, tmp_path):
    run_recipe(load_recipe(foreign), tmp_path / "out", log=lambda text: None)
    assert read_json(tmp_path / "out" / "final" / "result.json")["evaluations"]["countdown-easy"]["mean@1"] == 0
    assert "<Path>" not in (tmp_path / "out" / "rl" / "model" / "tokenizer.json").read_text()


def test_tags_that_a_late_stage_needs_are_asked_for_first(foreign, tmp_path):
    """The first stage, in flat text, would run to its end without them."""
    lacks = r"^stages\.final: the tokenizer does not hold <Parallel>.* set model\.add_tags: true"
    mixed = load_recipe(foreign, ["final.mode=structured"])
    with pytest.raises(UserError, match=lacks):
        run_recipe(mixed, tmp_path / "out", log=lambda text: None)
    assert not (tmp_path / "out").exists()
    check_requirements(load_recipe(foreign, ["final.mode=structured", "model.add_tags=true"]).plan())
    with pytest.raises(UserError, match=r"does not hold <Parallel>"):  # as before: by the first stage itself
        run_recipe(load_recipe(foreign, ["mode=structured"]), tmp_path / "out", log=lambda text: None)
