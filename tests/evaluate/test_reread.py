"""Re-prefill token by token: the flat prompt, the ordinary model's continuation, and what is not read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from helpers.backends import CannedBackend, RecordingEngine
from polythink.engine.params import SamplingParams
from polythink.evaluate.reread import flat_prompt, reread, summary_opening
from polythink.evaluate.samples import Paths, Samples
from polythink.evaluate.study import Study, open_study
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.trace.rollout import Rollout, Segment

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80, fork_at=0,
    temperature=0, path_temperature=1.0,
)  # fmt: skip
EASY = ProblemSet("easy", problems("easy", "heldout", 3))


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


@pytest.fixture(scope="module", params=[(d, o) for d in ("parathinker", "parallel_r1") for o in ("", "9 : 8")])
def case(request) -> tuple[RecordingEngine, Samples, Samples, str]:
    """An engine, its parallel responses, the same read again, and the text that opens a summary."""
    dialect, prefix = request.param
    engine = RecordingEngine(model(dialect))
    params = PARAMS.model_copy(update={"summary_prefix": prefix})
    with open_study(engine, EASY, params=params, seed=3, log=quiet) as study:
        drawn = study.draw(study.requests(2), params)
        again = reread(study, drawn, params)
    rules = engine.dialect
    joined = "".join(tag.text for tag in rules.joining)
    return engine, drawn, again, f"{joined}{rules.summary.gap}{rules.summary.open} {prefix}"


def test_the_model_reads_prompt_and_paths_as_flat_text_with_the_summary_opened(case) -> None:
    engine, drawn, _, opening = case
    requests, params, seed, _, _ = engine.calls[-1]
    assert (params.mode, params.temperature, seed != 3) == ("sequential", 0, True)
    assert len(requests) == 6
    for request, first in zip(requests, drawn.rollouts, strict=True):
        before = [s for s in first.segments if s.path or s is first.segments[0]]
        flat = [*first.prompt, *(token for segment in before for token in segment.tokens), *engine.lm.encode(opening)]
        assert list(request.prompt) == flat
        assert flat_prompt(first, summary_opening(drawn.rollouts)) == request.prompt


def test_the_summary_is_what_an_ordinary_model_writes(case) -> None:
    engine, _, _, _ = case
    requests, *_, rollouts = engine.calls[-1]
    for request, rollout in zip(requests, rollouts, strict=True):
        tokens = [token for segment in rollout.segments for token in segment.tokens]
        assert tokens == continuation(engine.lm, list(request.prompt), len(tokens))


def test_a_row_has_the_old_paths_and_the_new_summary(case) -> None:
    engine, drawn, again, opening = case
    opened = len(engine.lm.encode(opening))
    for first, second, new, paths in zip(drawn.rows, again.rows, engine.calls[-1][-1], drawn.paths, strict=True):
        kept = [s for s in first["segments"] if s["kind"] == "path"]
        assert [s for s in second["segments"] if s["kind"] == "path"] == kept
        assert engine.dialect.summary.close in second["segments"][-1]["text"]
        added = second["tokens"] - paths.tokens
        assert added - opened - new.tokens in (0, 1), "one more where the runtime closes the summary"
        assert second["critical_path"] == paths.critical_path + added


def test_rereading_costs_the_tokens_that_are_read_again(case) -> None:
    engine, drawn, again, _ = case
    read = sum(len(new.prompt) + new.tokens - 1 for new in engine.calls[-1][-1])  # the last token is not read
    parallel = sum(len(r.prompt) + p.tokens for r, p in zip(drawn.rollouts, drawn.paths, strict=True))
    assert again.forwarded == parallel + read
    assert again.seconds > drawn.seconds


# ---- what is not read again ----


def response(lengths: list[int]) -> tuple[Rollout, Paths]:
    """A prompt of 3 tokens, paths of these lengths, and a summary of one forced and two sampled tokens."""

    def segment(kind: str, path: int, sampled: list[bool]) -> Segment:
        return Segment(kind, 0, path, [5] * len(sampled), sampled, [0.0] * len(sampled), finish_reason="tag")

    segments = [segment("path", i, [True] * n) for i, n in enumerate(lengths, 1)]
    rollout = Rollout("p", 0, "structured", (1, 2, 3), [*segments, segment("summary", 0, [False, True, True])])
    return rollout, Paths(("7",), (True,), None, sum(lengths), max(lengths))


def read_again(backend, rollout: Rollout, paths: Paths, change: Callable[[Study], None] = lambda study: None):
    row = {"problem": "p", "question": "", "answer": "7", "sample": 0, "blocks": 1, "complete_blocks": 1,
           "tokens": rollout.tokens, "segments": [{}] * len(rollout.segments)}  # fmt: skip
    with open_study(backend, [Problem("p", "3 + 4?", "7")], params=PARAMS, log=quiet) as study:
        return reread(study, Samples([rollout], [row], [paths], 1.0, 9), PARAMS), row


@pytest.mark.parametrize(("length", "fits"), [(7, True), (8, False)])
def test_texts_that_fill_the_context_are_not_read_again(length, fits) -> None:
    backend = CannedBackend({"p": ["7"]})
    backend.context = 3 + length + 8 + 1 + (1 if fits else 0)  # prompt, two paths, the summary's opening
    again, _ = read_again(backend, *response([length, 8]))
    assert (again is not None) == fits


def test_a_response_without_a_block_is_kept() -> None:
    rollout, paths = response([3])
    again, row = read_again(CannedBackend({}), rollout, replace(paths, block=False))
    assert again.rows == [row]
