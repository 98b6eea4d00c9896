"""The commands of `polythink`, one line each; imported only when they are called or their own help is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from polythink.cli import console
from polythink.errors import UserError

TRAINING, MODELS, FILES, HELP = "Train and compare", "Use a model", "Problems and traces", "Look things up"


class Entry(NamedTuple):
    """A command: where its function or its own group `app` is, and what the main help says about it."""

    place: str  # module:attribute
    panel: str
    help: str


COMMANDS = {
    "train": Entry("polythink.cli.train:train", TRAINING, "Run the stages of a recipe and write a report."),
    "experiment": Entry("polythink.cli.experiment:experiment", TRAINING, "Compare recipes (arms) over seeds."),
    "report": Entry("polythink.cli.report:report", TRAINING, "Write the report of a run: curves, results, traces."),
    "params": Entry("polythink.cli.params:params", TRAINING, "Count parameters and operations by module."),
    "generate": Entry("polythink.cli.generate:generate", MODELS, "Answer prompts, paths side by side."),
    "eval": Entry("polythink.cli.eval:evaluate", MODELS, "Measure a model on a set of problems."),
    "data": Entry("polythink.cli.data:app", FILES, "List problem sets, make a cold start, grade texts."),
    "trace": Entry("polythink.cli.trace:app", FILES, "Check, convert or draw traces."),
    "recipes": Entry("polythink.cli.recipes:recipes", HELP, "List the packaged recipes, or print one."),
    "explain": Entry("polythink.cli.explain:explain", HELP, "Explain a recipe key, a reward, a metric, ..."),
}
EPILOG = """Begin with: polythink train countdown-smoke --out runs/smoke

Exit status: 0 success, 1 something was found wrong (an invalid trace, a failed stage), 2 a mistake in what was given,
130 interrupted (Ctrl-C)."""


class Command(TyperCommand):
    """A command that says what to do about `--seed=5` where KEY=VALUE is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_keys = any(parameter.metavar == "KEY=VALUE" for parameter in self.params)
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for given in args if takes_keys else ():
            name, equals, _ = given.partition("=")
            if equals and name.startswith("--") and name not in known:
                raise UserError(f"no option {name}; if a key is meant: keys go without dashes: {given[2:]}")
        return super().parse_args(ctx, args)


class LazyGroup(TyperGroup):
    """The main group. A command's module is imported when the command is called, not for the list of commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        stubs = {
            name: TyperCommand(name, help=entry.help, rich_help_panel=entry.panel) for name, entry in COMMANDS.items()
        }
        self.commands = {**stubs, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load(name: str) -> TyperCommand | TyperGroup:
    """The command of that name, with the options that all commands have."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
        command.name = name
        members = list(command.commands.values())
    else:
        single = typer.Typer(add_completion=False)
        single.command(name, cls=Command)(found)
        command = typer.main.get_command(single)
        members = [command]
    for member in members:
        member.params += _level_options()
    return command


# ---- options of every command ----


def _set_level(chosen: console.Level) -> Callable[[bool], bool]:
    def set_it(wanted: bool) -> bool:
        if wanted:
            console.set_level(chosen)
        return wanted

    return set_it


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_level("quiet"), help="Print results and errors only.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_set_level("verbose"), help="Library warnings and times as well.")
]


def _level_options() -> list[Any]:
    carrier = typer.Typer(add_completion=False)

    @carrier.command()
    def options(quiet: Quiet = False, verbose: Verbose = False) -> None: ...

    made = typer.main.get_command(carrier).params
    for option in made:
        option.expose_value = False  # the commands themselves do not take them
    return made


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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    if not (quiet or verbose):  # the command's own -q and -v are read later
        console.set_level("normal")
    context.call_on_close(console.print_times)


def refuse_dashed_keys(arguments: Sequence[str]) -> None:
    """`UserError` for `--rl_easy.steps=5`: no option has a dot in its name, so a key is meant."""
    for given in arguments:
        if given == "--":
            return
        if re.match(r"--?[A-Za-z_]\w*\.[\w.]+(=|$)", given):
            raise UserError(f"keys go without dashes: {given.lstrip('-')}")
