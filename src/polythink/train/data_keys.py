"""The keys of fine-tuning's data: sources of traces, and how demonstrations are written. Imports without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from polythink.errors import UserError
from polythink.problems.sets import task_of_set
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import Config, Place
from polythink.trace.modes import MODES, get_mode


class DemonstrationsConfig(Config):
    """How demonstrations of a synthetic task are written."""

    style: Literal["sequential", "parallel"] = "parallel"
    """One chain after another in flat text, or one block of paths."""
    p_right: float = Field(0.5, ge=0, le=1)
    """Probability that a chain is the solution."""
    paths: PositiveInt | tuple[PositiveInt, ...] = 3
    """Paths per block, or a list of numbers to choose from at random."""
    retries: int = Field(0, ge=0)
    """Further chains that may follow a failed chain on the same path."""
    labels: Literal["ordered", "random"] = "random"
    """Numbers of numbered paths: 1..P in order, or any of the dialect's inventory."""
    strategies: bool = False
    """Let a path's number determine its first two operators."""
    summary: Literal["chosen", "reference"] = "chosen"
    """The summary states what a path came to, or always the reference answer."""

    @model_validator(mode="after")
    def _some_number_of_paths(self) -> DemonstrationsConfig:
        if self.paths == ():
            raise ValueError("paths is a number of paths, or a list of numbers to choose from; the list is empty")
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """The keys whose values are not the defaults."""
        return tuple(key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default)

    def demo_style(self) -> DemoStyle:
        """The same as the task takes it."""
        paths = self.paths if isinstance(self.paths, tuple) else (self.paths,)
        return DemoStyle(**{**self.model_dump(), "paths": paths})


class DataConfig(Config):
    """One source of traces: a `file`, what a coldstart `stage` kept, or demonstrations of synthetic `problems`."""

    file: Place | None = None
    """JSONL or Parquet file with rows {question, trace, prompt (optional)}."""
    columns: dict[Literal["question", "trace", "prompt"], str] = Field(default_factory=dict)
    """Columns of the file that hold these, where they have other names: {question: problem, trace: response}."""
    stage: str | None = None
    """Name of an earlier coldstart stage, whose kept traces are read."""
    problems: str | None = None
    """A synthetic set, such as countdown-hard:train; its demonstrations are made afresh and never repeat."""
    demonstrations: DemonstrationsConfig | None = None
    """How the demonstrations of `problems` are written; none: the defaults."""
    prompt: Place | None = None
    """Prompt of these traces; none: the one that a row names, otherwise the stage's."""
    mode: Literal[tuple(MODES)] | None = None
    """The mode that the traces are for; none: the stage's mode."""
    weight: float | None = Field(None, gt=0)
    """This source's part of every batch, in any unit; none: its number of traces."""
    early_join: float = Field(0.0, ge=0, le=1)
    """Share of traces whose paths are truncated where the shortest one ends."""

    @model_validator(mode="before")
    @classmethod
    def _default_demonstrations(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("problems") is not None and data.get("demonstrations") is None:
            return {**data, "demonstrations": {}}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if sum(x is not None for x in (self.file, self.stage, self.problems)) != 1:
            raise ValueError("a source of traces is exactly one of file, stage and problems")
        if self.columns and self.file is None:
            raise ValueError("columns names those of a file; kept traces and demonstrations have their own")
        if self.problems is None and self.demonstrations is not None:
            raise ValueError("demonstrations are made of problems; the traces of a file or stage are already written")
        if self.problems is not None and self.weight is None:
            raise ValueError("demonstrations have no end; give the weight that they have in every batch")
        if self.problems is not None and (task := task_of_set(self.problems)):
            try:
                task.check_style(self.demonstrations.style, self.demonstrations.chosen)
            except UserError as error:
                raise ValueError(str(error)) from None
        if self.mode and not get_mode(self.mode).isolated and self.early_join:
            raise ValueError(f"early_join truncates paths that run side by side; leave it out with mode: {self.mode}")
        return self
