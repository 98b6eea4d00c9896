"""`polythink eval`: a model on a set of problems, or one way of answering them against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polythink.cli import console
from polythink.cli.model import (
    Decoding,
    Model,
    ModelChoice,
    backend_of,
    find_model,
    rollouts_of,
    settle,
    with_model_options,
)
from polythink.cli.options import Limit, complete_problems
from polythink.engine.kinds import OF_GGUF
from polythink.errors import UserError
from polythink.evaluate.config import CompareConfig, TunnelConfig
from polythink.evaluate.metrics import describe, show
from polythink.problems.problem import ANSWER_RULES
from polythink.problems.prompts import OVERLONG
from polythink.problems.sets import load_problems
from polythink.run.address import without_password
from polythink.run.config import apply_overrides, parse_config
from polythink.run.folder import check_new_folder, sweep
from polythink.run.table import markdown_table

if TYPE_CHECKING:
    from polythink.engine.protocol import RolloutBackend
    from polythink.problems.problem import ProblemSet
    from polythink.run.config import Config


@with_model_options
def evaluate(
    model: Model,
    overrides: Decoding = None,
    problems: Annotated[
        str,
        typer.Option(
            metavar="PROBLEMS",
            help="Name of a problem set, or a .jsonl or .parquet file.",
            autocompletion=complete_problems,
        ),
    ] = ...,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Responses per problem.")] = 8,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the results.")] = ...,
    split: Annotated[str | None, typer.Option(help="Split of the problem set.")] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of --limit and sampling.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    overlong_prompts: Annotated[
        str, typer.Option("--overlong", metavar="skip|refuse", help="Prompts that do not fit.")
    ] = "skip",
    answers: Annotated[str, typer.Option(metavar="RULE", help=f"Read: {', '.join(ANSWER_RULES)}.")] = "strict",
    greedy: Annotated[bool, typer.Option("--greedy", help="Sample one at temperature 0 too.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare ways to answer.")] = False,
    tunnel: Annotated[bool, typer.Option("--tunnel", help="Look for tunnel vision.")] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Compare attention heads too.")] = False,
    rollouts: Annotated[str | None, typer.Option(metavar="URL", help="Server that draws the responses.")] = None,
    choice: ModelChoice = ModelChoice(),
) -> None:
    """Measure a model on a set of problems.

    Samples responses, grades them, and writes eval.json: mean@k, pass@k, maj@k with intervals. --compare and --tunnel
    write compare.json or tunnel.json and a report; compare.paths, tunnel.budgets, rollouts.concurrency and so on are
    keys for KEY=VALUE.

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --samples 8 --limit 100 --out runs/smoke-eval

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --limit 100 --out runs/smoke-compare
    --compare compare.sequential_prompt=countdown_sequential "compare.paths=[1,2,4]"

    Example: polythink eval runs/smoke --problems countdown-hard:heldout --limit 100 --out runs/smoke-tunnel
    --tunnel "tunnel.budgets=[8,16]"
    """
    if compare + tunnel + (greedy or heads) > 1:
        raise UserError("--compare, --tunnel, and --greedy or --heads are three things; run them one after another")
    kind = "compare" if compare else "tunnel" if tunnel else ""
    if heads and choice.backend in OF_GGUF:
        raise UserError(f"--heads looks at attention inside the model, and --backend {choice.backend} hides it")
    if heads and rollouts:
        raise UserError("--heads looks at attention inside the model, and --rollouts names a server; leave one out")
    remote, changes = rollouts_of(rollouts, choice, overrides or [])
    options, changes = options_of(kind, changes, samples)
    place = find_model(model)
    if overlong_prompts not in OVERLONG:
        raise UserError(f"--overlong is {' or '.join(OVERLONG)}, not {overlong_prompts!r}")
    if answers not in ANSWER_RULES:
        raise UserError(f"--answers is one of {', '.join(ANSWER_RULES)}, not {answers!r}")
    out = out.expanduser()
    check_place(out, kind or "eval", resume)
    params, choice = settle(place, choice, changes)
    asked: dict[str, Any] = {
        "params": params, "seed": seed, "out": out, "resume": resume,
        "overlong_prompts": overlong_prompts, "answers": answers,
        "about": {"model": model, "problems": f"{problems}:{split}" if split else problems, "limit": limit}
        | ({"device": without_password(remote.url)} if remote else {}),
    }  # fmt: skip
    found = load_problems(problems, split=split, limit=limit, seed=seed)
    limits = (options.max_num_seqs, options.kv_cache_memory_bytes) if options else ()
    with backend_of(place, choice, remote, *limits) as backend:
        if options is None:
            _evaluate(backend, found, heads, **asked, samples=samples, greedy=greedy)
        else:
            _study(backend, found, options, **asked)
    sweep(out)


def check_place(out: Path, kind: str, resume: bool) -> None:
    """`UserError` unless `out` is new or empty, or, to be resumed, holds what this kind of evaluation left."""
    left = [name for name in (f"{kind}.json", "samples.partial.jsonl") if (out / name).is_file()]
    if left and resume:
        return
    hint = "add --resume to go on with that evaluation, or give another folder" if left else "give another folder"
    check_new_folder(out, f"there is nothing to resume in it; {hint}" if resume else hint)
    if resume:
        console.log(f"{out} holds nothing to resume: this is a new evaluation")


def options_of(kind: str, overrides: Sequence[str], samples: int) -> tuple[Config | None, list[str]]:
    """What --compare or --tunnel (`kind`) is asked to do, None without either, and the overrides that are left."""
    kinds = {"compare": (CompareConfig, {"samples": samples}),
             "tunnel": (TunnelConfig, {"samples": samples, "traces": samples})}  # fmt: skip
    own = [text for text in overrides if text.partition(".")[0] in kinds]
    if strange := [text for text in own if not (kind and text.startswith(f"{kind}."))]:
        raise UserError(f"{strange[0]} belongs to --{strange[0].partition('.')[0]}, which was not given")
    if not kind:
        return None, list(overrides)
    cls, data = kinds[kind]
    options = parse_config(cls, apply_overrides({kind: data}, own)[kind], f"eval --{kind}")
    return options, [text for text in overrides if text not in own]


def _evaluate(engine: RolloutBackend, found: ProblemSet, heads: bool, **asked: Any) -> None:
    """Evaluate with the arguments of `evaluate.run.evaluate`; a table of the metrics on the console."""
    from polythink.evaluate.run import evaluate as run_evaluation

    result = run_evaluation(engine, found, log=console.log, **asked)
    rows = [(name, show(name, estimate), describe(name).unit) for name, estimate in result["metrics"].items()]
    print(markdown_table(["metric", "value [95% interval]", "unit"], rows))
    if heads and not (asked["out"] / "heads.npz").exists():
        from polythink.evaluate.head_file import FILE, save
        from polythink.evaluate.heads import analyse_traces
        from polythink.evaluate.study import prompt_of

        found_heads = analyse_traces(engine, found, prompt_of(engine.lm.settings), asked["params"], asked["seed"])
        save(found_heads, asked["out"] / FILE)


def _study(engine: RolloutBackend, found: ProblemSet, options: Config, **asked: Any) -> None:
    """Compare, or look for tunnel vision; a table on the console, everything in the report."""
    from polythink.evaluate.compare import compare
    from polythink.evaluate.tunnel import tunnel
    from polythink.report.findings import budget_table, comparison_table, recovery_table
    from polythink.report.report import write_report

    run = compare if isinstance(options, CompareConfig) else tunnel
    tables = (comparison_table,) if run is compare else (budget_table, recovery_table)
    result = run(engine, found, options, log=console.log, **asked)
    for table in tables:
        head, rows = table(result)
        if rows:
            print(markdown_table(head, rows))
    print(f"report: {write_report(asked['out'])}")
