"""Recipes for plain text: `task: translation | summarisation | language_modelling`, no dialect, mode or prompt.

Everything else is as in `recipe.py`: stages in order, planned, identified by content, run in one folder.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from polythink.errors import UserError
from polythink.models.architectures import BackboneConfig
from polythink.pipeline.plan import Plan, file_name, hash_of_path, names_of_folders
from polythink.run.config import Config
from polythink.text.data.sets import check_texts, files_of, has_source, is_file
from polythink.text.evaluate import TextEvalOptions
from polythink.text.model import TextModelConfig
from polythink.text.scores import TASKS
from polythink.text.tokenizers import TokenizerConfig
from polythink.text.train import TextConfig


class TextEvalConfig(TextEvalOptions):
    """The model of the last training stage is measured on sets of texts."""

    kind: Literal["text_eval"]
    data: tuple[str, ...] = Field(min_length=1)  # names of sets, or files (see `problems/texts.py`)
    limit: int | None = Field(None, ge=1)  # pairs of each
    heads: bool = False  # also compare the attention heads on the first pairs, for the report
    seed: int | None = None


TextStage = Annotated[TextConfig | TextEvalConfig, Field(discriminator="kind")]


class TextPlan(Plan):
    """A stage of such a recipe."""

    task: Literal[tuple(TASKS)]
    stage: TextStage
    model: TextModelConfig
    tokenizer: TokenizerConfig

    @property
    def has_encoder(self) -> bool:
        return self.task != "language_modelling"

    def inputs(self) -> dict[str, str]:
        """Hashes of the files that the plan names: their content counts, not only their names."""
        files = [path for name in sets_of(self.stage) if is_file(name) for path in files_of(name)]
        return {str(path): hash_of_path(path) for path in files if path.exists()}


def sets_of(stage: TextConfig | TextEvalConfig) -> list[str]:
    """The sets of texts that a stage reads."""
    if isinstance(stage, TextEvalConfig):
        return list(stage.data)
    return [stage.data, *([stage.valid] if stage.valid else ())]


class TextRecipe(Config):
    """Stages, and the model and tokenizer that they share. The first training stage makes both."""

    name: str
    task: Literal[tuple(TASKS)]
    seed: int = 0
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: TextModelConfig = TextModelConfig()
    stages: dict[str, TextStage] = Field(min_length=1)

    _names = field_validator("stages")(names_of_folders)

    @property
    def has_encoder(self) -> bool:
        return self.task != "language_modelling"

    def frame(self) -> BackboneConfig:
        """The transformers configuration of its model."""
        return self.model.frame(self.tokenizer.vocabulary, self.has_encoder)

    def plan(self) -> list[TextPlan]:
        """One plan a stage, in order; `UserError` for what cannot be run as it stands."""
        self.frame()
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
        for data in sets_of(stage):
            check_texts(data, f"stages.{name}.data")
            if self.has_encoder and not has_source(data):
                raise UserError(f"stages.{name}.data: {data} has no sources, which {self.task} needs")
        if isinstance(stage, TextEvalConfig):
            if before is None:
                raise UserError(f"stages.{name}: there is no model to measure yet; put a stage of kind text before it")
            if len({file_name(data) for data in stage.data}) < len(stage.data):
                raise UserError(f"stages.{name}.data: two of them would write the same files; measure them apart")
        if stage.block and self.has_encoder:
            raise UserError(f"stages.{name}.block: {self.task} knows no running text; leave it out")
