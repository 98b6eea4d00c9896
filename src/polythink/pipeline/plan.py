"""The stages that a recipe can have, and the plan of one: a stage with all that determines its outcome settled."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from polythink.engine.params import SamplingParams
from polythink.evaluate.compare import CompareConfig
from polythink.evaluate.tunnel import TunnelConfig
from polythink.models.config import ModelConfig
from polythink.problems.prompts import get_prompt
from polythink.run.config import Config, digest
from polythink.teachers.assemble import AssembleConfig
from polythink.teachers.endpoint import EndpointConfig
from polythink.trace.validity import RULES
from polythink.train.config import StageConfig
from polythink.train.grpo import GRPOConfig
from polythink.train.sft import SFTConfig

# keys of a stage that are settled in its plan, and keys that change how it is run and not what comes out of it
SETTLED = ("mode", "prompt", "decoding", "seed")
ONLY_HOW = ("checkpoint_every", "log_samples", "concurrency", "max_num_seqs")


class CountdownTeacherConfig(Config):
    """The teacher of the synthetic task: demonstrations, no model."""

    kind: Literal["countdown"]
    styles: dict[Literal["sequential", "parallel"], NonNegativeFloat]  # their shares, in any unit
    p_right: float = Field(0.5, ge=0, le=1)  # probability that a chain is the solution
    paths: int = Field(3, ge=1)
    labels: Literal["ordered", "random"] = "ordered"  # numbers of numbered paths: 1..P, or any of the inventory


class EndpointTeacherConfig(EndpointConfig):
    """A teacher behind an OpenAI-compatible address."""

    kind: Literal["endpoint"]


class AssemblyConfig(AssembleConfig):
    """A coldstart stage that assembles the teacher's solutions into traces of numbered paths."""

    prompt: str = "sequential"  # under which the teacher solves; the traces carry the stage's own


class ColdstartConfig(StageConfig):
    """A teacher answers problems; what is well formed and right is kept as data for fine-tuning."""

    kind: Literal["coldstart"]
    problems: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)  # problems of each set
    teacher: Annotated[CountdownTeacherConfig | EndpointTeacherConfig, Field(discriminator="kind")]
    samples: int = Field(1, ge=1)  # responses to each problem
    rule: Literal[RULES] = "strict"
    right_only: bool = True
    concurrency: int = Field(8, ge=1)  # questions that are out at a time
    assemble: AssemblyConfig | None = None  # the responses are solutions, of which the traces are made

    @model_validator(mode="after")
    def _can_summarise(self) -> ColdstartConfig:
        if self.assemble and self.assemble.summary == "teacher" and self.teacher.kind == "countdown":
            raise ValueError("the countdown teacher writes no summaries of paths; take summary: template")
        return self


class EvalStageBase(StageConfig):
    """A stage that measures the model of the last training stage and leaves none."""

    problems: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)  # problems of each set


class EvalConfig(EvalStageBase):
    """The model answers problems; every sample is graded."""

    kind: Literal["eval"]
    samples: int = Field(8, ge=1)  # responses to each problem
    greedy: bool = False  # one more response at temperature 0
    best_of: tuple[int, ...] = ()  # also: accuracy of choosing one of so many samples
    prompts: tuple[str, ...] = ()  # several prompts, each evaluated; none given: the stage's one
    max_num_seqs: int = Field(64, ge=1)  # responses that the engine draws at once
    heads: bool = False  # also compare the attention heads on a few of the responses, for the report


class CompareStageConfig(EvalStageBase, CompareConfig):
    """Paths drawn at once against everything else that the same model could do (`evaluate.compare`)."""

    kind: Literal["compare"]


class TunnelStageConfig(EvalStageBase, TunnelConfig):
    """One path or several for a budget, and how a path goes on that began badly (`evaluate.tunnel`)."""

    kind: Literal["tunnel"]


Stage = Annotated[
    ColdstartConfig | SFTConfig | GRPOConfig | EvalConfig | CompareStageConfig | TunnelStageConfig,
    Field(discriminator="kind"),
]


class Plan(Config):
    """One stage with all that determines its outcome. It can be run on its own, given the folder of `previous`."""

    name: str
    stage: Any
    seed: int
    previous: str | None  # the nearest earlier stage that is not an evaluation
    digest: str = ""

    def with_digest(self, previous: str | None) -> Self:
        """The plan under its identity: a hash of all its content, of the files it names, and of the stage before it."""
        content = self.model_dump(mode="json", exclude={"digest"})
        for key in SETTLED + ONLY_HOW:
            content["stage"].pop(key, None)
        identity = digest({"plan": content, "inputs": self.inputs(), "previous": previous})
        return self.model_copy(update={"digest": identity})

    def inputs(self) -> dict[str, str]:
        """Hashes of what the plan names and does not hold, by name."""
        raise NotImplementedError


class StagePlan(Plan):
    """A stage of a recipe for thinking in parallel."""

    stage: Stage
    model: ModelConfig  # where the first model comes from, if no earlier stage left one
    dialect: str
    mode: str
    chat: bool
    prompt: str
    decoding: SamplingParams

    def inputs(self) -> dict[str, str]:
        """Hashes of the prompts and local files that the plan names: their content counts, not only their names."""
        stage: Any = self.stage
        sources = getattr(stage, "data", ())
        prompts = {self.prompt, *getattr(stage, "prompts", ()), *(s.prompt for s in sources if s.prompt)}
        if assemble := getattr(stage, "assemble", None):
            prompts |= {assemble.prompt, assemble.summary_prompt}
        prompts |= {getattr(stage, "sequential_prompt", None)} - {None}
        files = {*getattr(stage, "problems", ()), *(x for s in sources for x in (s.file, s.problems) if x)}
        files |= {self.model.path} if self.model.path else set()
        return {f"prompt {name}": get_prompt(name).hash for name in prompts} | {
            name: hash_of_path(name) for name in files if Path(name).exists()
        }


def names_of_folders(stages: dict[str, Any]) -> dict[str, Any]:
    """The stages, if each has a name that a folder can have."""
    for name in stages:
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise ValueError(f"a stage's name becomes a folder: letters, digits, _ and -, not {name!r}")
    return stages


def file_name(name: str) -> str:
    """A problem set's or prompt's name as part of a file name."""
    stem = Path(name).stem if Path(name).suffix else name
    return re.sub(r"[^\w.-]+", "-", stem)


def hash_of_path(path: str | Path) -> str:
    """SHA-256 of a file, or of all files in a folder."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        stat = file.stat()
        whole.update(_hash_of_file(file, stat.st_size, stat.st_mtime_ns))
    return whole.hexdigest()


@cache
def _hash_of_file(file: Path, size: int, changed: int) -> bytes:
    """Every stage of a recipe asks for the files of its model: they are read once, unless they have changed since."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
