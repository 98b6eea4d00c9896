"""`polythink data coldstart`: a teacher's responses, filtered into data for fine-tuning."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import typer

from polythink.cli.options import (
    Concurrency,
    DataFolder,
    Endpoint,
    EndpointModel,
    KeyEnv,
    complete_problems,
    complete_prompt,
)
from polythink.errors import UserError, did_you_mean
from polythink.trace.validity import RULES

TEACHERS = ("countdown",)


def coldstart(
    problems: Annotated[
        list[str],
        typer.Argument(
            metavar="PROBLEMS", help="Names of problem sets, or files.", show_default=False,
            autocompletion=complete_problems,
        ),
    ],
    out: DataFolder,
    endpoint: Endpoint = None,
    model: EndpointModel = None,
    key_env: KeyEnv = None,
    teacher: Annotated[
        str | None, typer.Option(help=f"Instead of an endpoint: {', '.join(TEACHERS)}.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each problem.")] = 1,
    rule: Annotated[str, typer.Option(help=f"What is well formed: {', '.join(RULES)}.")] = "strict",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Name or file of the prompt; parallel if left out.", show_default=False, autocompletion=complete_prompt
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N problems of each set.", show_default=False)
    ] = None,
    concurrency: Concurrency = 8,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature of the endpoint.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response of the endpoint.")] = 4096,
) -> None:  # fmt: skip
    """Ask a teacher, keep the responses that are well formed and right, and count why others are not kept.

    Example: polythink data coldstart gsm8k:train --endpoint http://localhost:8000/v1 --model NAME --out runs/cold
    """
    from polythink.problems.prompts import get_prompt
    from polythink.problems.sets import load_problems
    from polythink.teachers.coldstart import run_coldstart
    from polythink.teachers.rows import show_table

    if (endpoint is None) == (teacher is None):
        raise UserError("a cold start needs either --endpoint URL or --teacher NAME")
    if teacher is not None and (model or key_env):
        raise UserError("--model and --key-env belong to --endpoint, not to --teacher")
    asked = _synthetic(teacher) if teacher else ask_endpoint(endpoint, model, key_env, temperature, max_tokens)
    chosen = get_prompt(prompt or ("countdown_parallel" if teacher else "parallel"))
    sets = [load_problems(name, limit=limit) for name in problems]
    with asked as source:
        table = run_coldstart(
            [problem for found in sets for problem in found],
            source,
            chosen,
            rule,
            out,
            samples=samples,
            concurrency=concurrency,
            about_teacher=source.about,
        )
    print(show_table(table), end="")


def _synthetic(name: str) -> AbstractContextManager[Any]:
    from polythink.problems.tasks.countdown import CountdownTeacher

    if name not in TEACHERS:
        raise UserError(f"no teacher {name!r}{did_you_mean(name, TEACHERS)}")
    return nullcontext(CountdownTeacher({"parallel": 1}))


def ask_endpoint(
    url: str, model: str | None, key_env: str | None, temperature: float = 1.0, max_tokens: int = 4096
) -> AbstractContextManager[Any]:
    """A teacher behind an OpenAI-compatible address, with its connections open."""
    from polythink.teachers.endpoint import Endpoint, EndpointConfig

    if not model:
        raise UserError("--endpoint needs --model NAME: the model to ask for at the endpoint")
    config = EndpointConfig(url=url, model=model, key_env=key_env, temperature=temperature, max_tokens=max_tokens)
    return Endpoint(config)
