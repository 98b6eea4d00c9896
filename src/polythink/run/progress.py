"""A progress bar on stderr if that is a terminal; otherwise nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")


class Progress:
    """`with Progress(total, label) as bar: bar.advance(1, loss=0.3)`. `total=None` if the number is not known.

    `done` were finished before, and say nothing about how long the rest will take. Of nested bars only the outermost is
    shown. A bar with an empty label is never shown.
    """

    hidden = False  # set by `--quiet`
    _shown = False

    def __init__(self, total: int | None, label: str, done: int = 0):
        self.total, self.label = total, label
        self.done = done
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.label and sys.stderr.isatty() and not (Progress.hidden or Progress._shown):
            Progress._shown = True
            self._bar = _rich_bar()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, shown="")
            self._bar.start()
        return self

    def advance(self, n: int = 1, **shown: float | str | None) -> None:
        """Count `n` more as done. The metrics `shown` appear beside the bar until a later call replaces them."""
        self.done += n
        if self._bar is not None:
            text = {"shown": "  ".join(f"{name} {_brief(value)}" for name, value in shown.items())} if shown else {}
            self._bar.update(self._task, completed=self.done, **text)

    def part(self, share: float) -> None:
        """Show this share of the next one as done: so there is an estimate before the first slow one has ended."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + share)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            Progress._shown = False


def progress(items: Iterable[Item] | int, label: str) -> Iterator[Item]:
    """Yield the items under a progress bar. A number stands for its `range`."""
    items = range(items) if isinstance(items, int) else items
    with Progress(len(items) if isinstance(items, Sized) else None, label) as bar:
        for item in items:
            yield item
            bar.advance()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
    )  # fmt: skip
    # rich moves what is printed meanwhile to stderr, which would lose it where stdout is a file or a pipe
    # steps may take minutes: its own 30 seconds would hold one of them at most, and give no estimate
    return RichProgress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=1800,
    )  # fmt: skip


def _brief(value: float | str | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
