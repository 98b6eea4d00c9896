"""Recipes for plain text: `task: translation | summarisation | language_modelling`, no dialect, mode or prompt.

Everything else is as in `recipe.py`: stages in order, planned, identified by content, run in one folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from polythink.errors import UserError
from polythink.pipeline.plan import (
    Plan,
    file_name,
    hash_of_path,
    name_of_folder,
    names_of_folders,
    plans_in_order,
    tracker_notes,
)
from polythink.run.config import Config, Place, Seed
from polythink.run.trackers import ReportTo
from polythink.text.config import TASKS, TextConfig, TextEvalOptions, TextModelConfig, TokenizerConfig
from polythink.text.data.sets import check_texts, files_of, has_source, is_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class TextStageConfig(TextConfig):
    """Training on a set of texts."""

    kind: Literal["text"]
    data: Place
    """Training set: a name, or files (see `text.data.sets`)."""
    valid: Place | None = None
    """Set on which the validation loss is measured during training."""
    valid_limit: int | None = Field(None, ge=1)
    """Pairs of the validation set; all if left out."""
    seed: Seed | None = None
    """Seed of weights, order and dropout; the recipe's if left out."""

    @model_validator(mode="after")
    def _measures_with_a_set(self) -> TextStageConfig:
        if self.valid or "valid" in self.model_fields_set:  # valid: null switches off what an extended recipe measures
            return self
        for key in ("valid_limit", "validate_every"):
            if self._is_chosen(key):
                raise ValueError(
                    f"{key}: {getattr(self, key)} is about the validation loss, and no set is named to measure it on; "
                    f"set valid, or leave {key} out"
                )
        return self


class TextEvalConfig(TextEvalOptions):
    """The model of the last training stage is measured on sets of texts."""

    kind: Literal["text_eval"]
    data: tuple[Place, ...] = Field(min_length=1)
    """Sets to measure: names, or files (see `text.data.sets`)."""
    limit: int | None = Field(None, ge=1)
    """Pairs of each set; all if left out."""
    heads: bool = False
    """Also compare the attention heads on the first pairs, for the report."""
    seed: Seed | None = None
    """Seed of the stage; the recipe's if left out."""


TextStage = Annotated[TextStageConfig | TextEvalConfig, Field(discriminator="kind")]


class TextSettings(Config):
    """What a text recipe and the plans of its stages share."""

    name: str
    """Name of the recipe."""
    task: Literal[tuple(TASKS)]
    """translation, summarisation (both with an encoder) or language_modelling (a decoder alone)."""
    seed: Seed = 0
    """Seed of every stage that sets none."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text is tokenised."""
    model: TextModelConfig = TextModelConfig()
    """The shape of the model."""

    @property
    def has_encoder(self) -> bool:
        return self.task != "language_modelling"


class TextPlan(Plan, TextSettings):
    """A stage of a text recipe."""

    stage: TextStage

    def inputs(self) -> dict[str, str]:
        """Hashes of the files that the plan names: their content counts, not only their names."""
        files = [path for name in sets_of(self.stage) if is_file(name) for path in files_of(name)]
        return {str(path): hash_of_path(path) for path in files if path.exists()}


def sets_of(stage: TextStageConfig | TextEvalConfig) -> list[str]:
    """The sets of texts that a stage reads."""
    return [name for _, name in named_sets(stage)]


def named_sets(stage: TextStageConfig | TextEvalConfig) -> list[tuple[str, str]]:
    """The sets of texts that a stage reads, each after the key that names it."""
    if isinstance(stage, TextEvalConfig):
        return [("data", name) for name in stage.data]
    return [("data", stage.data), *([("valid", stage.valid)] if stage.valid else ())]


class TextRecipe(TextSettings):
    """Stages, and the model and tokenizer that they share. The first training stage makes both."""

    stages: dict[str, TextStage] = Field(min_length=1)
    """Stages in order, by name."""
    report_to: ReportTo = ()
    """Where metrics go beside their file: tensorboard, wandb, trackio, or a list of them."""

    _names = field_validator("stages")(names_of_folders)
    _name = field_validator("name")(name_of_folder)

    def architecture_config(self, vocabulary: int | None = None) -> PreTrainedConfig:
        """The transformers configuration of its model, with the tokenizer's vocabulary unless one is given."""
        from polythink.text.model import architecture_config
        from polythink.text.tokenizers import vocabulary_size

        return architecture_config(self.model, vocabulary or vocabulary_size(self.tokenizer), self.has_encoder)

    def plan(self) -> list[TextPlan]:
        """One plan per stage, in order; `UserError` for what cannot run."""
        plans = plans_in_order(self, TextEvalConfig, self._plan_of, TextPlan)
        self.architecture_config()  # last, since it imports torch
        return plans

    def notes(self) -> list[str]:
        """As those of `recipe.Recipe`."""
        return tracker_notes(self.plan())

    def _plan_of(self, name: str, stage: TextStageConfig | TextEvalConfig, earlier: list[TextPlan]) -> dict[str, Any]:
        for key, data in named_sets(stage):
            check_texts(data, f"stages.{name}.{key}")
            if self.has_encoder and not has_source(data):
                raise UserError(f"stages.{name}.{key}: {data} has no sources, which {self.task} needs")
        if isinstance(stage, TextEvalConfig):
            if not any(isinstance(plan.stage, TextStageConfig) for plan in earlier):
                raise UserError(f"stages.{name}: there is no model to measure yet; put a stage of kind text before it")
            if len({file_name(data) for data in stage.data}) < len(stage.data):
                raise UserError(f"stages.{name}.data: two of them would write the same files; measure them apart")
        if stage.block and self.has_encoder:
            raise UserError(f"stages.{name}.block: {self.task} reads pairs, not running text; leave it out")
        return {"task": self.task, "tokenizer": self.tokenizer}
