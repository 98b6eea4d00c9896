"""What this machine must have for a recipe to run to its end: packages beyond the core, and data that can be read.

Asked before the first stage and by `--dry-run`; reading a recipe does not need it. Imports without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from polythink.errors import UserError, install_extra
from polythink.models.place import check_packages, check_path
from polythink.pipeline.checks import about
from polythink.pipeline.plan import Plan, StagePlan
from polythink.pipeline.text import TextEvalConfig, TextPlan, TextStageConfig, named_sets, sets_of
from polythink.problems.sets import DATA_FOLDER, SUFFIXES, file_of_set, get_source, load_problems
from polythink.run.trackers import TRACKERS
from polythink.text.data.sets import check_first_pair, find_texts, is_file
from polythink.trace.dialect import get_dialect
from polythink.trace.modes import get_mode
from polythink.train.stored import check_first_row


class Need(NamedTuple):
    """Something that a stage does by a package beyond the core."""

    module: str
    does: str


NEEDS = {  # what a stage does -> the module by which it does it
    "bleu": Need("sacrebleu", "BLEU"),
    "bpe": Need("sentencepiece", "tokenizer.kind: bpe"),
    "numbers": Need("num2words", "number words"),
    "hub": Need("datasets", "sets of the hub"),
    "lora": Need("peft", "lora"),
    **{name: Need(name, f"report_to: {name}") for name in TRACKERS},
}


def check_requirements(plans: Sequence[Plan]) -> None:
    """`UserError` for a model that is not there, one that names every package which a stage needs and which is not
    installed, and one for a file that its stage could not read, or tags that its model has not."""
    for path in {plan.model.path for plan in plans if isinstance(plan, StagePlan) and plan.model.path}:
        check_path(path)
        check_packages(path)
    missing: dict[Need, list[str]] = {}
    for plan in plans:
        for kind in dict.fromkeys(needs(plan)):
            if not installed(NEEDS[kind].module):
                missing.setdefault(NEEDS[kind], []).append(plan.name)
    if missing:
        what = "; ".join(f"{need.module} for {need.does} in {', '.join(names)}" for need, names in missing.items())
        packages = " ".join(need.module for need in missing)
        extra = f" (or {install_extra('log')}, which has all trackers)" * any(n.module in TRACKERS for n in missing)
        hint = " (sets of problems are also read from the folder that POLYTHINK_DATA names)"
        raise UserError(
            f"not installed, and needed by stages of this recipe: {what}; pip install {packages}{extra}"
            + hint * (NEEDS["hub"] in missing)
        )
    check_files(plans)
    check_tags(plans)


def check_files(plans: Sequence[Plan]) -> None:
    """`UserError` for a file of problems, traces or texts that its stage could not use: hours may pass until it asks.

    Problems are all read, as the stage will; of traces and texts the first row alone, for they may be large.
    """
    seen: set[tuple[Callable, str]] = set()  # stages, and arms of an experiment, share files
    for plan in plans:
        for key, given, check in _files(plan):
            if (check, str(given)) not in seen:
                seen.add((check, str(given)))
                with about(f"stages.{plan.name}.{key}"):
                    check(given)


def check_tags(plans: Sequence[Plan]) -> None:
    """`UserError` for a model without the tags of a stage that forks, where a stage before it does not need them.

    The first stage itself refuses a model that it cannot use; what it does not need would be missed hours later.
    """
    kinds: dict[tuple[str, str], dict[bool, StagePlan]] = {}  # model and dialect -> whether tags are needed -> a stage
    for plan in plans:
        as_it_is = isinstance(plan, StagePlan) and plan.model.path and not plan.model.add_tags
        if as_it_is and plan.stage.kind != "coldstart":
            kinds.setdefault((plan.model.path, plan.dialect), {}).setdefault(_forks(plan), plan)
    for (path, dialect), by_need in kinds.items():
        if len(by_need) == 2:
            from polythink.models.source import Source  # with torch: for such recipes only
            from polythink.models.tags import tag_ids

            tokenizer, *_ = Source.of(path).described()
            with about(f"stages.{by_need[True].name}"):
                tag_ids(tokenizer, get_dialect(dialect))


def _forks(plan: StagePlan) -> bool:
    """Whether the stage draws or reads traces whose tags must be tokens of their own."""
    modes = {plan.mode, *(source.mode for source in getattr(plan.stage, "data", ()) if source.mode)}
    return any(get_mode(mode).isolated for mode in modes)


def _files(plan: Plan) -> Iterator[tuple[str, Any, Callable[[Any], object]]]:
    """The files that a stage reads: the key that names each, what it says, and what is asked of the file."""
    stage: Any = plan.stage
    if isinstance(plan, TextPlan):
        yield from ((key, name, check_first_pair) for key, name in named_sets(stage) if is_file(name))
        return
    for key in ("problems", "sample_problems"):
        yield from ((key, name, load_problems) for name in getattr(stage, key, ()) if _in_file(name))
    yield from (("data", source, check_first_row) for source in getattr(stage, "data", ()) if source.file is not None)


def _in_file(name: str) -> bool:
    """Whether a problem set is a file, or a named set that lies in the data folder."""
    return Path(name).suffix.lower() in SUFFIXES or file_of_set(name) is not None


def installed(module: str) -> bool:
    """Whether the module could be imported. Does not import it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # it is in sys.modules without a specification, or hidden there by None
        return False


def needs(plan: Plan) -> Iterator[str]:
    """Keys of `NEEDS` for what the stage does."""
    yield from getattr(plan.stage, "report_to", None) or ()
    if isinstance(plan, TextPlan):
        yield from _text_needs(plan)
    elif isinstance(plan, StagePlan):
        stage: Any = plan.stage
        if getattr(stage, "lora", None):
            yield "lora"
        sources = getattr(stage, "data", ())
        named = (*getattr(stage, "problems", ()), *getattr(stage, "sample_problems", ()))
        for name in (*named, *(source.problems for source in sources if source.problems)):
            if Path(name).suffix.lower() not in SUFFIXES and not _at_hand(name, plan.name):
                yield "hub"


def _at_hand(name: str, stage: str) -> bool:
    """Whether a named problem set is made here or lies in the data folder; `UserError` if it is nowhere."""
    base, _, split = name.partition(":")
    source = get_source(base)
    if source.task or _in_file(name):
        return True
    if not source.repo:
        file = f"{source.file_stem(split or source.splits[0])}{SUFFIXES[0]}"
        raise UserError(
            f"stages.{stage}: the set {base} is not on the hub; name a folder that holds {file} in {DATA_FOLDER}, or "
            "give a file"
        )
    return False


def _text_needs(plan: TextPlan) -> Iterator[str]:
    if isinstance(plan.stage, TextStageConfig) and plan.tokenizer.kind == "bpe":
        yield "bpe"
    if isinstance(plan.stage, TextEvalConfig) and plan.task == "translation":
        yield "bleu"
    for name in sets_of(plan.stage):
        if is_file(name):
            continue
        base, source, _ = find_texts(name)
        if source.draw is None:
            yield "hub"
        elif base.startswith("numbers-"):
            yield "numbers"
