"""ParaThinker through the stages: fine-tuning on numbered and cut paths, reinforcement learning, evaluation."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from polythink.engine.params import SamplingParams
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import load
from polythink.models.thoughts import thoughts_of
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import problems
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.assemble import Assembler, Solutions
from polythink.trace.dialect import get_dialect
from polythink.trace.parse import TraceError
from polythink.train.data import Demonstrations, TraceEncoder
from polythink.train.data_keys import DataConfig

SMALL = [
    "model.hidden_size=32", "model.num_hidden_layers=2", "model.num_attention_heads=2", "model.head_dim=16",
    "model.intermediate_size=48", "base.steps=2", "base.batch=8", "sft.steps=3", "sft.batch=16", "before.limit=3",
    "before.samples=1", "rl.steps=2", "rl.prompts_per_step=3", "rl.group_size=2", "after.limit=3", "after.samples=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("parathinker") / "run"
    run_recipe(load_recipe("parathinker-rl-tiny", SMALL), out, log=lambda text: None)
    return out


def test_every_stage_runs_and_drawing_equals_training(run):
    rows = read_jsonl(run / "rl" / "metrics.jsonl")
    assert len(rows) == 2
    assert max(row["logprob_gap"] for row in rows) < 1e-4
    assert (run / "report.html").is_file()
    (row, *_) = read_jsonl(run / "after" / "samples-countdown-hard-heldout.jsonl")
    assert [s["label"] for s in row["segments"] if s["kind"] == "path"] == [1, 2, 3, 4]


def test_the_model_knows_its_embeddings_and_how_many_paths_it_has_seen(run):
    lm = load(run / "rl" / "model")
    assert (lm.settings.thoughts, lm.settings.trained_paths, lm.settings.dialect) == (16, 4, "parathinker")
    before, after = (thoughts_of(load(run / name / "model").model).table for name in ("base", "sft"))
    assert torch.count_nonzero(before[:, 1:]) == 0  # sequential traces have no paths
    assert torch.count_nonzero(after[:, 1:]) > 0
    assert "trained_paths" in read_json(run / "rl" / "model" / "polythink.json")


def layouts(lm, n: int, early_join: float = 0.0, **demonstrations):
    config = DataConfig(problems="countdown-hard:train", weight=1, early_join=early_join, demonstrations=demonstrations)
    encode = TraceEncoder(lm, SamplingParams(), get_prompt("countdown_parallel"))
    source = Demonstrations(problems("hard", "train", limit=50), config, encode, seed=0, max_tokens=4096)
    return [source.layout(i) for i in range(n)], source


def test_the_asked_share_of_traces_is_cut_where_the_first_path_is_through(run):
    lm = load(run / "base" / "model")
    found, source = layouts(lm, 200, paths=[3, 4], retries=2, p_right=0.3, early_join=0.5)
    assert source.most_paths == 4
    closing = {lm.tag_ids[tag] for tag in lm.dialect.tags[1::2]}
    cut = Counter()
    for layout in found:
        paths = [s for s, kind in enumerate(layout.kinds) if kind == "path"]
        lengths = [int((layout.segment == s).sum()) for s in paths]
        forced = [bool(~layout.sampled[layout.segment == s][-1]) for s in paths]
        assert all(int(layout.tokens[layout.segment == s][-1]) in closing for s in paths)
        if any(forced):
            assert {n for n, f in zip(lengths, forced, strict=True) if f} == {min(lengths) + 1}
        cut[any(forced)] += 1
    whole, _ = layouts(lm, 200, paths=[3, 4], retries=2, p_right=0.3)
    uneven = sum(len({int((x.segment == s).sum()) for s, k in enumerate(x.kinds) if k == "path"}) > 1 for x in whole)
    assert 0.35 * uneven < cut[True] < 0.65 * uneven  # where all paths are equally long there is nothing to cut


def test_numbers_are_drawn_from_the_whole_inventory(run):
    lm = load(run / "base" / "model")
    found, _ = layouts(lm, 100, paths=[2, 3])
    assert {label for layout in found for label in layout.labels} == set(range(17))
    ordered, _ = layouts(lm, 20, paths=3, labels="ordered")
    assert {layout.labels[1:4] for layout in ordered} == {(1, 2, 3)}


@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        ({"summary_prefix": "no"}, "summary_prefix"),
        ({"path_position_stride": "auto", "max_path_tokens": 4}, "long_path"),
    ],
)
def test_what_the_engine_would_write_elsewhere_is_not_trained_on(run, decoding, reason):
    lm = load(run / "base" / "model")
    trace = "<think1> 9 - 8 = 1 ok </think1><summary> \\boxed{ 9 - 8 } </summary>"
    encode = TraceEncoder(lm, SamplingParams(), get_prompt("countdown_parallel"))
    assert len(encode("9 8 -> 1", trace)) > 10
    encode = TraceEncoder(lm, SamplingParams(**decoding), get_prompt("countdown_parallel"))
    with pytest.raises(TraceError) as error:
        encode("9 8 -> 1", trace)
    assert error.value.reason == reason
    encode.in_mode("sequential")("9 8 -> 1", trace)


def test_solutions_of_a_teacher_begin_their_summary_as_drawing_does(tmp_path):
    """The plan of the published recipe: what is forced at a join is what stands there in training."""
    plan, sft = load_recipe("parathinker-deepseek-1.5b").plan()[:2]
    problem = Problem("p", "1 + 1?", "2", source="sums")
    solutions = Solutions(problem, right=[f"way {i}: \\boxed{{2}}" for i in range(6)])
    dialect = get_dialect(plan.dialect)
    trace = Assembler([solutions], plan.stage.assemble, dialect)(problem, "", 0)
    lm = from_config(ModelConfig(hidden_size=16, num_hidden_layers=1, tokenizer="bytes"), plan.dialect)
    encode = TraceEncoder(lm, sft.decoding, get_prompt("none"))
    layout = encode(problem.question, trace)
    summary = layout.segment == layout.kinds.index("summary")
    forced = lm.decode(layout.tokens[summary & ~layout.sampled].tolist())
    assert forced == f"<summary>{sft.decoding.summary_prefix}"
