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
    """`UserError` for a model that is not there, one that names all packages and problem sets that stages need and that
    cannot be had, and one for a file that its stage could not read, or tags that its model has not."""
    for path in {plan.model.path for plan in plans if isinstance(plan, StagePlan) and plan.model.path}:
        check_path(path)
        check_packages(path)
    lacking = [*_packages_lacking(plans), *_sets_lacking(plans)]
    if lacking:
        raise UserError("; ".join(lacking))
    check_files(plans)
    check_tags(plans)


def _packages_lacking(plans: Sequence[Plan]) -> Iterator[str]:
    """Every package that is not installed, in one sentence, if there is one."""
    missing: dict[Need, dict[str, None]] = {}  # and the stages; arms of an experiment have some of one name
    for plan in plans:
        for kind in dict.fromkeys(needs(plan)):
            if not installed(NEEDS[kind].module):
                missing.setdefault(NEEDS[kind], {})[plan.name] = None
    if missing:
        what = "; ".join(f"{need.module} for {need.does} in {', '.join(names)}" for need, names in missing.items())
        packages = " ".join(need.module for need in missing)
        extra = f" (or {install_extra('log')}, which has all trackers)" * any(n.module in TRACKERS for n in missing)
        hint = " (sets of problems are also read from the folder that POLYTHINK_DATA names)"
        yield (
            f"not installed, and needed by stages of this recipe: {what}; pip install {packages}{extra}"
            + hint * (NEEDS["hub"] in missing)
        )


def _sets_lacking(plans: Sequence[Plan]) -> Iterator[str]:
    """A sentence for every set of problems that is neither made here nor in the data folder nor on the hub."""
    stages: dict[str, dict[str, None]] = {}
    for plan in plans:
        for name in dict.fromkeys(_sets(plan)):
            if not (_at_hand(name) or get_source(name.partition(":")[0]).repo):
                stages.setdefault(name, {})[plan.name] = None
    for name, names in stages.items():
        base, _, split = name.partition(":")
        source, several = get_source(base), len(names) > 1
        yield (
            f"the set {base} of {', '.join(names)} is on no hub (what it is: polythink explain {base}); name a folder "
            f"that holds {source.file_stem(split or source.splits[0])}{SUFFIXES[0]} in {DATA_FOLDER}, give the stage"
            f"{'s' * several} a file or another set of problems, or leave {'them' if several else 'it'} out: "
            f"{' '.join(f'{stage}=null' for stage in names)}"
        )


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
        if any(not _at_hand(name) and get_source(name.partition(":")[0]).repo for name in _sets(plan)):
            yield "hub"


def _sets(plan: Plan) -> Iterator[str]:
    """The problem sets, `NAME` or `NAME:SPLIT`, or files, that a stage names; none of a recipe for plain text."""
    if isinstance(plan, StagePlan):
        stage: Any = plan.stage
        yield from (*getattr(stage, "problems", ()), *getattr(stage, "sample_problems", ()))
        yield from (source.problems for source in getattr(stage, "data", ()) if source.problems)


def _at_hand(name: str) -> bool:
    """Whether a problem set is a file, is made here, or lies in the data folder."""
    return Path(name).suffix.lower() in SUFFIXES or bool(get_source(name.partition(":")[0]).task) or _in_file(name)


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
