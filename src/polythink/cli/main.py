"""`polythink`: all verbs in one program. Heavy imports stand inside the commands, so that `--help` is quick."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from polythink.cli import data, trace
from polythink.cli.eval import evaluate
from polythink.cli.experiment import experiment
from polythink.cli.generate import generate
from polythink.cli.params import params
from polythink.cli.report import report
from polythink.cli.train import train
from polythink.errors import UserError

app = typer.Typer(
    help="Train, run and evaluate language models that think in parallel.",
    epilog="Begin with: polythink train countdown-smoke --out runs/smoke",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ENDINGS = {130: "interrupted", 143: "terminated"}  # 128 and the signal's number
TRAINING, MODELS, FILES = "Train and compare", "Use a model", "Problems and traces"

app.command("train", rich_help_panel=TRAINING)(train)
app.command("experiment", rich_help_panel=TRAINING)(experiment)
app.command("report", rich_help_panel=TRAINING)(report)
app.command("params", rich_help_panel=TRAINING)(params)
app.command("generate", rich_help_panel=MODELS)(generate)
app.command("eval", rich_help_panel=MODELS)(evaluate)
app.add_typer(data.app, name="data", rich_help_panel=FILES)
app.add_typer(trace.app, name="trace", rich_help_panel=FILES)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"polythink {importlib.metadata.version('polythink')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the program. A user's mistake is one line on stderr and exit status 2, an interruption one line and 128 plus
    the number of its signal."""
    # before torch is imported: threads that spin while they wait make shared cores ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except UserError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 2)
    except KeyboardInterrupt:
        _stop(ENDINGS[130], 130)
    except SystemExit as error:
        if error.code in ENDINGS:  # 130: typer has caught the interruption
            _stop(ENDINGS[error.code], error.code)
        raise


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as after an interruption: what is open is closed, started processes are stopped."""
    sys.exit(128 + number)


def _stop(sentence: str, status: int) -> None:
    print(f"polythink: {sentence}", file=sys.stderr)
    sys.exit(status)
