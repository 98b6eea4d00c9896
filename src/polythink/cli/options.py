"""Arguments and options that several commands share, declared once, and the names that the shell completes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in sorted(names) if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Names of packaged recipes; nothing here needs torch."""
    from polythink.cli.recipes import packaged

    return _starting([name for name, about in packaged().items() if not about.experiment], incomplete)


def complete_experiment(incomplete: str) -> list[str]:
    from polythink.cli.recipes import packaged

    return _starting([name for name, about in packaged().items() if about.experiment], incomplete)


def complete_any_recipe(incomplete: str) -> list[str]:
    from polythink.cli.recipes import packaged

    return _starting(list(packaged()), incomplete)


def complete_problems(incomplete: str) -> list[str]:
    from polythink.problems.sets import SOURCES

    names = [f"{name}:{split}" for name, source in SOURCES.items() for split in source.splits]
    return _starting([*SOURCES, *names], incomplete)


def complete_prompt(incomplete: str) -> list[str]:
    from polythink.problems.prompts import PROMPTS

    return _starting(list(PROMPTS), incomplete)


def complete_dialect(incomplete: str) -> list[str]:
    from polythink.trace.dialect import DIALECTS

    return _starting(list(DIALECTS), incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to it, such as rl.steps=50; `polythink explain KEY` says more."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder; runs/NAME if left out.", show_default=False)]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Name or file of a prompt; the model's own if left out.",
        show_default=False,
        autocompletion=complete_prompt,
    ),
]

# ---- a model and how it is run ----

MODEL_PANEL = "Model"
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a model, a stage, or a run (its last model), or a name on the Hugging Face hub.",
        show_default=False,
    ),
]
DecodingOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to its decoding, such as paths=4 or temperature=0.6."),
]
DialectName = Annotated[
    str | None,
    typer.Option(
        "--dialect", help="Dialect of its tags; what its polythink.json says if left out.", show_default=False,
        rich_help_panel=MODEL_PANEL, autocompletion=complete_dialect,
    ),
]  # fmt: skip
Mode = Annotated[
    str | None,
    typer.Option(
        help="structured or sequential; what its polythink.json says if left out.", show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]  # fmt: skip
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat", help="Wrap prompts in the tokenizer's chat template.", show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps; a GPU if there is one.", show_default=False, rich_help_panel=MODEL_PANEL
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16; as the model was saved if left out.", show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]  # fmt: skip
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Responses that are generated at once; 64 if left out.", show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]  # fmt: skip

# ---- a teacher behind an endpoint ----

Endpoint = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible endpoint: http://host/v1.", show_default=False)
]
EndpointModel = Annotated[
    str | None, typer.Option("--model", help="The model to ask for at the endpoint.", show_default=False)
]
KeyEnv = Annotated[
    str | None, typer.Option(help="Environment variable that holds the endpoint's key.", show_default=False)
]
Concurrency = Annotated[int, typer.Option(min=1, help="How many problems are asked at once.")]
DataFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Folder; an unfinished run in it is resumed.", show_default=False)
]
