"""Rollouts over HTTP from a stand-in for a server that is not ours: requests, and a client that does not wait long."""

from __future__ import annotations

from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.run.retry import RetryPolicy

QUICK = RetryPolicy(retries=3, wait=0.01)
PARAMS = SamplingParams(
    mode="reread", paths=3, max_main_tokens=6, max_path_tokens=6, max_summary_tokens=5, max_trace_tokens=80, fork_at=1
)


def client(server, lm, journal=None, **changes) -> HttpRollouts:
    return HttpRollouts(RemoteConfig(**{"url": server.base, "retry": QUICK, "concurrency": 4, **changes}), lm, journal)


def wanted(lm, n: int) -> list[Request]:
    return [Request(tuple(lm.encode("a b")), f"p{i}") for i in range(n)]
