"""Paths that are read again: the same paths, a summary that an ordinary model writes after their text, its cost."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from helpers.backends import CannedBackend, RecordingEngine
from polythink.engine.params import Request, SamplingParams
from polythink.evaluate.compare import compare
from polythink.evaluate.config import CompareConfig
from polythink.evaluate.methods import read_again, with_paths
from polythink.evaluate.samples import fork_end
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.jsonl import read_jsonl
from polythink.trace.modes import MODES
from polythink.trace.rollout import Rollout

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80, fork_at=0,
    temperature=0, path_temperature=1.0,
)  # fmt: skip
EASY = ProblemSet("easy", problems("easy", "heldout", 3))
OPTIONS = CompareConfig(sequential_prompt="countdown_sequential", samples=2, paths=(2,))


def quiet(line: str) -> None:
    pass


def model(dialect: str) -> LanguageModel:
    """Attention that matters, so that another context gives another continuation."""
    lm = from_config(ModelConfig(**SHAPE), dialect, VOCABULARY, 0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return lm


def continuation(lm: LanguageModel, ids: list[int], n: int) -> list[int]:
    """What the unmodified model writes after these tokens, greedily."""
    prompt = torch.tensor([ids])  # a path of a random model may hold the padding token: it is not padding here
    out = lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, do_sample=False, eos_token_id=lm.eos,
        pad_token_id=lm.pad,
    )  # fmt: skip
    return out[0, len(ids) :].tolist()


class Case(NamedTuple):
    lm: LanguageModel
    drawn: list[Rollout]  # joined by their keys and values
    again: list[Rollout]  # joined by their text
    rows: list[dict]
    result: dict


@pytest.fixture(scope="module", params=[(d, o) for d in ("parathinker", "parallel_r1") for o in ("", "9 : 8")])
def case(request, tmp_path_factory) -> Case:
    dialect, prefix = request.param
    engine, folder = RecordingEngine(model(dialect)), tmp_path_factory.mktemp("compared")
    params = PARAMS.model_copy(update={"summary_prefix": prefix})
    result = compare(engine, EASY, OPTIONS, params=params, seed=3, out=folder, log=quiet)
    by_label = {label.rpartition(", ")[2]: rollouts for _, _, _, label, rollouts in engine.calls}
    rows = read_jsonl(folder / "samples-reread-2.jsonl")
    return Case(engine.lm, by_label["2 paths"], by_label["2 paths reread"], rows, result)


def head(rollout: Rollout) -> list[int]:
    """The tokens up to the end of the first block's last path."""
    return [token for segment in rollout.segments[: fork_end(rollout)] for token in segment.tokens]


def test_the_paths_are_those_of_the_parallel_responses(case) -> None:
    assert len(case.again) == 6
    assert [head(r) for r in case.again] == [head(r) for r in case.drawn]
    assert not any("other paths" in note for note in case.result["notes"])


def test_the_summary_is_what_an_ordinary_model_writes_after_their_text(case) -> None:
    compared = 0
    for rollout in case.again:
        summary = next(s for s in rollout.segments if s.kind == "summary")
        written = [t for t, own in zip(summary.tokens, summary.sampled, strict=True) if own]
        if not written or summary.misplaced_tags or case.lm.pad in written:
            continue  # what the runtime replaced, an ordinary model would read as it was sampled
        opening = summary.tokens[: summary.sampled.index(True)]
        flat = [*rollout.prompt, *head(rollout), *opening]
        assert written == continuation(case.lm, flat, len(written))
        compared += 1
    assert compared >= 3


def test_what_is_read_again_costs_forwarded_tokens_and_is_no_part_of_the_text(case) -> None:
    for row, rollout in zip(case.rows, case.again, strict=True):
        paths = [s for s in rollout.segments if s.kind == "path"]
        assert row["read_again"] == sum(len(s.tokens) for s in paths)
        assert row["tokens"] == rollout.tokens
        assert row["text"].count(paths[0].text) >= 1
        assert all(s["text"] == "" for s in row["segments"] if s["kind"] == "copy")
    methods = {row["method"]: row for row in case.result["methods"]}
    whole = sum(row["tokens"] - row["read_again"] for row in case.rows) / len(case.rows)
    assert methods["reread"]["tokens"]["value"] == pytest.approx(whole)
    read = sum(len(r.prompt) + r.tokens - 1 for r in case.again) / len(case.again)  # the last token is not read
    assert methods["reread"]["forwarded"] == pytest.approx(read)


def test_steps_are_counted_with_the_longest_path(case) -> None:
    for rollout in case.again:
        path = max(len(s.tokens) for s in rollout.segments if s.kind == "path")
        rest = sum(len(s.tokens) for s in rollout.segments if s.kind in ("main", "summary"))
        assert rollout.critical_path == path + rest


# ---- what is not read again ----


TEXT = "<Parallel><Path> a </Path><Path> b </Path></Parallel>\n<Summary> 7 </Summary>"
PROBLEM = [Problem("p", "3 + 4?", "7")]
PLAIN = OPTIONS.model_copy(update={"sequential_prompt": "none"})


@pytest.mark.parametrize("room", [0, 1])
def test_texts_that_fill_the_context_are_not_read_again(room) -> None:
    backend = CannedBackend({"p": [TEXT] * 8})
    (rollout,) = backend.generate([Request(tuple(backend.encode_prompt("3 + 4?")), "p")], PARAMS)
    backend.context = int(rollout.layout("reread").position.max()) + room
    found = compare(backend, PROBLEM, PLAIN, params=PARAMS, log=quiet)
    assert ("reread" in {row["method"] for row in found["methods"]}) == bool(room)
    assert any("longer than the context" in note for note in found["notes"]) != bool(room)


def test_a_mode_that_reads_paths_again_by_itself_has_no_second_method_for_it() -> None:
    params = PARAMS.model_copy(update={"mode": "reread"})
    found = compare(CannedBackend({"p": [TEXT] * 8}), PROBLEM, PLAIN, params=params, log=quiet)
    assert "reread" not in {row["method"] for row in found["methods"]}


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if mode.rereads])
def test_sequential_responses_of_the_same_tokens_are_not_paid_for_what_is_read_again(mode, tmp_path) -> None:
    params, four = PARAMS.model_copy(update={"mode": mode}), OPTIONS.model_copy(update={"paths": (4,)})
    lm = from_config(ModelConfig(**SHAPE), "parallel_r1", VOCABULARY, 0)
    result = compare(RecordingEngine(lm), EASY, four, params=params, seed=3, out=tmp_path, log=quiet)
    rows = {row["method"]: row for row in result["methods"]}
    drawn, alone = (read_jsonl(tmp_path / f"samples-{pool}.jsonl") for pool in ("parallel-4", "sequential"))
    each = rows["sequential"]["tokens"]["value"]
    own = sum(row["tokens"] - row["read_again"] for row in drawn) / len(drawn)
    whole = sum(row["tokens"] for row in drawn) / len(drawn)
    assert rows["parallel"]["tokens"]["value"] == pytest.approx(own)
    assert rows["sequential_tokens"]["responses"] == max(1, int(own / each)) < int(whole / each)
    assert len(alone) >= len(EASY) * rows["sequential_tokens"]["responses"]


def test_paths_have_the_same_budgets_in_both() -> None:
    tight = PARAMS.model_copy(update={"max_trace_tokens": 1})
    plain, again = with_paths(tight, 4), read_again(tight, 4)
    assert again.mode == "reread"
    assert again.max_trace_tokens - plain.max_trace_tokens == 4 * (PARAMS.max_path_tokens + 2)
    changed = {"mode", "max_trace_tokens"}
    assert plain.model_dump(exclude=changed) == again.model_dump(exclude=changed)
