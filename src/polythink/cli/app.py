"""The commands of `polythink`, one line each; imported only when they are called or their own help is asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from polythink.cli import console
from polythink.errors import UserError

FREE_TEXT = ("PROMPT", "KEY=VALUE", "NAME")  # metavars of parameters that are no paths
TRAINING, MODELS, FILES, HELP = "Train and compare", "Use a model", "Problems and traces", "Look things up"


# name: module and attribute in this package (a function, or a group of commands), panel and text in the main help
COMMANDS = {
    "train": ("runs:train", TRAINING, "Run the stages of a recipe and write a report."),
    "experiment": ("runs:experiment", TRAINING, "Compare recipes (arms) over seeds."),
    "report": ("runs:report", TRAINING, "Write the report of a run: curves, results, traces."),
    "params": ("params:params", TRAINING, "Count parameters and operations by module."),
    "bench": ("bench:app", MODELS, "Time decoding beside other engines and the floor."),
    "generate": ("generate:generate", MODELS, "Answer prompts, paths side by side."),
    "chat": ("chat:chat", MODELS, "Talk with a model, and watch its paths."),
    "serve": ("serve:serve", MODELS, "Serve a model to OpenAI clients and a browser."),
    "eval": ("eval:evaluate", MODELS, "Measure a model on a set of problems."),
    "export": ("export:export", MODELS, "Write a model as a GGUF file, for llama.cpp."),
    "data": ("data:app", FILES, "List problem sets, make a cold start, grade texts."),
    "trace": ("trace:app", FILES, "Check, convert or draw traces."),
    "show": ("show:show", FILES, "Show the traces of a run in the browser."),
    "recipes": ("recipes:recipes", HELP, "List the packaged recipes, or print one."),
    "explain": ("explain:explain", HELP, "Explain a recipe key, a reward, a metric, ..."),
}
# at the end of the help of every command; on one line of 80 columns
EXIT_STATUS = "Exit status: 0 success, 1 something found wrong, 2 mistaken input, 130 Ctrl-C."
EPILOG = """Begin with: polythink train countdown-smoke --out runs/smoke

Exit status: 0 success, 1 something was found wrong (an invalid trace, a failed stage), 2 a mistake in what was given,
130 interrupted (Ctrl-C)."""
IN_TRAINING = (
    "training runs on the GPU where there is one (CUDA_VISIBLE_DEVICES= before the command: on none), in the type that "
    "the recipe's key model.dtype says"
)


class Command(TyperCommand):
    """A command that says what to do about `--seed=5` and `--rl.steps 5`, where KEY=VALUE is meant, and about options
    that other commands have."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_keys = any(parameter.metavar == "KEY=VALUE" for parameter in self.params)
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for given, following in zip(args, [*args[1:], ""], strict=False):
            if given == "--":
                break
            name, equals, _ = given.partition("=")
            if name in ("--device", "--dtype") and self.name in ("train", "experiment"):
                raise UserError(f"{self.name} has no option {name}: {IN_TRAINING}")
            is_key = takes_keys and name not in known and (equals or "." in name)
            if is_key and re.fullmatch(r"--?[A-Za-z_][\w.-]*", name):
                meant = given.lstrip("-") + ("" if equals else f"={following or 'VALUE'}")
                raise UserError(f"no option {name}; if a key is meant: keys go without dashes: {meant}")
        return super().parse_args(ctx, args)


class LazyGroup(TyperGroup):
    """The main group. A command's module is imported when the command is called, not for the list of commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, panel, text) in COMMANDS.items():
            self.commands.setdefault(name, TyperCommand(name, help=text, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load(name: str) -> TyperCommand | TyperGroup:
    """The command of that name, with what all commands have: --quiet and --verbose, the exit status in the help, and
    `~` for the home folder in what they are given."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"polythink.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name, cls=Command)(function)
    command = typer.main.get_command(found)
    command.name = name
    for member in command.commands.values() if isinstance(command, TyperGroup) else [command]:
        member.epilog = "\n\n".join(filter(None, (member.epilog, EXIT_STATUS)))
        free = {parameter.name for parameter in member.params if parameter.metavar in FREE_TEXT}
        member.callback = _with_home(member.callback, free)
        for option in typer.main.get_group(app).params:
            if option.name in ("quiet", "verbose"):
                option.expose_value = False  # the commands' functions do not take them
                member.params.append(option)
    return command


def _with_home(callback: Callable[..., Any], free: Collection[str]) -> Callable[..., Any]:
    """The command's function, given paths with the home folder in place of `~`: the shell leaves `--out=~/x` as it is.

    `free` names the parameters that are text of any kind.
    """

    def expanded(given: Any) -> Any:
        if isinstance(given, list | tuple):
            return type(given)(map(expanded, given))
        if isinstance(given, Path):
            return given.expanduser()
        return os.path.expanduser(given) if isinstance(given, str) and given.startswith("~") else given

    @functools.wraps(callback)
    def called(**given: Any) -> Any:
        return callback(**{name: value if name in free else expanded(value) for name, value in given.items()})

    return called


def _set_level(option: typer.CallbackParam, wanted: bool) -> bool:
    if wanted:
        console.set_level(option.name)
    return wanted


def _version(wanted: bool) -> None:
    if wanted:
        print(f"polythink {importlib.metadata.version('polythink')}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    help="Train, run and evaluate language models that think in parallel.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", callback=_set_level, help="Print results and errors only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", callback=_set_level, help="Library warnings and times as well.")
    ] = False,
) -> None:
    if not (quiet or verbose):  # the command's own -q and -v are read later
        console.set_level("normal")
    context.call_on_close(console.print_times)
