"""One recipe in several processes that a launcher started: the first leads, the others follow.

The first reads the recipe, holds the locks, runs every stage and writes all files. A stage that trains runs in all
processes at once, and all draw the samples of one that measures; between them the others wait for what they are to do.
Without a launcher there are no others.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polythink.errors import UserError
from polythink.pipeline.plan import Plan
from polythink.pipeline.runners import RUNNERS, starting_model
from polythink.pipeline.shared_engine import Draw, Open, SharedEngine, Train, open_engine
from polythink.pipeline.stage import TRAINS, Log
from polythink.run.memory import give_back_memory
from polythink.train import distributed

_together = False  # whether all processes are in a stage, none of them waiting


@contextmanager
def leading() -> Iterator[None]:
    """The first process, with the others at hand until the context closes. Its errors end them too."""
    global _together
    _together = False
    with distributed.processes():
        try:
            yield
        except Exception as error:
            if not (_together or distributed.is_known(error) or distributed.is_loss(error)):
                distributed.end_all(error)
            raise
        distributed.on_main(lambda: None)


def run(plan: Plan, folder: Path, previous: Path | None, log: Log) -> dict:
    """What the stage's runner gives, which all processes run if it trains."""
    global _together
    if plan.stage.kind not in TRAINS:
        return _run(plan, folder, previous, log)
    distributed.on_main(lambda: Train(plan, folder.absolute(), previous and previous.absolute()))
    _together = True
    found = _run(plan, folder, previous, log)
    _together = False
    return found


def _run(plan: Plan, folder: Path, previous: Path | None, log: Log) -> dict:
    found = RUNNERS[plan.stage.kind](plan, folder, previous, log)
    give_back_memory()
    return found


def follow() -> None:
    """Train with the first process until it says that all is done, or ends."""
    with distributed.processes():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        engine: SharedEngine | None = None
        while (order := distributed.on_main(lambda: None)) is not None:
            if isinstance(order, Draw):
                engine.part(order)
                continue
            engine = None
            if isinstance(order, Open):
                engine = open_engine(starting_model(order.plan, order.previous), order.plan, order.previous)
            else:
                check_shared(order.folder)
                _run(order.plan, order.folder, order.previous, lambda text: None)


def check_shared(folder: Path) -> None:
    """`UserError` where a folder of the first process is not there."""
    if not folder.is_dir():
        raise UserError(f"there is no {folder} on this machine; all machines of a run must share its folder")
