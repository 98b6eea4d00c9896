"""A recipe: stages in order over one model, read from YAML, planned, and run in one folder.

RUN/recipe.yaml        the recipe with everything resolved
    environment.json   versions, machine, commit of the first attempt, and of those that resumed it
    stages.json        [{name, kind, folder}] in order
    STAGE/             one folder per stage (see `stage.py`)
    report.html        curves, table and traces

Reading and checking a recipe imports no torch: a typo is found at once. What runs a stage is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from polythink.engine.params import SamplingParams
from polythink.errors import UserError, did_you_mean
from polythink.models.config import ModelConfig
from polythink.models.place import check_path, place_of
from polythink.pipeline.arms import arm_of, split_arm
from polythink.pipeline.checks import about, check_plan, notes
from polythink.pipeline.plan import (
    ColdstartConfig,
    EvalStageBase,
    SFTStage,
    Stage,
    StagePlan,
    file_name,
    name_of_folder,
    names_of_folders,
    plans_in_order,
    tracker_notes,
)
from polythink.pipeline.requirements import check_requirements
from polythink.pipeline.stage import (
    LOCK,
    TRAINS,
    Log,
    check_folder,
    check_models,
    has_begun,
    run_stage,
)
from polythink.problems.sets import SUFFIXES, get_source
from polythink.problems.vocabulary import words_of
from polythink.run.config import (
    Config,
    Place,
    Seed,
    apply_overrides,
    dump_yaml,
    find_recipe,
    load_yaml,
    merge,
    parse_config,
)
from polythink.run.folder import folder_lock, listed_stages, record_attempt, sweep, write_json, write_text
from polythink.run.launcher import is_follower, launched
from polythink.run.trackers import ReportTo
from polythink.trace.dialect import get_dialect
from polythink.trace.modes import MODES

if TYPE_CHECKING:
    from polythink.pipeline.text import TextRecipe


class Recipe(Config):
    """Stages and what they share. Every stage may replace mode, prompt, seed, and keys of decoding."""

    sections: ClassVar[Mapping[str, type[Config]]] = {"decoding": SamplingParams, "model": ModelConfig}
    name: str
    """Name of the recipe, and of its folder under runs/."""
    seed: Seed = 0
    """Seed of everything random."""
    dialect: str = "parallel_r1"
    """Tags and rules of the traces."""
    mode: Literal[tuple(MODES)] = "structured"
    """How traces are sampled and laid out; `polythink explain modes` lists them."""
    prompt: Place = "none"
    """Prompt name, or a file with {problem} in it."""
    chat: bool = False
    """Wrap prompts in the tokenizer's chat template."""
    decoding: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters."""
    model: ModelConfig = ModelConfig()
    """Where the first model comes from."""
    report_to: ReportTo = ()
    """Where metrics and samples go beside their files: tensorboard, wandb, trackio, or a list of them."""
    stages: dict[str, Stage] = Field(min_length=1)
    """The stages by name, in order. `like: NAME` in one gives it the keys of an earlier one; null leaves one out."""

    _names = field_validator("stages")(names_of_folders)
    _name = field_validator("name")(name_of_folder)

    def plan(self) -> list[StagePlan]:
        """One plan per stage, in order; `UserError` for what cannot be run as it stands."""
        get_dialect(self.dialect)
        with about("model.tokenizer"):
            words_of(self.model.tokenizer)
        if self.model.path is not None and not place_of(self.model.path).file:  # a file is for `requirements`
            check_path(self.model.path)
        plans = plans_in_order(self, EvalStageBase, self._plan_of, StagePlan)
        for plan in plans:
            check_plan(plan)
        return plans

    def notes(self) -> list[str]:
        """What is allowed and hardly meant, in a sentence each; said before the first stage."""
        plans = self.plan()
        return [*notes(plans), *tracker_notes(plans)]

    def _plan_of(self, name: str, stage: Stage, earlier: Sequence[StagePlan]) -> dict[str, Any]:
        self._check(name, stage, earlier)
        mode = stage.mode or self.mode
        return {
            "dialect": self.dialect, "mode": mode, "chat": self.chat, "prompt": stage.prompt or self.prompt,
            "decoding": self._decoding(name, stage, mode), "model_seed": self._model_seed(stage, earlier),
        }  # fmt: skip

    def _model_seed(self, stage: Stage, earlier: Sequence[StagePlan]) -> int | None:
        """The seed of the model that a stage measures before any training, where the stage's own would draw another."""
        drawn = self.model.path is None or self.model.thought_embeddings
        if not drawn or not isinstance(stage, EvalStageBase) or any(plan.stage.kind in TRAINS for plan in earlier):
            return None
        first = next((one.seed for one in self.stages.values() if one.kind in TRAINS), None)
        seed, own = (self.seed if given is None else given for given in (first, stage.seed))
        return seed if seed != own else None

    def _decoding(self, name: str, stage: Stage, mode: str) -> SamplingParams:
        keys = self.decoding | stage.decoding
        if "mode" in keys:
            raise UserError(f"stages.{name}: decoding.mode follows from the stage's mode; set mode: {keys['mode']}")
        return parse_config(SamplingParams, {**keys, "mode": mode}, f"decoding of stage {name}")

    def _check(self, name: str, stage: Stage, before: Sequence[StagePlan]) -> None:
        """`UserError` for a stage whose problems or data are not there."""
        for key in ("problems", "prompts") if isinstance(stage, EvalStageBase) else ():
            given = getattr(stage, key, ())
            if len({file_name(x) for x in given}) < len(given):
                raise UserError(f"stages.{name}.{key}: two of them would write the same files; use two stages")
        for key in ("problems", "sample_problems"):
            for problems in getattr(stage, key, ()):
                check_problems(problems, f"stages.{name}.{key}")
        known = [plan.name for plan in before if isinstance(plan.stage, ColdstartConfig)]
        for source in stage.data if isinstance(stage, SFTStage) else ():
            if source.stage is not None and source.stage not in known:
                hint = did_you_mean(source.stage, known) if known else ""
                raise UserError(f"stages.{name}.data: no earlier coldstart stage {source.stage!r}{hint}")
            if source.file is not None and not Path(source.file).is_file():
                raise UserError(f"stages.{name}.data: no file {source.file}")
            if source.problems is not None:
                check_problems(source.problems, f"stages.{name}.data", synthetic=True)


def check_problems(name: str, where: str, synthetic: bool = False) -> None:
    """`UserError` unless the problem set is known or a file that is there; nothing is loaded."""
    if Path(name).suffix.lower() in SUFFIXES and not synthetic:
        if not Path(name).is_file():
            raise UserError(f"{where}: no file {name}")
        return
    base, _, split = name.partition(":")
    source = get_source(base)
    if split and split not in source.splits:
        raise UserError(f"{where}: {base} has no split {split!r}{did_you_mean(split, source.splits)}")
    if synthetic and not (source.task and source.task.styles):
        raise UserError(f"{where}: demonstrations are made for the synthetic sets only, not for {name!r}")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe | TextRecipe:
    """A packaged recipe or a file, with `stage.key=value` overrides, checked down to the plan of every stage.

    `EXPERIMENT:ARM` is an arm of an experiment. A recipe with a `task` trains on plain text. A stage that is set to
    null (in a recipe that extends another, or by an override) is left out.
    """
    data = apply_overrides(_load(name_or_path), overrides, shorthand="stages")
    recipe_class = _text_recipe() if "task" in data else Recipe
    _check_names(overrides, data.get("stages"), recipe_class)
    if isinstance(data.get("stages"), dict):
        data["stages"] = _like(data["stages"], str(name_or_path))
    recipe = parse_config(recipe_class, data, str(name_or_path))
    recipe.plan()
    return recipe


def _load(name_or_path: str | Path) -> dict:
    """The mapping of a recipe's file, or of an experiment's arm."""
    experiment, name = split_arm(name_or_path)
    if not name:
        return load_yaml(find_recipe(name_or_path))
    arm, run = arm_of(experiment, name)
    return apply_overrides(load_yaml(Path(arm.recipe)), arm.overrides, shorthand="stages") | {"name": run}


def _like(stages: dict[str, Any], where: str) -> dict[str, Any]:
    """The stages without those that are null; one with `like: NAME` has the keys of that earlier stage, and its own."""
    found: dict[str, Any] = {}
    for name, stage in stages.items():
        if isinstance(stage, dict) and "like" in stage:
            own = {key: value for key, value in stage.items() if key != "like"}
            if stage["like"] not in found:
                hint = did_you_mean(str(stage["like"]), found) if found else ""
                raise UserError(f"{where}: stages.{name}.like: no earlier stage {stage['like']!r}{hint}")
            stage = merge(found[stage["like"]], own)
        if stage is not None:
            found[name] = stage
    return found


def _text_recipe() -> type[TextRecipe]:
    from polythink.pipeline.text import TextRecipe

    return TextRecipe


def _check_names(overrides: Sequence[str], stages: Any, recipe_class: type[Config]) -> None:
    """`UserError` for an override that begins with neither a stage nor a key of the recipe."""
    known = [*(stages if isinstance(stages, dict) else ()), *recipe_class.model_fields]
    for override in overrides:
        first = override.partition("=")[0].split(".")[0].strip()
        if first not in known:
            hint = recipe_class.hint(first, stages if isinstance(stages, dict) else ())
            raise UserError(f"override {override!r}: unknown key {first}{hint}")


def run_recipe(recipe: Recipe | TextRecipe, out: str | Path, resume: bool = False, log: Log = print) -> Path:
    """Run all stages in the folder `out` and write the report; returns the report's path.

    Stages that are done are not run again. A recipe that is refused before any stage has done anything leaves nothing.
    Of several processes that a launcher started the first does all this, and the others train with it.
    """
    from polythink.report.report import write_report

    out, plans = Path(out).expanduser(), recipe.plan()
    if is_follower():
        from polythink.pipeline.together import follow

        follow()
        return out / "report.html"
    if holds_run(out) and not resume:
        raise UserError(f"{out} holds a run already; resume it, or give another folder for this one")
    if (held := begun_stages(out)) and not set(held) & {plan.name for plan in plans}:
        raise UserError(f"{out} holds a run of another recipe (its stages: {', '.join(held)}); give another folder")
    unfinished = [plan for plan in plans if check_folder(plan, out / plan.name) != "done"]
    check_requirements(unfinished)
    check_models(plans, lambda plan: out / plan.name)
    is_new = not out.exists()
    for note in recipe.notes():
        log(f"note: {note}")
    with _others(), folder_lock(out):
        sweep(out, deep=False)
        if unfinished:  # where nothing is left to do, nothing is said to have been done by this process
            record_attempt(out)
        write_text(out / "recipe.yaml", dump_yaml(recipe.model_dump(mode="json")))
        stages = [{"name": plan.name, "kind": plan.stage.kind, "folder": plan.name} for plan in plans]
        write_json(out / "stages.json", stages)
        try:
            for number, plan in enumerate(plans, 1):
                log(f"stage {number} of {len(plans)}: {plan.name} ({plan.stage.kind})")
                run_stage(plan, out / plan.name, out / plan.previous if plan.previous else None, resume=resume, log=log)
        except UserError:
            if not begun_stages(out):
                for name in ("recipe.yaml", "environment.json", "stages.json", LOCK):
                    (out / name).unlink(missing_ok=True)
                if is_new and not any(out.iterdir()):
                    out.rmdir()
            raise
        return write_report(out)


def _others() -> AbstractContextManager[None]:
    """The other processes that a launcher started, where one did."""
    if not launched():
        return nullcontext()
    from polythink.pipeline.together import leading  # with torch

    return leading()


def holds_run(out: Path) -> bool:
    """Whether a run was begun in this folder. One that was refused before it did anything does not count."""
    return bool(begun_stages(out)) or ((out / "recipe.yaml").exists() and not (out / "stages.json").exists())


def begun_stages(out: Path) -> list[str]:
    """The stages of the run in this folder that have done anything, by name."""
    return [stage["name"] for stage in listed_stages(out) if has_begun(out / stage["folder"])]
