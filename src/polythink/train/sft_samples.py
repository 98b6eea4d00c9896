"""What the model writes while it is fine-tuned: a few responses to the same problems at every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.evaluate.samples import sample_row
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.run.jsonl import JsonlWriter
from polythink.trace.rollout import Rollout
from polythink.train import distributed
from polythink.train.config import SFTConfig
from polythink.train.grpo import asked_of, fitting
from polythink.train.optimiser import autocast
from polythink.train.own_engine import OwnEngine
from polythink.train.sharding import refresh


@dataclass(frozen=True)
class Samples:
    """Draws the samples of a stage: every time of the same problems and with the same random numbers."""

    source: OwnEngine
    problems: Sequence[Problem]
    config: SFTConfig
    prompt: Prompt
    params: SamplingParams
    seed: int
    grader: Grader

    @classmethod
    def of(
        cls, stack: ExitStack, lm: LanguageModel, config: SFTConfig, problems: Sequence[Problem], prompt: Prompt,
        params: SamplingParams, seed: int,
    ) -> Samples:  # fmt: skip
        """Of the problems that the model can be asked; `UserError` where there is none."""
        source = OwnEngine(Engine(lm))
        asked = fitting(source, problems, prompt, params, "skip")
        return cls(source, asked, config, prompt, params, seed, stack.enter_context(Grader(dialect=lm.dialect)))

    def write(self, step: int, trained: LanguageModel, file: JsonlWriter | None) -> None:
        """Write the samples of a step to samples.jsonl. Training goes on as if nothing had been drawn."""
        refresh(self.source.lm, trained)
        with autocast(self.config, self.source.lm.device):  # in the arithmetic that it is trained in
            rollouts = self.source.draw(asked_of(self.source, self.problems, 1, self.prompt, self.params, self.seed))
        pairs = list(zip(self.problems, rollouts, strict=True))

        def written() -> None:
            for problem, rollout in pairs:
                file.write({"step": step, **self._row(problem, rollout)})

        distributed.on_main(written)

    def _row(self, problem: Problem, rollout: Rollout) -> dict:
        grade = self.grader.grade(rollout.text, problem)
        return sample_row(problem, rollout, grade, self.grader, self.source.lm.dialect)
