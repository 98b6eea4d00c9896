"""The stages that a recipe can have, and their plans: all that determines an outcome. Imports without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from polythink.engine.params import SamplingParams
from polythink.evaluate.config import CompareConfig, TunnelConfig
from polythink.models.config import ModelConfig
from polythink.pipeline.identity import counted
from polythink.problems.problem import AnswerRule
from polythink.problems.prompts import Overlong, get_prompt
from polythink.problems.sets import SUFFIXES, file_of_set
from polythink.problems.tasks.demonstrations import DemonstrationTeacher
from polythink.problems.tasks.table import TEACHERS, get_task
from polythink.rewards.functions import source_of
from polythink.run import trackers
from polythink.run.config import Config, Place, Seed, digest
from polythink.teachers.assemble import AssembleConfig
from polythink.teachers.endpoint import EndpointConfig
from polythink.trace.dialect import Dialect
from polythink.trace.dialect_file import is_file
from polythink.trace.modes import MODES
from polythink.trace.validity import RULES
from polythink.train.config import GRPOConfig, SFTConfig
from polythink.train.data_keys import DataConfig


class StageConfig(Config):
    """What a stage may set differently from its recipe."""

    sections: ClassVar[Mapping[str, type[Config]]] = {"decoding": SamplingParams, "model": ModelConfig}
    mode: Literal[tuple(MODES)] | None = None
    """How traces are sampled and laid out; none: the recipe's."""
    prompt: Place | None = None
    """Prompt name, or a file with {problem} in it; none: the recipe's."""
    decoding: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters that replace the recipe's, key by key."""
    seed: Seed | None = None
    """Seed of this stage; none: the recipe's."""


class TaskTeacherConfig(Config):
    """The teacher of a synthetic task: it writes demonstrations, without a model."""

    kind: Literal[TEACHERS]
    """Which task's teacher."""
    styles: dict[Literal["sequential", "parallel"], NonNegativeFloat]
    """Share of each style, in any unit."""
    p_right: float = Field(0.5, ge=0, le=1)
    """Probability that a chain is the solution."""
    paths: int = Field(3, ge=1)
    """Paths per block."""
    labels: Literal["ordered", "random"] = "ordered"
    """Numbers of numbered paths: 1..P in order, or any of the dialect's inventory."""


def teacher_of(config: TaskTeacherConfig, seed: int, dialect: Dialect) -> DemonstrationTeacher:
    """The teacher itself. `UserError` for what its task cannot demonstrate."""
    how = {"p_right": config.p_right, "paths": config.paths, "labels": config.labels}
    return get_task(config.kind).teacher(config.styles, seed=seed, dialect=dialect, **how)


class EndpointTeacherConfig(EndpointConfig):
    """A teacher behind an OpenAI-compatible address."""

    kind: Literal["endpoint"]
    """Which teacher."""


class AssemblyConfig(AssembleConfig):
    """A coldstart stage that assembles the teacher's solutions into traces of numbered paths."""

    prompt: Place = "sequential"
    """Prompt of the teacher's solutions; the assembled traces carry the stage's own."""


class ColdstartConfig(StageConfig):
    """A teacher answers problems; what is well formed and right is kept as data for fine-tuning."""

    sections: ClassVar[Mapping[str, type[Config]]] = {}  # the teacher answers: neither our drawing nor our model
    kind: Literal["coldstart"]
    """Which stage."""
    problems: tuple[Place, ...] = Field(min_length=1)
    """Problem sets by name, or files."""
    limit: int | None = Field(None, ge=1)
    """Problems of each set; none: all."""
    teacher: Annotated[TaskTeacherConfig | EndpointTeacherConfig, Field(discriminator="kind")]
    """Who answers."""
    samples: int = Field(1, ge=1)
    """Responses per problem."""
    rule: Literal[RULES] = "strict"
    """Validity rule that kept responses follow."""
    right_only: bool = True
    """Keep right answers only."""
    concurrency: int = Field(8, ge=1)
    """Questions sent at the same time."""
    assemble: AssemblyConfig | None = None
    """Assemble several solutions of a problem into one trace; none: responses are traces already."""

    @model_validator(mode="after")
    def _can_summarise(self) -> ColdstartConfig:
        if self.assemble and self.assemble.summary == "teacher" and isinstance(self.teacher, TaskTeacherConfig):
            raise ValueError(f"the {self.teacher.kind} teacher writes no summaries of paths; take summary: template")
        return self


class SFTStage(StageConfig, SFTConfig):
    """Supervised fine-tuning on finished traces, laid out in the stage's mode."""

    kind: Literal["sft"]
    """Which stage."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    """Sources of traces, mixed by weight in every batch."""
    sample_problems: tuple[Place, ...] = ()
    """Problem sets or files of which some are answered at every checkpoint; the responses go to samples.jsonl."""
    log_samples: int = Field(8, ge=1)
    """How many problems of each of `sample_problems`."""


class GRPOStage(StageConfig, GRPOConfig):
    """Reinforcement learning on problems with checkable answers."""

    kind: Literal["grpo"]
    """Which stage."""
    problems: tuple[Place, ...] = Field(min_length=1)
    """Problem sets by name, or files; all of them together."""


class EvalStageBase(StageConfig):
    """A stage that measures the model of the last training stage and leaves none."""

    problems: tuple[Place, ...] = Field(min_length=1)
    """Problem sets by name, or files; each is measured by itself."""
    limit: int | None = Field(None, ge=1)
    """Problems of each set; none: all."""
    overlong_prompts: Overlong = "skip"
    """Problems that do not fit the context or cannot be read: skip and count them, or refuse the set."""
    answers: AnswerRule = "strict"
    """What is read as an answer (docs/reference/answers.md); lenient for models that were not trained here."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the weights while it is measured; none: as the model was saved. Trained with autocast: bfloat16 fits."""


class EvalConfig(EvalStageBase):
    """The model answers problems; every sample is graded."""

    kind: Literal["eval"]
    """Which stage."""
    samples: int = Field(8, ge=1)
    """Responses per problem: the k of mean@k, pass@k and maj@k."""
    greedy: bool = False
    """One more response at temperature 0; several paths are still sampled: see `path_temperature`."""
    best_of: tuple[int, ...] = ()
    """Also the accuracy of choosing one of n samples, for these n."""
    prompts: tuple[Place, ...] = ()
    """Evaluate with each of these prompts; none: the stage's prompt."""
    max_num_seqs: int = Field(64, ge=1)
    """Responses that the engine samples at once: speed and memory, not results."""
    kv_cache_memory_bytes: int | None = Field(None, ge=1)
    """Most bytes of keys and values at a time; what does not fit waits, and null sets no bound: speed, not results."""
    heads: bool = False
    """Also compare the attention heads on a few of the responses, for the report."""


class CompareStageConfig(EvalStageBase, CompareConfig):
    """Paths sampled at once against the other ways of answering with the same model (`evaluate.compare`)."""

    kind: Literal["compare"]
    """Which stage."""


class TunnelStageConfig(EvalStageBase, TunnelConfig):
    """One path or several for a token budget, and recovery from bad beginnings (`evaluate.tunnel`)."""

    kind: Literal["tunnel"]
    """Which stage."""


Stage = Annotated[
    ColdstartConfig | SFTStage | GRPOStage | EvalConfig | CompareStageConfig | TunnelStageConfig,
    Field(discriminator="kind"),
]


class Plan(Config):
    """A stage with all that determines its outcome. It runs on its own, given the folder of `previous`."""

    name: str
    """The stage's name in the recipe, and its folder."""
    stage: Any
    """The stage's own configuration."""
    seed: Seed
    """Seed of everything random in it."""
    previous: str | None
    """The nearest earlier stage that is not an evaluation."""
    digest: str = ""
    """Identity: the same content, files and predecessors give the same digest."""
    planned_inputs: dict[str, str] = Field(default_factory=dict)
    """What `inputs()` said when the digest was made."""

    def with_digest(self, previous: str | None) -> Self:
        """The plan with its identity: a hash of its content, the files it names, and the previous stage's digest."""
        content, inputs = counted(self.model_dump(mode="json")), self.inputs()
        identity = digest({"plan": content, "inputs": inputs, "previous": previous})
        return self.model_copy(update={"digest": identity, "planned_inputs": inputs})

    def inputs(self) -> dict[str, str]:
        """Hashes of the files and prompts that the plan names, by name."""
        raise NotImplementedError


class StagePlan(Plan):
    """A stage of a recipe for thinking in parallel."""

    stage: Stage
    """The stage's own configuration."""
    model: ModelConfig
    """Where the first model comes from, if no earlier stage left one."""
    dialect: str
    """Tags and rules of the traces."""
    mode: str
    """How traces are sampled and laid out."""
    chat: bool
    """Wrap prompts in the tokenizer's chat template."""
    prompt: str
    """Prompt name or file."""
    decoding: SamplingParams
    """Sampling parameters, with the recipe's and the stage's keys merged."""
    model_seed: Seed | None = None
    """Seed of the first model's random weights where the stage does not train it; none: the stage's."""

    @model_serializer(mode="wrap")
    def _model_seed_if_any(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without one the plan is as it was before there was this key, and so is its digest."""
        found = plain(self)
        if found.get("model_seed", 0) is None:
            del found["model_seed"]
        return found

    def inputs(self) -> dict[str, str]:
        """Hashes of the prompts, files and Python functions that the plan names: by content, not by name alone.

        A "module:function" counts with the source file of its module, not with what that file imports.
        """
        stage: Any = self.stage
        sources = getattr(stage, "data", ())
        prompts = {self.prompt, *getattr(stage, "prompts", ()), *(s.prompt for s in sources if s.prompt)}
        if assemble := getattr(stage, "assemble", None):
            prompts |= {assemble.prompt, assemble.summary_prompt}
        prompts |= {getattr(stage, "sequential_prompt", None)} - {None}
        problems = getattr(stage, "problems", ())
        files = {name for name in problems if Path(name).suffix.lower() in SUFFIXES}
        sets = {name: file for name in {*problems} - files if (file := file_of_set(name))}  # in POLYTHINK_DATA
        files |= {source.file for source in sources if source.file}
        files |= {self.dialect} if is_file(self.dialect) else set()
        has_model = not isinstance(stage, ColdstartConfig)
        if has_model and self.model.path:
            files |= {self.model.path}  # a folder comes before a hub id, also in `load`
        hashes = {f"prompt {name}": get_prompt(name).hash for name in prompts}
        hashes |= {name: hash_of_path(name) for name in files if Path(name).exists()}
        hashes |= {f"set {name}": hash_of_path(file) for name, file in sets.items()}
        functions = stage.reward.functions() if isinstance(stage, GRPOConfig) else ()
        for function in (*functions, *(self.decoding.functions() if has_model else ())):
            if source := source_of(function):
                hashes[f"function {function}"] = hash_of_path(source)
        return hashes


def plans_in_order(
    recipe: Any, measures: type[Config], make: Callable[[str, Any, list[Plan]], dict[str, Any]], kind: type[Plan]
) -> list[Plan]:
    """One plan of this kind per stage; `make(name, stage, earlier plans)` gives what is not common to all recipes.

    Stages of the type `measures` leave no model: what follows continues from the stage before them.
    """
    plans: list[Plan] = []
    before: Plan | None = None
    for name, stage in recipe.stages.items():
        own = make(name, stage, plans)
        seed = recipe.seed if stage.seed is None else stage.seed
        if getattr(stage, "report_to", ()) is None:
            stage = stage.model_copy(update={"report_to": recipe.report_to})
        plan = kind(name=name, stage=stage, model=recipe.model, seed=seed, previous=before and before.name, **own)
        plans.append(plan.with_digest(before and before.digest))
        before = before if isinstance(stage, measures) else plans[-1]
    return plans


def tracker_notes(plans: Sequence[Plan]) -> list[str]:
    """What will keep a tracker of the stages from working."""
    return list(trackers.notes([name for plan in plans for name in getattr(plan.stage, "report_to", None) or ()]))


def names_of_folders(stages: dict[str, Any]) -> dict[str, Any]:
    """The stages unchanged; `ValueError` for a name that a folder cannot have."""
    for name in stages:
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise ValueError(f"a stage's name becomes a folder: letters, digits, _ and -, not {name!r}")
    return stages


def name_of_folder(name: str) -> str:
    """The name unchanged; `ValueError` for one that leads out of the folder runs/."""
    parts = name.split("/")
    if any(part.strip() in ("", ".", "..") for part in parts) or not name.isprintable():
        raise ValueError(f"the name becomes a folder under runs/: give letters, digits, _ and -, not {name!r}")
    return name


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
    """Cached, since every stage of a recipe hashes the model's files; a change of the file shows in its arguments."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
