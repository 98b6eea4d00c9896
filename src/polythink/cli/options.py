"""Arguments and options that several commands share, declared once, and the names that the shell completes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from polythink.problems.prompts import PROMPTS
from polythink.problems.sets import sources


def argument(metavar: str, help: str, complete: Callable[[], list[str]] | None = None) -> Any:
    """An argument; `complete` gives the names among which the shell finds those that begin as typed."""
    return typer.Argument(metavar=metavar, help=help, autocompletion=complete)


def complete_problems() -> list[str]:
    """Names of problem sets, with and without their splits."""
    return [*sources(), *(f"{name}:{split}" for name, source in sources().items() for split in source.splits)]


def complete_prompt() -> list[str]:
    return list(PROMPTS)


Overrides = Annotated[
    list[str] | None, argument("KEY=VALUE", "Changes to it, such as rl.steps=50; `polythink explain KEY` says more.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder; runs/NAME if left out.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most N problems of each set.")]
File = Annotated[Path, typer.Argument(help="A .jsonl or .parquet file.")]
DialectName = Annotated[
    str | None, typer.Option("--dialect", help="Format of the tags; that of most traces if left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]

# ---- a teacher behind an endpoint ----

Endpoint = Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint: http://host/v1.")]
EndpointModel = Annotated[str | None, typer.Option("--model", help="The model to ask for at the endpoint.")]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable that holds the endpoint's key.")]
KeyHeader = Annotated[
    str | None, typer.Option(help="Header that carries the key as it is, such as api-key (Azure); else Authorization.")
]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--extra",
        metavar="FIELD=VALUE",
        help="A field of the endpoint's requests, such as top_p=0.9; null leaves one out: max_tokens=null.",
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="How many problems are asked at once.")]
DataFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder; an unfinished run in it is resumed.")]
