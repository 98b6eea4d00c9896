"""The progress bar: there for a person at a terminal, silent otherwise, and never in the way of the items."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from polythink.run.progress import Progress, progress

CODE = """
from polythink.run.progress import Progress, progress
import sys
print(sum(progress([1, 2, 3], "adding")), sum(progress(4, "counting")), sum(progress(iter([5]), "open end")))
with Progress(10, "training") as bar:
    bar.advance(7, loss=0.12345, stage="rl")
    bar.advance()
with Progress(4, "resumed", done=2) as resumed:
    for share in (0.25, 0.5, 0.75):
        resumed.part(share)
    resumed.advance()
with Progress(77, "") as hidden:
    hidden.advance(76)
print(bar.done, "rich" in sys.modules)
"""


def test_items_pass_through_and_nothing_is_shown_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "6", "5", "8", "False"]
    assert done.stderr == ""


def test_a_terminal_shows_label_count_and_metrics() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, env=environment
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout.split()[:4] == ["6", "6", "5", "8"]
    for text in ("adding", "training", "8/10", "loss 0.123", "stage rl", "resumed", "3/4"):
        assert text in shown
    assert "76/77" not in shown


def test_the_bar_counts_even_when_it_is_not_shown() -> None:
    with Progress(None, "open end") as bar:
        bar.advance(2)
        bar.advance(reward=None)
    assert bar.done == 3
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    bar = Progress(9, "resumed", done=4)
    bar.part(0.5)
    bar.advance()
    assert bar.done == 5
