"""Recipes of fake stages: the two methods of a real one that an experiment uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from polythink.run.config import apply_overrides, digest, load_yaml


@dataclass(frozen=True)
class FakePlan:
    name: str
    config: dict
    seed: int
    previous: str | None
    digest: str

    @property
    def stage(self) -> SimpleNamespace:
        return SimpleNamespace(**self.config)

    def model_dump(self, mode: str) -> dict:
        return {**asdict(self), "stage": self.config}


@dataclass(frozen=True)
class FakeRecipe:
    data: dict

    def model_dump(self, mode: str) -> dict:
        return self.data

    def plan(self) -> list[FakePlan]:
        plans: list[FakePlan] = []
        before: FakePlan | None = None
        for name, config in self.data["stages"].items():
            seed = 0 if config.get("any_seed") else self.data["seed"]
            identity = digest([name, config, seed, before.digest if before else None])
            plan = FakePlan(name, config, seed, before.name if before else None, identity)
            plans.append(plan)
            before = before if config["kind"] == "eval" else plan
        return plans


def load(name_or_path: str | Path, overrides: Sequence[str]) -> FakeRecipe:
    return FakeRecipe(apply_overrides(load_yaml(name_or_path), overrides, shorthand="stages"))
