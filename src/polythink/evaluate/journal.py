"""What is kept of an unfinished evaluation: every response as soon as it is graded, for the attempt that resumes.

The file, samples.partial.jsonl, begins with what was asked. Each further line is a row of samples.jsonl with what is
needed to go on from it: the call that sampled it (`draw`), the seconds of that call so far, and the rollout's token
ids. It is deleted when the result is written. Log-probabilities are not kept: no evaluation reads them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from polythink.engine.params import Event, Request
from polythink.errors import UserError
from polythink.evaluate.samples import Grading
from polythink.run.folder import take_lock, to_jsonable
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.plain import changes
from polythink.trace.rollout import Rollout
from polythink.trace.saved import from_json, to_json

OWN = ("draw", "seconds", "rollout")  # columns that samples.jsonl does not have
IN_ROW = ("kind", "block", "path", "label", "text", "finish_reason")  # what a row's segments say themselves
IN_LINE = ("problem", "sample")  # what a row says of the rollout itself


@dataclass(frozen=True)
class Kept:
    """A finished response: its rollout, its row of samples.jsonl, and the seconds of its call when it was finished."""

    rollout: Rollout
    row: dict
    seconds: float


class Journal:
    """The file, open for appending. `asked` maps what was asked; `UserError` if the file answers something else."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path, self.asked = path, to_jsonable(dict(asked))
        rows = read_jsonl(path) if path.is_file() else []
        if rows:
            refuse_another(path, rows[0].get("asked", {}), self.asked)
        self.kept: dict[str, dict[tuple[str, int], dict]] = {}  # call -> (problem, sample) -> line
        for row in rows[1:]:
            self.kept.setdefault(row["draw"], {})[row["problem"], row["sample"]] = row
        self._begun, self._lock = bool(rows), threading.Lock()
        self._writer: JsonlWriter | None = None
        self._held: int | None = None
        self._made, self._written = False, 0

    def of(self, draw: str, requests: Sequence[Request]) -> dict[int, Kept]:
        """What an earlier attempt finished of these requests of a call, by index."""
        kept = self.kept.get(draw, {})
        return {
            i: Kept(_rollout(line, request.prompt), _row(line), line["seconds"])
            for i, request in enumerate(requests)
            if (line := kept.get((request.problem, request.sample)))
        }

    def begin(self) -> None:
        """Open the file, for this process alone; a new one begins with what was asked."""
        if self._writer is None:
            self._made = not self.path.parent.exists()
            self._held = take_lock(self.path)
            if self._held is None:
                raise UserError(f"another process writes {self.path}; wait until it ends, or give another folder")
            self._writer = JsonlWriter(self.path)
        if not self._begun:
            self._writer.write({"asked": self.asked})
            self._begun = True

    def write(self, draw: str, kept: Kept) -> None:
        """Append a finished response. Any thread may."""
        with self._lock:
            self._written += 1
            self._writer.write({"draw": draw, "seconds": kept.seconds, **kept.row, "rollout": _saved(kept.rollout)})

    def close(self) -> None:
        """Let others have the file. One without a response is deleted, and so is a folder made for it alone."""
        if self._writer is not None:
            if not self.kept and not self._written:
                self.path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds something else
                    if self._made:
                        self.path.parent.rmdir()
            self._writer.close()
            os.close(self._held)
            self._writer = None

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


# ---- the same question ----


def refuse_another(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], found: str = "answers another question",
    instead: str = "resume it as it was asked, or give another folder",
) -> None:  # fmt: skip
    """`UserError` that names what differs between what was asked and what is asked now."""
    differences = changes(dict(before), to_jsonable(dict(now)))
    changed = [f"{key}: {old} -> {new}" for key, (old, new) in differences.items()]
    if changed:
        raise UserError(f"{path} {found} ({', '.join(changed)}); {instead}")


# ---- rollouts as JSON ----


def _saved(rollout: Rollout) -> dict:
    """What the row itself does not say."""
    saved = to_json(rollout, logprobs=False)
    segments = [{key: value for key, value in s.items() if key not in IN_ROW} for s in saved["segments"]]
    return {**{key: value for key, value in saved.items() if key not in IN_LINE}, "segments": segments}


def _rollout(line: dict, prompt: tuple[int, ...]) -> Rollout:
    facts = line["rollout"]
    segments = [
        {**{key: shown[key] for key in IN_ROW}, **own}
        for shown, own in zip(line["segments"], facts["segments"], strict=True)
    ]
    return from_json({**facts, **{key: line[key] for key in IN_LINE}, "segments": segments}, prompt)


def _row(line: dict) -> dict:
    return {key: value for key, value in line.items() if key not in OWN}


# ---- finishing responses while others are sampled ----


class Finishing:
    """Grades the rollouts of one call in threads of its own as they come, and keeps each in the journal, if any.

    `with Finishing(..) as finishing:` `on_event` is for the backend; `finished` has what it did not announce.
    """

    def __init__(self, grading: Grading, journal: Journal | None, draw: str, seconds: Any) -> None:
        self.grading, self.journal, self.draw, self.seconds = grading, journal, draw, seconds
        self.announced: dict[int, Future[Kept]] = {}  # by index into the requests that are sampled
        self._failure: BaseException | None = None

    def on_event(self, event: Event) -> None:
        """Take a rollout that is done; a failure to keep an earlier one stops the sampling here."""
        if event.rollout is not None:
            if self._failure is not None:
                raise self._failure
            self.announced[event.request] = self._pool.submit(self._finish, event.rollout)

    def finished(self, rollouts: Iterable[Rollout]) -> list[Kept]:
        """All of the call, in the order of its requests."""
        for i, rollout in enumerate(rollouts):
            if i not in self.announced:
                self.announced[i] = self._pool.submit(self._finish, rollout)
        return [self.announced[i].result() for i in sorted(self.announced)]

    def _finish(self, rollout: Rollout) -> Kept:
        try:
            kept = Kept(rollout, self.grading.row(rollout), self.seconds())
            if self.journal is not None:
                self.journal.write(self.draw, kept)
            return kept
        except BaseException as error:
            self._failure = error
            raise

    def __enter__(self) -> Finishing:
        self._pool = ThreadPoolExecutor(self.grading.grader.workers)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)  # after an interruption too: what was sampled is graded and kept
