r"""Real text in a report: prose and mathematics, long paths, what means harm, many samples, curves over tokens."""

from __future__ import annotations

import json
import random
import re
from xml.etree import ElementTree

import pyarrow.parquet
import pytest

from helpers.prose_runs import (
    HOSTILE,
    SENTENCES,
    block_text,
    hostile_text,
    prose_rows,
    sample,
    trained_run,
    write_evaluation,
)
from helpers.report_page import no_charts, outline  # noqa: F401
from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.report import samples
from polythink.report.fork_drawing import Card, Fork
from polythink.report.fork_html import trace_html
from polythink.report.page import switched
from polythink.report.plots import PANELS, arms_chart, stage_chart
from polythink.report.prose import FOLDED, MOST_CHARACTERS, SPARE, is_prose, text_html, visible, words_html
from polythink.report.report import compare_report, write_report
from polythink.report.runs import Stage
from polythink.run.folder import write_json
from polythink.run.jsonl import read_jsonl, write_jsonl

# ---- text ----


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("so $x^2 < 4$ holds", "so <code>$x^2 &lt; 4$</code> holds"),
        (r"\(a + b\) and \[ c \]", r"<code>\(a + b\)</code> and <code>\[ c \]</code>"),
        ("$$\n\\frac12\n$$", "<code>$$\n\\frac12\n$$</code>"),
        ("She has $5 and $6, and paid $3/$4.", None),  # money
        ("from $48.00/2 = $24.00 to 10", None),
        ("an open $x and \\( y and \\[ z and $$ w", None),
        ("48/2=<<48/2=24>>24", "48/2=<code>&lt;&lt;48/2=24&gt;&gt;</code>24"),
        ("```python\nif a < b:\n```\nok", "<code>```python\nif a &lt; b:\n```</code>\nok"),
        ("Final Answer: 42", 'Final Answer: <span class="boxed">42</span>'),
        ("**Final Answer:** **1/2** ", '**Final Answer:** **<span class="boxed">1/2</span>** '),
        ("Final Answer: $42$", 'Final Answer: <code><span class="boxed">$42$</span></code>'),
        (r"Final Answer: \boxed{42}", 'Final Answer: <span class="boxed">42</span>'),
        ("Final Answer:", None),
        (r"$\boxed{ \frac{1}{2} }$.", r'<code>$<span class="boxed">\frac{1}{2}</span>$</code>.'),
        (r"\boxed{}", '<span class="boxed"></span>'),
        (r"\boxed{ }}", '<span class="boxed"></span>}'),
    ],
)  # fmt: skip
def test_mathematics_and_answers_are_marked(text, shown):
    assert text_html(text) == (text.replace("&", "&amp;") if shown is None else shown)


@pytest.mark.parametrize(
    "text", [*HOSTILE, "\\boxed{" * 500 + "}" * 500, "$a$ \\(b\\) " * 200, "``` $x ``` \\boxed{``` y}"]
)
def test_whatever_the_text_the_html_is_whole_and_says_all_of_it(text):
    text = visible(text).replace("\r", "")
    found = ElementTree.fromstring(f"<p>{text_html(text)}</p>")  # balanced
    assert {element.tag for element in found.iter()} <= {"p", "code", "span"}

    def bare(said: str) -> str:  # a box is shown without its command, and without the space within it
        return re.sub(r"\\boxed\{|[{}\s]", "", said)

    assert bare("".join(found.itertext())) == bare(text)


def test_false_results_within_mathematics_are_struck_through():
    assert text_html("$1 + 1 = 3$", [(9, 10)]) == "<code>$1 + 1 = <s>3</s>$</code>"


def test_a_long_text_is_folded_and_a_very_long_one_is_cut():
    line = "twelve short words are here so that this is one line of text. "
    for abreast, lines in ((1, 20), (5, 8)):
        assert "fold" in words_html(line * lines, abreast=abreast)
    assert "fold" not in words_html(line * 4)
    assert "fold" not in words_html("a\n" * (FOLDED + SPARE - 1) + "a")
    assert "show all 12 words" in words_html("a\n" * (FOLDED + SPARE) + "a")
    assert "show all 30,000 characters" in words_html("x" * 30_000)
    html = words_html("x" * MOST_CHARACTERS + "y" * 1234)
    assert "and 1,234 more characters" in html
    assert "y" * 9 not in html
    assert "x" * MOST_CHARACTERS in html, "what is folded is on the page, where a search finds it"


def test_chains_of_arithmetic_keep_their_look():
    assert not is_prose("9 + 7 = 16 - 5 = 11 - 9 = 2 no, 9 + 7 = 16 ok")
    assert is_prose("The six pets with four legs must be from dogs and cats, as snakes have no legs.")
    plain, prose = ([Fork([[Card("path", text, 1)]], [])] for text in ("1 + 1 = 2", "word " * 12))
    assert "prose" not in trace_html(plain)
    assert 'class="trace prose"' in trace_html(prose)


# ---- the page ----


@pytest.fixture(scope="module")
def hostile_rows() -> list[dict]:
    return [row for n in (1, 3, 8) for row in prose_rows(1, 2, n, 400, seed=n, hostile=True)]


def test_hostile_text_does_not_leave_its_place(hostile_rows, tmp_path):
    rows = [
        *hostile_rows,
        {**hostile_rows[0], "problem": '"><script>', "question": HOSTILE[0], "extracted": "<b>" * 99},
    ]
    found = outline(write_report(write_evaluation(tmp_path, hostile_rows, 3, 2, rows)))
    assert found.heads == [tmp_path.name, "Results", "Traces"]
    assert found.counts["article"] == 7
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3]):
        assert text in found.text
    assert "\x00" not in found.text


def test_paths_say_their_own_answers(tmp_path):
    problem = Problem("p", "How many?", "42")
    with Grader() as grader:
        said = ("It is \\boxed{42}.", "So Final Answer: 41", "I do not know.", "It is \\boxed{7}.")
        text = block_text([*(f"{SENTENCES[0]} {text}" for text in said[:3]), said[3]], "42")
        row = sample(problem, text, 0, grader)
    assert [segment.get("answer") for segment in row["segments"] if segment["kind"] == "path"] == [
        "42",
        "41",
        None,
        "7",
    ]
    html = samples.filtered("x", [samples._drawn(row)])
    assert "✓ right: 42" in html
    assert "✗ wrong: 41" in html
    assert "✗ wrong<" in html, "that of a short path is seen without"
    assert html.count('class="card path right"') == html.count('class="card path"') == 1
    assert html.count('class="card path wrong"') == 2


def test_two_thousand_samples_are_bounded_and_said(tmp_path):
    few = prose_rows(1, 4, 2, 20)
    verdicts = ("right", "wrong", "unparsed")
    rows = [{**row, "problem": f"word-{i}", "verdict": verdicts[i % 3]} for i in range(500) for row in few]
    page = write_report(write_evaluation(tmp_path, few, 1, 4, rows))
    found = outline(page)
    assert found.counts["article"] == samples.MOST_SAMPLES
    assert "60 of 2,000 samples" in found.text
    assert page.stat().st_size < 1_000_000
    text = hostile_text(1000, random.Random(1)) * 8
    long = [{**row, "segments": [{"kind": "main", "text": text}] * 8} for row in rows[:40]]
    page = write_report(write_evaluation(tmp_path, few, 1, 4, long))
    n = samples.MOST_TEXT // (8 * MOST_CHARACTERS)
    assert len(text) > MOST_CHARACTERS
    assert outline(page).counts["article"] == n
    assert f"{n} of 40 samples" in page.read_text(encoding="utf-8")
    assert page.stat().st_size < 4_000_000


def test_samples_are_joined_by_others_of_their_problems():
    rows = [{"problem": f"p{i % 30}", "verdict": "right", "sample": i // 30} for i in range(300)]
    chosen = samples.choose_with_siblings(rows, 60)
    problems = [row["problem"] for row in chosen]
    assert len(chosen) == 60
    assert len({(row["problem"], row["sample"]) for row in chosen}) == 60
    assert len(set(problems)) == samples.OF_EACH
    assert samples.choose_with_siblings(rows[:9], 60) == rows[:9]
    assert len(samples.choose_with_siblings(rows, 6)) == 6


def test_what_was_written_while_training_is_shown_by_step(no_charts, tmp_path):  # noqa: F811
    run = trained_run(tmp_path / "run", prose_rows(2, 2, 2, 30))
    found = outline(write_report(run))
    assert found.heads[-2:] == ["Traces", "Samples while training"]
    before, after = found.text.split("Samples while training")
    assert "8 of 8 samples of stage sft" in after
    assert [f"step {step} " in after for step in (10, 20, 30, 40)] == [True] * 4
    assert "step 10" not in before
    assert "sft/samples.jsonl" in found.links
    rows = [{"step": step, "n": n} for step in range(1, 101) for n in range(9)]
    spread = samples.spread_over_steps(rows)
    assert [row["step"] for row in spread] == samples.A_STEP * [1, 100, 41, 21, 60, 80], "in order of choice"
    assert samples.spread_over_steps(rows[:3]) == rows[: samples.A_STEP]
    assert samples.spread_over_steps([]) == []


def long_row(problem, verdict, **more):
    paths = [{"kind": "path", "label": k, "text": "x" * 40_000, "right": verdict == "right"} for k in range(1, 9)]
    return {"problem": problem, "verdict": verdict, "blocks": 1, "segments": paths, **more}


def test_a_page_without_room_keeps_every_outcome(tmp_path):
    rows = [long_row(f"p{i}", "wrong" if (i + s) % 3 else "right") for i in range(30) for s in range(4)]
    kept = [row["verdict"] for row in samples.within_text(samples.choose_with_siblings(rows, 60))]
    assert len(kept) < 60
    assert abs(kept.count("right") - kept.count("wrong")) <= 1


def test_a_page_without_room_keeps_the_last_step():
    rows = [long_row("p", "right", step=step) for step in range(1, 101) for _ in range(2)]
    kept = [row["step"] for row in samples.within_text(samples.spread_over_steps(rows), 8 * MOST_CHARACTERS * 3)]
    assert kept == [1, 100, 41]


# ---- steps and tokens ----


def test_curves_are_drawn_over_tokens_too(no_charts, tmp_path):  # noqa: F811
    found = outline(write_report(trained_run(tmp_path / "run", prose_rows(1, 1, 2, 30))))
    assert found.text.count("by step") == 2
    assert "by tokens trained on" in found.text
    assert "by tokens sampled" in found.text
    assert switched("a", {"only": "<p>x</p>"}) == "<p>x</p>"


def test_the_axis_of_an_older_run_says_what_it_counts(no_charts, tmp_path):  # noqa: F811
    runs = {arm: [trained_run(tmp_path / arm, prose_rows(1, 1, 2, 30))] for arm in ("a", "b")}
    metrics = runs["b"][0] / "rl" / "metrics.jsonl"
    older = [{key: row[key] for key in row if key != "sampled_tokens"} for row in read_jsonl(metrics)]
    metrics.unlink()
    write_jsonl(metrics, older)
    for page in (write_report(runs["b"][0]), compare_report("Two", runs, tmp_path / "two.html")):
        found = outline(page).text
        assert "by tokens of whole responses" in found
        assert "by tokens sampled" not in found


def test_tokens_are_counted_from_the_rows(tmp_path, monkeypatch):
    rows = [{"step": s, "loss": 1 / s, "tokens": 10 * s} for s in (1, 2, 3)]
    assert Stage("s", "sft", tmp_path, rows, {}, {}).series("loss", "tokens") == ([10, 30, 60], [1, 1 / 2, 1 / 3])
    planned = {"stage": {"prompts_per_step": 2, "group_size": 4}}
    rows = [
        {"step": s, "reward": s, "sampled_tokens": 5, "tokens": 9, "gen_batches": s, "reward_name": f"{s > 1}"}
        for s in (1, 2)
    ]
    stage = Stage("r", "grpo", tmp_path, rows, {}, {}, plan=planned)
    assert stage.series("reward", "tokens sampled") == ([40, 120], [1, 2])
    assert stage.places("tokens of whole responses") == [72, 216]
    assert Stage("r", "grpo", tmp_path, rows, {}, {}).places("tokens") == [], "the plan of an old run is not known"
    assert Stage("r", "sft", tmp_path, [*rows, {"step": 3}], {}, {}).places("tokens") == []
    svg = stage_chart(stage, PANELS["grpo"][0], "tokens sampled")
    assert ">tokens sampled</text>" in svg
    twice = Stage("r", "grpo", tmp_path, [{**row, "sampled_tokens": 15} for row in rows], {}, {}, plan=planned)
    seen = []
    monkeypatch.setattr("polythink.report.plots.chart", lambda lines, panel: seen.extend(lines))
    arms_chart({"a": [stage, twice]}, PANELS["grpo"][0], "tokens sampled")
    assert [(list(line.steps), list(line.values)) for line in seen] == [
        ([40, 120], [1, 2]), ([120, 360], [1, 2]), ([80, 240], [1, 2])
    ]  # fmt: skip


def test_arms_are_compared_over_tokens(no_charts, tmp_path):  # noqa: F811
    runs = {arm: [trained_run(tmp_path / arm, prose_rows(1, 1, 2, 30))] for arm in ("a", "b")}
    found = outline(compare_report("Two", runs, tmp_path / "two.html"))
    assert found.text.count("by tokens sampled") == 1
    (runs["b"][0] / "rl" / "stage.json").unlink()
    assert "by tokens sampled" not in outline(compare_report("Two", runs, tmp_path / "two.html")).text


# ---- files that no run wrote ----


@pytest.mark.parametrize("name", ["result.json", "stage.json", "eval.json", "compare.json", "environment.json"])
@pytest.mark.parametrize("content", [3.5, [1, 2], "text", None])
def test_a_file_that_holds_no_object_is_one_sentence(tmp_path, name, content):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{name} holds .+, not an object"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_stages_and_recipes_that_are_none_are_one_sentence(tmp_path):
    write_json(tmp_path / "stages.json", {"a": 1})
    with pytest.raises(UserError, match=r"stages\.json holds .*, not a list of stages"):
        write_report(tmp_path)
    write_json(tmp_path / "stages.json", ["a"])
    with pytest.raises(UserError, match=r"stages\.json holds .*, not a list of stages"):
        write_report(tmp_path)
    (tmp_path / "stages.json").unlink()
    (tmp_path / "recipe.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        write_report(tmp_path)


# ---- real traces ----


def test_real_traces_read_well(shared_data, tmp_path):
    table = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet").to_pylist()[:60]
    with Grader() as grader:
        rows = [
            sample(Problem(f"g{i}", r["question"], r["answer"]), r["trace_compact"], 0, grader)
            for i, r in enumerate(table)
        ]
    page = write_report(write_evaluation(tmp_path, rows, 60, 1))
    found = outline(page)
    assert found.counts["article"] == 60
    html = page.read_text(encoding="utf-8")
    assert html.count('class="trace prose"') == 60
    assert html.count('class="card path') == sum(s["kind"] == "path" for row in rows for s in row["segments"])
    assert html.count('<span class="boxed">') >= 60, "every final answer is marked"
    assert page.stat().st_size < 600_000
