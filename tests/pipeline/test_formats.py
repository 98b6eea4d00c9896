"""Every format, and one made up here, through the whole program: fine-tuned, drawn, reinforced, evaluated, reported."""

from __future__ import annotations

import json

import pytest

from helpers.scribe import WORDS
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import save
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.run.folder import read_json, write_text
from polythink.run.jsonl import read_jsonl
from polythink.trace import DIALECTS, Block, Plan, Trace, render
from polythink.trace.dialect import get_dialect
from polythink.trace.production import Dialect, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.tokens import headings_of

GARDEN = Dialect(  # the one entry that a new format takes
    "garden",
    (
        Tag("[plant]"),
        PlanTags("[beds]", "[/beds]", item=("[bed]", "[/bed]")),
        PathTags("[row]", "[/row]", counted="outlines", heading="{id}:"),
        SummaryTags("[crop]", "[/crop]", answers=True),
        Tag("[/plant]", by="runtime"),
    ),
    source="this test",
)
RECIPE = """
name: formats
dialect: {dialect}
mode: {mode}
model: {{path: {model}}}
decoding:
  {{paths: 2, max_blocks: 2, max_main_tokens: 24, max_path_tokens: 10, max_summary_tokens: 8, max_trace_tokens: 160}}
stages:
  sft: {{kind: sft, data: [{{file: {rows}}}], steps: 70, batch: 4, lr: 5.0e-3}}
  rl:
    kind: grpo
    problems: [{problems}]
    reward: accuracy
    steps: 1
    prompts_per_step: 2
    group_size: 2
    drop_zero_spread: false
    lr: 1.0e-5
  final: {{kind: eval, problems: [{problems}], samples: 8}}
"""


@pytest.fixture
def garden(monkeypatch):
    monkeypatch.setitem(DIALECTS, GARDEN.name, GARDEN)
    return GARDEN


def written(dialect: Dialect, paths: int) -> str:
    """A trace of that format in the words of the model."""
    outlines = tuple(f" {i}: a " for i in range(1, paths + 1)) if dialect.declares_paths else ()
    plan = Plan("", outlines) if dialect.plan else None
    labels = dialect.draw_labels(paths, None)
    block = Block((Trace((" a b ",)),) * paths, Trace((" c ",)) if dialect.summary else Trace(), labels, plan)
    headed = tuple(Trace((f"{heading} a b ",)) for heading in headings_of(block, dialect))
    return render(Trace((Block(headed, block.summary, labels, plan), " b ")), dialect)


FORMATS = ["parallel_r1", "parathinker", "multiverse", "npr", "threadweaver", "garden"]
# a plan that nests, a plan that counts; numbered paths (test_runners_parathinker.py) and plain ones are those of whole
# recipes; the rest in long tests
ALWAYS = [("multiverse", "structured"), ("garden", "reread")]
EACH = [(name, mode) for mode in ("structured", "reread") for name in FORMATS]
CASES = [case if case in ALWAYS else pytest.param(*case, marks=pytest.mark.long) for case in EACH]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_format_is_trained_drawn_and_reported(name, mode, garden, tmp_path):
    dialect = get_dialect(name)
    rows = [{"question": "a b", "trace": written(dialect, 2)}, {"question": "b c", "trace": written(dialect, 3)}]
    problems = [{"id": f"p{i}", "problem": text, "answer": "1"} for i, text in enumerate(("a b", "c a b"))]
    for file, lines in {"rows": rows, "problems": problems}.items():
        write_text(tmp_path / f"{file}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    save(from_config(ModelConfig(num_hidden_layers=2), name, WORDS), tmp_path / "model")
    places = {key: tmp_path / f"{key}.jsonl" for key in ("rows", "problems")}
    write_text(tmp_path / "formats.yaml", RECIPE.format(dialect=name, mode=mode, model=tmp_path / "model", **places))
    run = tmp_path / "run"
    run_recipe(load_recipe(tmp_path / "formats.yaml", []), run, log=lambda line: None)
    assert read_json(run / "sft" / "result.json")["dropped"] == {}
    (step,) = read_jsonl(run / "rl" / "metrics.jsonl")
    assert 0 <= step["logprob_gap"] < 1e-4
    samples = [row for file in (run / "final").glob("*samples*.jsonl") for row in read_jsonl(file)]
    drawn = [row for row in samples if row["complete_blocks"]]
    assert drawn, "no block was drawn"
    if dialect.declares_paths:
        for row in drawn:
            declared = row["segments"][0]["text"].count(dialect.plan.item[1])
            assert declared == sum(s["kind"] == "path" and s["block"] == 0 for s in row["segments"])
    page = (run / "report.html").read_text()
    assert name in page
