"""Rollout backends for tests: one with canned responses and no model, one that records what an engine is asked."""

from __future__ import annotations

from helpers.run_folders import rollout_of
from polythink.engine.engine import Engine
from polythink.engine.protocol import RolloutBackend
from polythink.trace.dialect import PARALLEL_R1, Dialect


class CannedBackend(RolloutBackend):
    """Gives the responses listed for a problem, sample by sample. A token of a prompt is a character."""

    dialect: Dialect = PARALLEL_R1
    context = 4096

    def __init__(self, responses: dict[str, list[str]]) -> None:
        self.responses = responses
        self.asked: list[tuple] = []  # requests, params, seed of each call

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids) -> str:
        return "".join(map(chr, ids))

    def generate(self, requests, params, seed=0, on_event=None, label="", done_only=False):
        self.asked.append((list(requests), params, seed))
        return [rollout_of(self.responses[r.problem][r.sample], r.problem, r.sample) for r in requests]


class RecordingEngine(Engine):
    """An engine that remembers every call: requests, params, seed, label, rollouts."""

    def __init__(self, *args, **named) -> None:
        super().__init__(*args, **named)
        self.calls: list[tuple] = []

    def generate(self, requests, params, seed=0, on_event=None, label="", done_only=False):
        rollouts = super().generate(requests, params, seed, on_event, label, done_only)
        self.calls.append((list(requests), params, seed, label, rollouts))
        return rollouts
