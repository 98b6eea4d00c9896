"""The fields of a request over the model's own settings, without a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polythink.errors import UserError
from polythink.models.settings import ModelSettings
from polythink.serve.completions import CompletionRequest
from polythink.serve.config import ServeConfig
from polythink.serve.effort import params_with
from polythink.serve.errors import ApiError
from polythink.serve.fields import Steering, params_of
from polythink.serve.responses import ResponsesRequest
from polythink.trace.dialect import PARALLEL_R1, Dialect, get_dialect


def service(
    *, opens_blocks: bool = True, dialect: Dialect = PARALLEL_R1, most: int | None = None, **decoding: float
) -> SimpleNamespace:
    lm = SimpleNamespace(settings=ModelSettings(decoding=decoding), dialect=dialect, opens_blocks=opens_blocks)
    return SimpleNamespace(lm=lm, config=ServeConfig(max_tokens=most))


@pytest.mark.parametrize(
    ("own", "asked", "path"),
    [
        ({}, {"temperature": 0}, 1.0),  # greedy paths would be copies
        ({}, {"temperature": 0, "paths": 1}, 0),
        ({}, {"temperature": 0, "path_temperature": 0}, 0),
        ({}, {"temperature": 0.3}, 0.3),
        ({"path_temperature": 0.9}, {}, 0.9),
        ({"path_temperature": 0.9}, {"temperature": 0.3}, 0.3),  # a temperature is of all sampled tokens
        ({"path_temperature": 0.6}, {"temperature": 0}, 0.6),  # colder is asked for, not hotter
        ({"path_temperature": 0}, {"temperature": 0}, 0),
        ({"path_temperature": 0.9}, {"temperature": 0.3, "path_temperature": 0.7}, 0.7),
        ({"temperature": 0.5}, {"path_temperature": 0.7}, 0.7),
    ],
)
def test_the_temperature_of_paths(own, asked, path):
    params = params_of(Steering(**asked), service(**own), None)
    assert params.temperature_of("path") == path
    assert params.temperature == asked.get("temperature", own.get("temperature", 1.0))


def test_a_temperature_of_paths_asks_for_paths():
    assert CompletionRequest(prompt="a", path_temperature=0.5).steers
    assert not CompletionRequest(prompt="a", temperature=0.5).steers


def test_paths_win_over_every_effort():
    for effort in ("none", "high"):
        params = params_with(effort, Steering(paths=3), service(), None)
        assert (params.paths, params.max_blocks) == (3, 4)
    assert params_with("none", Steering(), service(), None).max_blocks == 0


def test_a_model_without_tags_may_write_as_much_main_text_as_is_asked_for():
    asked = Steering(mode="sequential")
    assert params_of(asked, service(opens_blocks=False), 5000).max_main_tokens == 5000
    assert params_of(asked, service(), 5000).max_main_tokens == 2048  # beside blocks that it may open


def test_a_fork_that_is_asked_for_is_refused_where_the_runtime_opens_no_block():
    for served in (service(), service(opens_blocks=False, dialect=get_dialect("parathinker"))):
        with pytest.raises(UserError, match="fork_at=0 has the runtime open the first block, and in mode sequential"):
            params_of(Steering(fork_at=0, mode="sequential"), served, None)
        assert params_of(Steering(mode="sequential", join_when="half"), served, None).mode == "sequential"
    own = service(fork_at=3)  # of the model's settings, which are for other modes too
    assert params_of(Steering(mode="sequential"), own, None).mode == "sequential"
    assert params_of(Steering(mode="reread", fork_at=0), own, None).fork_at == 0
    assert params_of(Steering(mode="sequential", fork_at=0, thinking_budget=0), own, None).max_blocks == 0


@pytest.mark.parametrize(
    ("own", "most", "asked", "given"),
    [
        (140_000, None, None, 140_000),  # the model's own settings are not cut unless the server was told to
        (140_000, None, 100_000, 100_000),
        (140_000, None, 140_001, None),
        (140_000, 1000, None, 1000),
        (140_000, 1000, 1001, None),
        (500, None, None, 500),
        (500, None, 65_536, 65_536),
        (500, None, 65_537, None),
        (500, 1000, None, 500),
    ],
)
def test_the_most_tokens_of_a_trace(own, most, asked, given):
    served = service(max_trace_tokens=own, most=most)
    if given is None:
        with pytest.raises(ApiError, match=f"max_tokens={asked} is more than the {most or max(own, 65_536)} that"):
            params_of(Steering(), served, asked)
    else:
        assert params_of(Steering(), served, asked).max_trace_tokens == given


@pytest.mark.parametrize(
    ("dialect", "effort", "asked", "most"),
    [
        ("multiverse", None, {}, 8),
        ("multiverse", None, {"paths": 3}, 3),
        ("multiverse", "low", {}, 2),
        ("multiverse", "low", {"paths": 12}, 12),
        ("multiverse", "low", {"paths": 3, "mode": "sequential"}, 8),  # there it would end the response
        ("parallel_r1", "low", {}, 8),  # the runtime forks
    ],
)
def test_where_the_model_declares_its_paths_they_are_bounded(dialect, effort, asked, most):
    served = service(dialect=get_dialect(dialect), max_paths=8)
    assert params_with(effort, Steering(**asked), served, None).max_paths == most


def test_a_field_of_another_api_is_not_taken_for_one_that_is_spelt_alike():
    assert ResponsesRequest.hint("max_tokens") == "; did you mean 'max_output_tokens'?"
    assert ResponsesRequest.hint("stop").startswith("; known: fork_at, include, input")
    assert CompletionRequest.hint("detokenize").startswith("; known: ")
