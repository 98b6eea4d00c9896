"""The comparison: every arm's arithmetic on hand-made rollouts, re-prefill token by token, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.compare import CompareConfig, compare, flat_prompt, reread, sequential_budget
from polythink.evaluate.methods import chosen, from_paths, summarised
from polythink.evaluate.metrics import Metric, expected_max, interval, read_measures, write_measures
from polythink.evaluate.run import grade_rollouts
from polythink.evaluate.study import (
    Bench,
    Drawn,
    in_sequence,
    numbers_of_paths,
    with_fixed_path_temperature,
    with_paths,
)
from polythink.evaluate.votes import Paths, paths_of
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.report.findings import ARMS, comparison_section, comparison_table
from polythink.run.folder import read_json, read_jsonl
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, get_dialect
from polythink.trace.rollout import Rollout, Segment

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
BUDGETS = dict(paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80)
SEVEN = Problem("p", "3 + 4?", "7")
CHAIN = Problem("c", "9 8 5 -> 5", "9 - 8 * 5", checker="countdown")


def response(paths: list[str], summary: str, lengths: list[int], problem: Problem = SEVEN, sample: int = 0) -> Rollout:
    """A ParaThinker response whose paths have so many tokens, and its summary 4; 2 tokens of main text behind it."""

    def segment(kind: str, path: int, text: str, n: int) -> Segment:
        block = -1 if kind == "main" else 0
        return Segment(kind, block, path, [5] * n, [True] * n, [-0.5] * n, finish_reason="tag", label=path, text=text)

    segments = [
        segment("path", i, f"<think{i}>{text}</think{i}>", n)
        for i, (text, n) in enumerate(zip(paths, lengths, strict=True), start=1)
    ]
    segments += [segment("summary", 0, f"<summary>{summary}</summary>", 4), segment("main", 0, "", 2)]
    return Rollout(problem.key, sample, "structured", (1, 2, 3), segments)


def without_block(problem: str, sample: int, text: str) -> Rollout:
    """A response of three tokens of main text."""
    only = Segment("main", -1, 0, [5] * 3, [True] * 3, [-0.5] * 3, finish_reason="eos", text=text)
    return Rollout(problem, sample, "structured", (1, 2, 3), [only])


def graded(rollouts: list[Rollout], *asked: Problem) -> tuple[list[dict], list[Paths]]:
    with Grader(dialect=PARATHINKER) as grader:
        rows = grade_rollouts(rollouts, ProblemSet("mine", asked), grader, PARATHINKER)
        by_key = {problem.key: problem for problem in asked}
        return rows, [
            paths_of(row, rollout, by_key[rollout.problem], grader) for row, rollout in zip(rows, rollouts, strict=True)
        ]


# ---- arithmetic by hand ----


def test_the_paths_of_a_response_and_what_they_cost() -> None:
    said = [r"it is \boxed{7}", "Final Answer: 8", r"\boxed{ 8 }", "no idea", r"so \boxed{7.}"]
    rows, (paths,) = graded([response(said, r"\boxed{8}", [5, 9, 3, 2, 4])], SEVEN)
    assert paths.votes == ("7", "8", "8", None, "7")
    assert paths.right == (True, False, False, False, True)
    assert paths.marked is None
    assert (paths.tokens, paths.critical_path) == (23, 9)
    assert (rows[0]["tokens"], rows[0]["critical_path"]) == (29, 15)
    assert paths.majority == 0.5, "two votes for each of two answers: a tie is worth its share"


@pytest.mark.parametrize(
    ("votes", "right", "majority"),
    [
        ("778", (1, 1, 0), 1),
        ("788", (1, 0, 0), 0),
        ("789", (1, 0, 0), 1 / 3),
        ("7788", (1, 1, 0, 0), 1 / 2),
        ([None, None, "7"], (0, 0, 1), 1),
        ([None, None], (0, 0), 0),
        ("77889", (1, 1, 0, 0, 0), 1 / 2),
        (["7", "7.0", "8"], (1, 1, 0), 2 / 3),  # two spellings of the right answer, each tied with the wrong one
    ],
)
def test_ties_count_their_share(votes, right, majority) -> None:
    paths = Paths(tuple(votes), tuple(map(bool, right)), None, 1, 1)
    assert paths.majority == pytest.approx(majority)


def test_chains_are_chosen_by_their_own_mark() -> None:
    good, bad, liar = "9 - 8 = 1 * 5 = 5 ok", "9 + 8 = 17 - 5 = 12 no", "9 + 8 = 17 - 5 = 5 ok"
    box = r"\boxed{ 9 - 8 * 5 }"
    rollouts = [
        response([f" {text} " for text in paths], box, [10] * len(paths), CHAIN, i)
        for i, paths in enumerate([[bad, good, bad], [good, liar], [bad, bad], [bad]])
    ]
    rows, found = graded(rollouts, CHAIN)
    assert [p.marked for p in found] == [(False, True, False), (True, True), (False, False), (False,)]
    assert [p.by_mark for p in found] == [1, 0.5, 0, 0]
    assert [p.majority for p in found] == [0, 0.5, 0, 0]
    arms = {arm.name: arm for arm in from_paths(3, rows, found)}
    assert {name: arm.accuracy.value for name, arm in arms.items()} == {
        "majority_paths": 0.125, "marked_path": 0.375, "oracle": 0.5
    }  # fmt: skip
    assert arms["oracle"].tokens.value == 10 * (3 + 2 + 2 + 1) / 4
    assert arms["oracle"].critical_path.value == 10
    assert arms["oracle"].seconds is None


def test_a_summary_is_right_given_a_right_path() -> None:
    other = Problem("q", "1 + 1?", "2")
    rollouts = [
        response([r"\boxed{7}", r"\boxed{8}"], r"\boxed{7}", [4, 6]),  # right, and a right path
        response([r"\boxed{7}", r"\boxed{8}"], r"\boxed{8}", [4, 6], sample=1),  # wrong, with a right path
        response([r"\boxed{3}", r"\boxed{8}"], r"\boxed{2}", [5, 5], other),  # right without one
        without_block("q", 1, r"\boxed{2}"),
    ]
    rows, found = graded(rollouts, SEVEN, other)
    arm = summarised("parallel", 2, Drawn(rows, rollouts, 2.0, 100), found)
    assert arm.accuracy.numerator.tolist() == [0.5, 1.0]
    assert (arm.right_path.value, arm.summary_right.value) == (2 / 3, 1 / 2)
    assert (arm.seconds, arm.forwarded) == (0.5, 25)
    assert arm.tokens.numerator.tolist() == [16, (16 + 3) / 2]
    assert arm.critical_path.numerator.tolist() == [12, (11 + 3) / 2]
    alone = found[3]
    assert (alone.block, alone.votes, alone.right, alone.tokens) == (False, ("2",), (True,), 3)
    oracle = next(arm for arm in from_paths(2, rows, found) if arm.name == "oracle")
    assert oracle.accuracy.numerator.tolist() == [1, 0.5], "without a block the response is its own only path"


def row(problem: str, answer: str | None, right: bool, tokens: int, marked: bool | None = None) -> dict:
    own = {} if marked is None else {"marked": marked}
    verdict = "right" if right else "wrong"
    return {
        "problem": problem,
        "extracted": answer,
        "verdict": verdict,
        "tokens": tokens,
        "critical_path": tokens,
    } | own


def test_sequential_responses_are_chosen_from_a_pool() -> None:
    pool = {"p": [row("p", "7", True, 10), row("p", "8", False, 20), row("p", "8", False, 30)]}
    two = chosen("majority_sequential", 2, 2, pool, (0.25, 40.0))
    assert two.accuracy.value == pytest.approx((0.5 + 0.5 + 0) / 3), "pairs: 7-8, 7-8, 8-8"
    assert two.tokens.value == 40
    assert two.critical_path.value == pytest.approx((20 + 30 + 30) / 3)
    assert (two.seconds, two.forwarded, two.responses) == (0.5, 80, 2)
    one = chosen("sequential", 1, 1, pool, (0.25, 40.0))
    assert (one.accuracy.value, one.tokens.value) == (pytest.approx(1 / 3), 20)
    marked = {"p": [row("p", "7", True, 10, True), row("p", "8", False, 20, False), row("p", "8", False, 30, False)]}
    by_mark = chosen("sequential_tokens", 2, 2, marked, (0.25, 40.0))
    assert by_mark.accuracy.value == pytest.approx(2 / 3), "two of three pairs hold the marked one"
    assert chosen("majority_sequential", 2, 2, marked, (0, 0)).accuracy.value == pytest.approx(1 / 3)


def test_the_longest_of_k_is_that_of_all_subsets() -> None:
    from itertools import combinations

    values = [3, 1, 4, 1, 5]
    for k in range(1, 6):
        everything = [max(subset) for subset in combinations(values, k)]
        assert expected_max(values, k) == pytest.approx(sum(everything) / len(everything))


def test_measures_survive_their_file(tmp_path) -> None:
    found = {
        "a@2": Metric(("p", "q"), np.array([0.5, 1.0]), np.ones(2)),
        "b@0.1": Metric(("q",), np.array([2.0]), np.array([3.0])),
    }
    write_measures(tmp_path / "m.jsonl", found)
    again = read_measures(tmp_path / "m.jsonl")
    assert list(again) == list(found)
    for name, measure in found.items():
        assert again[name].keys == measure.keys
        assert interval(again[name]) == interval(measure)


# ---- decodings ----


def test_every_path_keeps_its_budget() -> None:
    decoding = SamplingParams(**{**BUDGETS, "paths": 4, "max_path_tokens": 10, "max_trace_tokens": 70})
    for paths, tokens in ((16, None), (4, None), (8, 5)):
        wide = with_paths(decoding, paths, tokens)
        assert (wide.paths, wide.max_path_tokens) == (paths, tokens or 10)
        assert wide.max_trace_tokens >= 8 + paths * (wide.max_path_tokens + 2) + 6
    assert with_paths(decoding.model_copy(update={"max_trace_tokens": 5000}), 16).max_trace_tokens == 5000
    flat = decoding.model_copy(update={"path_position_stride": "auto"})
    assert [with_paths(flat, *asked).stride for asked in ((16,), (8, 5), (2, 30))] == [12, 12, 32]
    warm = {"temperature": 0.0, "path_temperature": None, "paths": 1}
    assert with_paths(with_fixed_path_temperature(decoding.model_copy(update=warm)), 1).temperature_of("path") == 1.0
    assert (
        with_fixed_path_temperature(decoding.model_copy(update=warm | {"path_temperature": 0.3})).temperature_of("path")
        == 0.3
    )
    options = CompareConfig(sequential_prompt="none")
    assert [sequential_budget(decoding, options, p) for p in (1, 4)] == [10 + 6 + 8, 4 * 10 + 6 + 8]
    assert sequential_budget(decoding, CompareConfig(sequential_prompt="none", sequential_tokens=9), 3) == 9 + 20
    single = in_sequence(decoding, 24)
    assert (single.mode, single.max_main_tokens, single.max_trace_tokens) == ("sequential", 24, 24)
    assert in_sequence(decoding.model_copy(update={"temperature": 0.0}), 24).temperature == 1.0, "sampled as paths are"


def test_paths_end_where_the_numbers_do() -> None:
    assert numbers_of_paths((), "structured", PARATHINKER) == ([1, 2, 4, 8, 16], [])
    assert numbers_of_paths((32, 3), "structured", PARALLEL_R1) == ([3, 32], [])
    kept, said = numbers_of_paths((), "structured", get_dialect("parathinker:6"))
    assert kept == [1, 2, 4]
    assert said == ["8, 16 paths were left out: the dialect parathinker:6 has 6 numbers"]
    with pytest.raises(UserError, match="17 paths are more than the 16 numbers of the dialect parathinker"):
        numbers_of_paths((1, 17), "structured", PARATHINKER)
    with pytest.raises(UserError, match="mode structured"):
        numbers_of_paths((), "sequential", PARATHINKER)


# ---- re-prefill ----


def model(dialect: str, seed: int = 0) -> LanguageModel:
    """Attention that matters, so that another context gives another continuation."""
    lm = from_config(ModelConfig(**SHAPE), dialect, VOCABULARY, seed)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return lm


class Watched(Engine):
    """Remembers what it was asked."""

    def generate(self, requests, decoding, seed=0, on_event=None, label=""):
        self.asked = (requests, decoding, seed)
        return super().generate(requests, decoding, seed, on_event, label)


@pytest.mark.parametrize("dialect", ["parathinker", "parallel_r1"])
@pytest.mark.parametrize("opening", ["", "9 : 8"])
def test_re_prefill_reads_the_flat_text_and_goes_on_as_an_ordinary_model(dialect, opening, tmp_path) -> None:
    lm = model(dialect)
    rules, engine = lm.dialect, Watched(lm)
    found = ProblemSet("easy", problems("easy", "heldout", 3))
    decoding = SamplingParams(**BUDGETS, fork_at=0, temperature=0, path_temperature=1.0, summary_prefix=opening)
    with Grader(dialect=rules) as grader:
        bench = Bench(engine, found, grader, 3, tmp_path)
        requests = [Request(tuple(lm.encode_prompt(p.question)), p.key, i) for p in found for i in range(2)]
        drawn = bench.draw(requests, decoding, "paths")
        own = bench.paths_of(drawn)
        again = reread(bench, drawn, own, decoding)
    asked, second, seed = engine.asked
    assert (second.mode, second.temperature, seed != 3) == ("sequential", 0, True)
    assert len(asked) == 6
    for request, before, after, new, paths in zip(asked, drawn.rollouts, again.rows, again.rollouts, own, strict=True):
        question = next(p.question for p in found if p.key == before.problem)
        texts = "".join(s.text for s in before.segments if s.path or s is before.segments[0])
        opened = f"{rules.block_close}{rules.gap}{rules.summary_open} {opening}"
        assert lm.decode(request.prompt) == lm.decode(lm.encode(f"{question} {texts}{opened}"))
        flat = [*before.prompt]
        for segment in before.segments:
            if segment.kind == "summary":
                break
            flat += segment.tokens
        flat += lm.encode(f"{rules.block_close}{rules.gap}{rules.summary_open} {opening}")
        assert list(request.prompt) == flat == list(flat_prompt(before, flat[-len(lm.encode(opened)) :]))
        ids = torch.tensor([flat])  # a path of a random model may hold the padding token: it is not padding here
        plain = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new.tokens, do_sample=False, eos_token_id=lm.eos,
            pad_token_id=lm.pad,
        )  # fmt: skip
        assert [t for s in new.segments for t in s.tokens] == plain[0, len(flat) :].tolist()
        assert after["text"].startswith(texts)
        behind = after["tokens"] - paths.tokens
        assert behind - len(lm.encode(opened)) - new.tokens in (0, 1), "one more where it is closed by force"
        assert after["critical_path"] == paths.critical_path + behind
        assert rules.summary_close in after["segments"][-1]["text"]
        assert [s for s in after["segments"] if s["kind"] == "path"] == [
            s for s in drawn.rows[again.rows.index(after)]["segments"] if s["kind"] == "path"
        ]
    fed = sum(len(new.prompt) + new.tokens - 1 for new in again.rollouts)  # the last token is not
    assert again.forwarded == sum(len(r.prompt) + p.tokens for r, p in zip(drawn.rollouts, own, strict=True)) + fed
    assert again.seconds > drawn.seconds


def test_a_response_without_a_block_is_not_read_again(tmp_path) -> None:
    rollout = without_block("p", 0, r"\boxed{7}")
    rows, found = graded([rollout], SEVEN)
    lm = model("parathinker")
    engine = SimpleNamespace(lm=lm, forwarded=0, generate=lambda requests, *args, **named: [{}[r] for r in requests])
    bench = Bench(engine, ProblemSet("mine", (SEVEN,)), None, 0, tmp_path)
    again = reread(bench, Drawn(rows, [rollout], 1.0, 9), found, SamplingParams(**BUDGETS))
    assert again.rows == rows


def test_texts_that_do_not_fit_are_not_read_again(tmp_path) -> None:
    lm = from_config(ModelConfig(**SHAPE, max_position_embeddings=20), "parathinker", VOCABULARY)
    fits, longer = (response([r"\boxed{7}"] * 2, r"\boxed{7}", [n, 8]) for n in (7, 8))
    for rollout, again in ((fits, True), (longer, False)):  # 3 of the prompt, the paths, one that opens the summary
        rows, found = graded([rollout], SEVEN)
        with Grader(dialect=PARATHINKER) as grader:
            bench = Bench(Engine(lm), ProblemSet("mine", (SEVEN,)), grader, 0, tmp_path)
            assert (
                reread(bench, Drawn(rows, [rollout], 1.0, 9), found, SamplingParams(**BUDGETS)) is not None
            ) == again


# ---- the whole ----


@pytest.mark.parametrize("dialect", ["parathinker:4", "parallel_r1"])
def test_everything_is_drawn_measured_written_and_shown(dialect, tmp_path) -> None:
    lm, said = model(dialect), []
    found = ProblemSet("mini", problems("mini", "heldout", 3), ("it is small",))
    options = CompareConfig(sequential_prompt="countdown_sequential", samples=2)
    if dialect == "parallel_r1":
        options = options.model_copy(update={"paths": (1, 3)})
    with Grader(dialect=lm.dialect) as grader:
        result = compare(
            Engine(lm), found, get_prompt("countdown_parallel"), SamplingParams(**BUDGETS), options, 5, grader, tmp_path,
            name="mini", log=said.append,
        )  # fmt: skip
    paths = [1, 2, 4] if dialect == "parathinker:4" else [1, 3]
    assert result["paths"] == paths
    assert said[0] == "note on mini: it is small"
    assert result["notes"][0] == "it is small"
    fewer, more = paths[-2:]
    gap = result["metrics"][f"parallel@{more}"]["value"] - result["metrics"][f"parallel@{fewer}"]["value"]
    assert result["metrics"][f"gain_fewer@{more}"]["value"] == pytest.approx(gap)
    assert any("8, 16 paths were left out" in line for line in said) == (dialect == "parathinker:4")
    assert read_json(tmp_path / "compare-mini.json")["metrics"].keys() == result["metrics"].keys()
    names = {name for name in ARMS if name != "sequential"}
    by_arm = {(arm["arm"], arm["paths"]): arm for arm in result["arms"]}
    assert by_arm.keys() == {(n, p) for n in names for p in paths if n != "sequential_longer" or p > 1} | {
        ("sequential", 1)
    }
    for (name, p), arm in by_arm.items():
        assert 0 <= arm["accuracy"]["value"] <= 1
        assert arm["critical_path"]["value"] <= arm["tokens"]["value"]
        assert (arm["seconds"] is None) == (name in ("majority_paths", "marked_path", "oracle"))
        assert ("difference" in arm) == (name != "parallel")
        assert result["metrics"][f"{name}@{p}"] == arm["accuracy"]
        if name != "parallel":
            gap = result["metrics"][f"gain_{name}@{p}"]["value"]
            assert gap == pytest.approx(by_arm["parallel", p]["accuracy"]["value"] - arm["accuracy"]["value"])
    most = max(paths)
    assert by_arm["majority_sequential", most]["responses"] == most
    each = by_arm["sequential", 1]["tokens"]["value"]
    paid = by_arm["sequential_tokens", most]
    assert paid["responses"] == max(1, int(by_arm["parallel", most]["tokens"]["value"] / each))
    drawn = read_jsonl(tmp_path / f"samples-mini-parallel-{most}.jsonl")
    assert len(drawn) == 6
    assert len(read_jsonl(tmp_path / "samples-mini-sequential.jsonl")) == 3 * max(2, most, paid["responses"])
    assert {f"gain_sequential@{p}" for p in paths} <= result["metrics"].keys()
    assert set(read_measures(tmp_path / "measures-mini.jsonl")) == set(result["metrics"])
    head, rows = comparison_table(result)
    assert len(rows) == len(by_arm)
    assert all(len(r) == len(head) for r in rows)
    html = comparison_section(result)
    assert html.count("<svg") == 3
    assert "it is small" in html


def test_a_prompt_that_does_not_exist_is_said_before_anything_is_drawn(tmp_path) -> None:
    lm = model("parathinker")
    engine = SimpleNamespace(lm=lm)  # cannot draw
    asked = (ProblemSet("mini", problems("mini", "heldout", 2)), get_prompt("none"), SamplingParams(**BUDGETS))
    for options, words in (
        ({"sequential_prompt": "countdown_sequentia"}, "did you mean 'countdown_sequential'"),
        ({"sequential_prompt": "none", "paths": (20,)}, "20 paths are more than the 16 numbers"),
    ):
        with Grader() as grader, pytest.raises(UserError, match=words):
            compare(engine, *asked, CompareConfig(**options), 0, grader, tmp_path / "out")
    with Grader() as grader, pytest.raises(UserError, match="problem set 'none' is empty"):
        compare(
            engine, ProblemSet("none", ()), *asked[1:], CompareConfig(sequential_prompt="none"), 0, grader, tmp_path
        )
    assert not (tmp_path / "out").exists()
