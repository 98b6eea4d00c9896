"""Several processes that train one model: `torchrun --nproc-per-node 8 -m polythink train RECIPE`, also on many nodes.

Every process runs the same loop over the same whole batch, of which it draws, grades and trains its part. What a part
came to is given to all (`gathered`), so that all take the same decisions: the same number of updates, forwards and
collectives, whatever the data. Files are written by the first process (`on_main`). An error of one process is raised on
all. Without a launcher there is one process, and these functions do nothing.

The weights are divided in `sharding.py`. The folder of a run must be the same on all nodes.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from polythink.errors import UserError
from polythink.run.launcher import launched
from polythink.train.watch import Watch

Item = TypeVar("Item")
PROMPT = timedelta(minutes=10)  # until a collective to which all processes come at once is given up
# One process may draw, grade or evaluate for hours while the others wait. One that dies is noticed at once all the
# same, since its connections close, and one that falls silent by `watch`.
PATIENT = timedelta(days=7)
LOST = (
    "another process of this run was killed or has ended with an error, so this one ends too; "
    "see what that one said, and start all of them again with --resume"
)

SILENT = (
    "another process of this run gives no sign of life (its machine may be down), so this one ends; "
    "start all of them again with --resume"
)

_patient: dist.ProcessGroup | None = None
_watch: Watch | None = None
_known: Exception | None = None  # the error that all have been told of
_well = True  # whether no context has ended with an error


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes of the launcher, for the rest of this process.

    `UserError` where they cannot be reached, or one of them is gone while the context is open.
    """
    global _well
    if not (launched() or dist.is_initialized()):
        yield
        return
    try:
        _well = False
        if _patient is None:
            _join()
        yield
        _well = True
    except (RuntimeError, ValueError) as error:
        if not is_loss(error):
            raise
        raise UserError(LOST) from error


@atexit.register
def _leave() -> None:
    if _well and dist.is_initialized():  # after an error the others do not come to it: the end of this process does it
        if _watch is not None:
            _watch.leave()
        dist.destroy_process_group()


def _join() -> None:
    global _patient, _watch
    backend, local = "gloo", int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        if local >= (gpus := torch.cuda.device_count()):
            raise UserError(
                f"process {local} of this machine has no GPU of its own, there are {gpus}; "
                f"start at most {gpus} processes here (--nproc-per-node {gpus})"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        with _ended_at_once():
            if not dist.is_initialized():
                dist.init_process_group(backend, timeout=PROMPT)
            _patient = dist.new_group(backend="gloo", timeout=PATIENT)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the processes of this run cannot meet at {place}: {reason}; start all of them again"
        ) from error
    if launched() and dist.get_world_size() > 1:
        _watch = Watch(dist.get_rank(), dist.get_world_size(), SILENT)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Python's handlers do not run while the others are waited for in C++: the launcher must be able to end that."""
    try:
        before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except ValueError:  # not the main thread, which no signal reaches
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone. Gloo has no class of errors for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def patient() -> dist.ProcessGroup | None:
    """The group, over the CPU, of what may take its time."""
    return _patient


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def shown(label: str) -> str:
    """The label of a progress bar: "" but in the first process, so that there is one bar."""
    return label if is_main() else ""


# ---- what all processes know ----


def gathered(work: Callable[[], Item]) -> list[Item]:
    """What `work` gives in each process, in their order, in all processes.

    An error in one ends all: the first process raises it, with one sentence; the others end quietly, with exit status
    2. One that is no mistake of the user's is also raised, with its traceback, where it occurred.
    """
    if world_size() == 1:
        return [work()]
    value, own = None, None
    try:
        value = work()
    except Exception as error:
        own = error
    said = None if own is None else _sentence(own)
    found: list[tuple[Item, str | None]] = [(None, None)] * world_size()
    dist.all_gather_object(found, (value, said), group=_patient)
    first = next((text for _, text in found if text is not None), None)
    if first is None:
        return [value for value, _ in found]
    global _known
    if own is not None and (is_main() or not isinstance(own, UserError | OSError)):
        _known = own
    elif is_main():
        _known = UserError(first)
    else:
        raise SystemExit(2)
    raise _known


def is_known(error: Exception) -> bool:
    """Whether all processes have been told of this error, and end."""
    return error is _known


def on_main(work: Callable[[], Item]) -> Item:
    """What `work` gives in the first process, which alone does it, in all of them. An error ends all."""
    return gathered(lambda: work() if is_main() else None)[0]


def end_all(error: Exception) -> NoReturn:
    """Raise an error of the first process in all of them, which wait in `on_main`."""

    def fail() -> NoReturn:
        raise error

    on_main(fail)
    raise error


def shared(work: Callable[[], Item]) -> Item:
    """What `work` gives in this process; an error in any ends all."""
    own: list[Item] = []
    gathered(lambda: own.append(work()))
    return own[0]


def entered_on_main(stack: ExitStack, make: Callable[[], AbstractContextManager[Item]]) -> Item | None:
    """A context, such as a file or a lock, that the first process alone enters; None in the others."""
    return shared(lambda: stack.enter_context(make()) if is_main() else None)


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"process {rank()} of {world_size()} ended with {type(error).__name__}: {error}"


# ---- the part of one process ----


def own_run(items: Sequence[Item]) -> list[Item]:
    """The items that this process works on: one run of them, so that the parts of all in order are all items."""
    count, world = len(items), world_size()
    return list(items[count * rank() // world : count * (rank() + 1) // world])


def joined(work: Callable[[], list[Item]]) -> list[Item]:
    """The lists that `work` gives in each process, one after another, in all processes."""
    return [item for part in gathered(work) for item in part]


def own_rounds(parts: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
    """The micro-batches that this process runs, and whether each counts.

    Every forward and backward takes all processes, so each runs as many: where the parts do not come out even, the last
    is run again, for nothing.
    """
    own = [(part, True) for part in parts[rank() :: world_size()]]
    rounds = -(-len(parts) // world_size())
    return own if len(own) == rounds else [*own, (parts[-1], False)]
