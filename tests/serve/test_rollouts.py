"""Rollouts drawn over HTTP from our own server process are those of the engine in this one, token for token."""

from __future__ import annotations

import pytest

from helpers.random_cases import model_of
from helpers.served import served
from helpers.tiny import drawn, gaps, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.lm import save

TOLERANCE = 1e-4  # of log-probabilities, float32
SMALL = dict(max_main_tokens=10, max_path_tokens=6, max_summary_tokens=5, max_trace_tokens=80, max_blocks=2)
CASES = {
    "reread": dict(mode="reread", paths=3),
    "forked, warm, truncated": dict(mode="seen_published", fork_at=1, temperature=0.7, path_temperature=1.3, top_p=0.9),
    "sequential": dict(mode="sequential", temperature=0.8),
}


@pytest.fixture(scope="module")
def lm():
    return tiny()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder from below which the server may load weights, and one beside it."""
    base = tmp_path_factory.mktemp("weights")
    save(tiny(seed=2), base / "allowed" / "second")
    save(tiny(seed=3), base / "outside")
    return base


@pytest.fixture(scope="module")
def backend(lm, weights, tmp_path_factory):
    folder = str(weights / "allowed")
    with served(tiny, tmp_path_factory.mktemp("served"), weights_folder=folder) as server:
        with HttpRollouts(RemoteConfig(url=f"{server.url}/v1", concurrency=16), lm) as found:
            yield found
        server.wait_idle()  # every slot is free again


@pytest.mark.parametrize("case", CASES)
def test_rollouts_over_http_are_those_of_the_engine(lm, backend, case):
    params, wanted = SamplingParams(**SMALL, **CASES[case]), requests(lm, 3)
    expected = Engine(lm).generate(wanted, params, seed=3)
    found = backend.generate(wanted, params, seed=3)
    assert list(map(drawn, found)) == list(map(drawn, expected))
    for a, b in zip(found, expected, strict=True):
        assert [s.text for s in a.segments] == [s.text for s in b.segments]
        for one, other in zip(a.segments, b.segments, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)
    if params.rules.exact:
        assert max(gaps(lm, found)) < TOLERANCE


def test_it_knows_the_server(backend):
    assert (backend.served.server.owner, backend.served.model, backend.context) == ("polythink", "tiny", 4096)
    assert backend.abilities.stops


def test_what_is_drawn_after_a_reload_is_of_the_new_weights(lm, backend, weights):
    """The last test of this server: it has other weights now."""
    params, wanted = SamplingParams(**SMALL, mode="reread", paths=2), requests(lm, 2)
    assert {rollout.weight_version for rollout in backend.generate(wanted, params, seed=4)} == {""}
    assert backend.reload(weights / "allowed" / "second") == "1"
    found = backend.generate(wanted, params, seed=4)
    assert list(map(drawn, found)) == list(map(drawn, Engine(tiny(seed=2)).generate(wanted, params, seed=4)))
    assert {rollout.weight_version for rollout in found} == {"1"}
    with pytest.raises(UserError, match=r"polythink serve did not take the weights .*weights-folder"):
        backend.reload(weights / "outside")
    assert backend.weight_version == "1"


@pytest.mark.long
def test_nested_blocks_are_those_of_the_engine_too(tmp_path):
    """The random numbers of a segment in a path are named by the path's number and its own."""
    lm = model_of("parallel_r1")
    params = SamplingParams(
        mode="reread", paths=2, max_depth=3, max_main_tokens=6, max_path_tokens=20, max_summary_tokens=6,
        max_trace_tokens=150,
    )  # fmt: skip
    wanted = [Request(tuple(lm.encode("a b c")), "p", sample) for sample in range(4)]
    expected = Engine(lm).generate(wanted, params, seed=1)
    assert any(s.finish_reason == "fork" and s.path for rollout in expected for s in rollout.segments)
    with (
        served(lambda: model_of("parallel_r1"), tmp_path) as server,
        HttpRollouts(RemoteConfig(url=f"{server.url}/v1"), lm) as backend,
    ):
        assert list(map(drawn, backend.generate(wanted, params, seed=1))) == list(map(drawn, expected))
