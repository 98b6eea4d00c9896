"""Recipes for plain text: `task: translation | language_modelling` in place of dialect, mode and prompt.

Everything else is as in `recipe.py`: stages in order, planned, identified by content, run in one folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from polythink.evaluate.scores import TASKS
from polythink.evaluate.text import BeamConfig
from polythink.models.text import TextModelConfig
from polythink.models.text_tokenizers import TokenizerConfig
from polythink.problems.texts import find_texts
from polythink.run.config import Config
from polythink.run.errors import UserError
from polythink.train.plan import Plan, hash_of_path, names_of_folders
from polythink.train.text import TextConfig


class TextEvalConfig(BeamConfig):
    """The model of the last training stage is measured on sets of pairs."""

    kind: Literal["text_eval"]
    data: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)  # pairs of each set
    tokenize: Literal["13a", "none", "char", "intl", "zh"] = "13a"  # how sacrebleu cuts words
    seed: int | None = None


TextStage = Annotated[TextConfig | TextEvalConfig, Field(discriminator="kind")]


class TextPlan(Plan):
    """A stage of such a recipe."""

    task: Literal[tuple(TASKS)]
    stage: TextStage
    model: TextModelConfig
    tokenizer: TokenizerConfig

    def inputs(self) -> dict[str, str]:
        """Hashes of the files that the plan names."""
        data = self.stage.data
        names = [*([data] if isinstance(data, str) else data), getattr(self.stage, "valid", None)]
        return {name: hash_of_path(name) for name in names if name and Path(name).exists()}


class TextRecipe(Config):
    """Stages, and the model and tokenizer that they share. The first training stage makes both."""

    name: str
    task: Literal[tuple(TASKS)]
    seed: int = 0
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: TextModelConfig = TextModelConfig()
    stages: dict[str, TextStage] = Field(min_length=1)

    _names = field_validator("stages")(names_of_folders)

    def plan(self) -> list[TextPlan]:
        """One plan a stage, in order; `UserError` for what cannot be run as it stands."""
        self.model.frame(self.tokenizer.size, self.task != "language_modelling")
        plans: list[TextPlan] = []
        before: TextPlan | None = None
        for name, stage in self.stages.items():
            self._check(name, stage, before)
            plan = TextPlan(
                name=name,
                task=self.task,
                stage=stage,
                model=self.model,
                tokenizer=self.tokenizer,
                seed=self.seed if stage.seed is None else stage.seed,
                previous=before.name if before else None,
            ).with_digest(before.digest if before else None)
            plans.append(plan)
            before = before if isinstance(stage, TextEvalConfig) else plan
        return plans

    def _check(self, name: str, stage: TextConfig | TextEvalConfig, before: TextPlan | None) -> None:
        if isinstance(stage, TextEvalConfig):
            if before is None:
                raise UserError(f"stages.{name}: there is no model to measure yet; put a stage of kind text before it")
            for data in stage.data:
                find_texts(data)
            return
        for data in filter(None, (stage.data, stage.valid)):
            find_texts(data)
        if stage.block and self.task != "language_modelling":
            raise UserError(
                f"stages.{name}.block: running text is for language_modelling; leave it out for {self.task}"
            )
