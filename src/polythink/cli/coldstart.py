"""`polythink data coldstart` and `data assemble`: a teacher's responses, made into data for fine-tuning."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from polythink.cli.options import (
    Concurrency,
    DataFolder,
    Endpoint,
    EndpointModel,
    Extra,
    KeyEnv,
    KeyHeader,
    Limit,
    argument,
    complete_problems,
    complete_prompt,
)
from polythink.errors import UserError, did_you_mean
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks.demonstrations import BLOCKS, FLAT, STYLES, DemonstrationTeacher
from polythink.problems.tasks.table import TEACHERS, get_task
from polythink.run.folder import read_json
from polythink.teachers.rows import check_kept, show_table
from polythink.trace.production import Dialect
from polythink.trace.validity import RULES


def coldstart(
    problems: Annotated[list[str], argument("PROBLEMS", "Names of problem sets, or files.", complete_problems)],
    out: DataFolder,
    endpoint: Endpoint = None,
    model: EndpointModel = None,
    key_env: KeyEnv = None,
    key_header: KeyHeader = None,
    extra: Extra = None,
    teacher: Annotated[str | None, typer.Option(help=f"Instead of an endpoint: {', '.join(TEACHERS)}.")] = None,
    style: Annotated[
        str | None,
        typer.Option(help=f"How a --teacher responds: {' or '.join(STYLES)}; if left out, as the prompt asks."),
    ] = None,
    paths: Annotated[int | None, typer.Option(min=1, help="Paths per block of a --teacher; 3 if left out.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each problem.")] = 1,
    dialect: Annotated[str, typer.Option(help="Dialect of the responses.")] = "parallel_r1",
    rule: Annotated[str, typer.Option(help=f"What is well formed: {', '.join(RULES)}.")] = "strict",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Name or file of the prompt; if left out, parallel, or what goes with the --teacher and its --style.",
            autocompletion=complete_prompt,
        ),
    ] = None,
    limit: Limit = None,
    concurrency: Concurrency = 8,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature of the endpoint.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response of the endpoint.")] = 4096,
    give_up_early: Annotated[
        int, typer.Option(min=1, help="Problems refused in a row after which the run stops, as every request may be.")
    ] = 5,
) -> None:
    """Ask a teacher, keep the responses that are well formed and right, and count why others are not kept.

    Example: polythink data coldstart gsm8k:train --endpoint http://localhost:8000/v1 --model NAME --out runs/cold
    """
    from polythink.problems.sets import load_problems
    from polythink.teachers.coldstart import run_coldstart
    from polythink.teachers.teacher import RetryPolicy
    from polythink.trace.dialect import get_dialect

    if (endpoint is None) == (teacher is None):
        raise UserError("a cold start needs either --endpoint URL or --teacher NAME")
    if teacher not in (None, *TEACHERS):
        raise UserError(f"no teacher {teacher!r}{did_you_mean(teacher, TEACHERS)}")
    for option, value in (("--paths", paths), ("--style", style)):
        if value is not None and teacher is None:
            raise UserError(f"{option} belongs to --teacher, which was not given")
    asked = _ask_endpoint(endpoint, model, key_env, key_header, extra, temperature=temperature, max_tokens=max_tokens)
    tags = get_dialect(dialect)
    own, chosen = None, get_prompt(prompt or "parallel")
    if teacher:
        own, chosen = _teacher_of(teacher, style, prompt, tags, paths or 3)
    with nullcontext(own) if own else asked as source:
        found = [problem for name in problems for problem in load_problems(name, limit=limit)]
        how = {"samples": samples, "concurrency": concurrency, "about_teacher": source.about, "dialect": tags}
        how |= {"retry": RetryPolicy(give_up_early=give_up_early)}
        table = run_coldstart(found, source, chosen, rule, out, **how)
    print(show_table(table), end="")
    check_kept(table, out)


def assemble(
    solutions: Annotated[Path, typer.Argument(help="Folder of a cold start with several samples per problem.")],
    overrides: Annotated[
        list[str] | None, argument("KEY=VALUE", "How, such as paths=[2,3,4], filter=mixed or summary=teacher.")
    ] = None,
    out: DataFolder = ...,
    dialect: Annotated[str, typer.Option(help="Dialect of the traces.")] = "parathinker",
    prompt: Annotated[
        str, typer.Option(help="Name or file of the prompt of training.", autocompletion=complete_prompt)
    ] = "parathinker",
    seed: Annotated[int, typer.Option(help="Of the choice of solutions and numbers.")] = 0,
    endpoint: Endpoint = None,
    model: EndpointModel = None,
    key_env: KeyEnv = None,
    key_header: KeyHeader = None,
    extra: Extra = None,
    concurrency: Concurrency = 8,
) -> None:
    """Put solutions of the same problem together as the paths of one trace, with a summary after them.

    Example: polythink data assemble runs/solutions "paths=[4,6]" filter=mixed wrong=0.3 --out runs/paths
    """
    from polythink.run.config import apply_overrides, parse_config
    from polythink.teachers.assemble import AssembleConfig, run_assembly
    from polythink.trace.dialect import get_dialect

    config = parse_config(AssembleConfig, apply_overrides({}, overrides or []), "data assemble")
    asked = _ask_endpoint(endpoint, model, key_env, key_header, extra)
    if (config.summary == "teacher") != (endpoint is not None):
        raise UserError("summary=teacher and --endpoint URL go together: that teacher writes the summaries")
    chosen, numbered = get_prompt(prompt), get_dialect(dialect)
    with asked as summariser:
        how = {"seed": seed, "summariser": summariser, "concurrency": concurrency}
        table = run_assembly(solutions, out, config, chosen, numbered, **how)
    dropped = read_json(out / "solutions.json")["dropped"]
    print(show_table(table), end="")
    if dropped:
        print("responses that are no paths: " + ", ".join(f"{reason} {count}" for reason, count in dropped.items()))
    check_kept(table, out)


def _teacher_of(
    name: str, style: str | None, prompt: str | None, dialect: Dialect, paths: int
) -> tuple[DemonstrationTeacher, Prompt]:
    """A synthetic teacher and the prompt that its responses are kept under: the two must not contradict each other."""
    task = get_task(name)
    chosen = get_prompt(prompt or (task.sequential_teacher_prompt if style == FLAT else task.teacher_prompt))
    style = style or chosen.style or BLOCKS
    own = task.teacher({style: 1}, dialect=dialect, paths=paths)
    chosen.check_styles((style,))
    return own, chosen


def _ask_endpoint(
    url: str | None, model: str | None, key_env: str | None, key_header: str | None, extra: list[str] | None, **how: Any
) -> AbstractContextManager[Any]:
    """A teacher at an OpenAI-compatible address, with its connections open; None inside without an address."""
    from polythink.run.config import apply_overrides, parse_config

    if url is None:
        if model or key_env:
            raise UserError("--model and --key-env belong to --endpoint, which was not given")
        if key_header or extra:
            raise UserError("--key-header and --extra belong to --endpoint, which was not given")
        return nullcontext()
    if not model:
        raise UserError("--endpoint needs --model NAME: the model to ask for at the endpoint")
    from polythink.teachers.endpoint import Endpoint, EndpointConfig

    how |= {"url": url, "model": model, "key_env": key_env, "key_header": key_header}
    return Endpoint(parse_config(EndpointConfig, how | {"extra": apply_overrides({}, extra or [])}, "--endpoint"))
