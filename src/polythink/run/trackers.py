"""Trackers: the rows that a training loop writes to its files, also given to TensorBoard, W&B or trackio.

The files metrics.jsonl and samples.jsonl come first and hold everything. A tracker is given the numbers of each row of
metrics under their names, and the step's samples as a table. Before the first step it is given the rows of the files
that it lacks, so after a stop it says what the files say: no point twice, none missing. A tracker that fails is left
out, with one sentence; the run goes on. Imports without torch and without any of the trackers.
"""

from __future__ import annotations

import html
import logging
import netrc
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator

from polythink.errors import UserError, install_extra
from polythink.run.config import Config
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.table import markdown_table

log = logging.getLogger(__name__)

PROJECT = "polythink"  # unless WANDB_PROJECT or TRACKIO_PROJECT names one
IDENTITY = "report_to.json"  # of a stage's run, which a resumed stage goes on with
COLUMNS = ("problem", "question", "text", "answer", "extracted", "verdict", "reward")  # of the table of samples
OFFLINE = ("offline", "dryrun", "disabled")  # values of WANDB_MODE
HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}  # of W&B's own service, before and since 2026
FINISH_TIMEOUT = 60  # seconds that W&B may upload after the last step; the rest stays on disk, for `wandb sync`

ReportTo = Annotated[
    tuple[Literal["tensorboard", "wandb", "trackio"], ...],
    BeforeValidator(lambda given: () if given == "none" else (given,) if isinstance(given, str) else given),
]


@dataclass(frozen=True)
class About:
    """The run that a tracker is told of: a stage's folder, an identity of its own, its configuration."""

    folder: Path
    id: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """RUN/STAGE."""
        return "/".join(self.folder.resolve().parts[-2:])


class Tracker(Protocol):
    """`last`: the last step that it has; `log` is given the later ones, in order."""

    last: int

    def __init__(self, about: About) -> None: ...
    def log(self, step: int, numbers: dict[str, float], samples: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in the stage's folder `tensorboard`, written anew when a stage is resumed."""

    last = 0

    def __init__(self, about: About):
        from torch.utils.tensorboard import SummaryWriter

        place = about.folder / "tensorboard"
        for old in place.glob("events.out.tfevents.*"):  # may hold steps that are done again
            old.unlink()
        self._writer = SummaryWriter(str(place))

    def log(self, step: int, numbers: dict[str, float], samples: Sequence[Mapping[str, Any]]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        if samples:
            columns = columns_of(samples)
            rows = [[_cell(sample.get(column)) for column in columns] for sample in samples]
            self._writer.add_text("samples", markdown_table(columns, rows), step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class Wandb:
    """A run of W&B, offline with WANDB_MODE=offline; resumed under its id."""

    def __init__(self, about: About):
        import wandb

        self._table = wandb.Table
        settings = wandb.Settings(console="off", finish_timeout=FINISH_TIMEOUT, finish_timeout_raises=False)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=about.name, id=about.id, resume="allow",
            dir=str(about.folder), config=about.config, settings=settings,
        )  # fmt: skip
        self.last = self._run.step - 1

    def log(self, step: int, numbers: dict[str, float], samples: Sequence[Mapping[str, Any]]) -> None:
        given: dict[str, Any] = dict(numbers)
        if samples:
            columns = columns_of(samples)
            rows = [["" if (value := s.get(c)) is None else str(value) for c in columns] for s in samples]
            given["samples"] = self._table(columns=columns, data=rows)
        self._run.log(given, step=step, commit=True)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio: on this machine, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says; resumed by its name."""

    def __init__(self, about: About):
        import trackio

        self._table = trackio.Table
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=f"{about.name}-{about.id}", config=about.config,
            resume="allow", embed=False,
        )  # fmt: skip
        self.last = self._run._next_step - 1  # it has no public word for it

    def log(self, step: int, numbers: dict[str, float], samples: Sequence[Mapping[str, Any]]) -> None:
        given: dict[str, Any] = dict(numbers)
        if samples:
            columns = columns_of(samples)
            given["samples"] = self._table(columns=columns, data=[[s.get(c) for c in columns] for s in samples])
        self._run.log(given, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def columns_of(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table of these samples."""
    return [column for column in COLUMNS if any(column in sample for sample in samples)]


def _cell(value: Any) -> str:
    """A value in a Markdown table, whose tags are to be seen."""
    text = "" if value is None else html.escape(str(value), quote=False)
    return text.replace("\n", "<br>")


# ---- the loop's side ----


class Rows(JsonlWriter):
    """A file of rows, each of which is passed on once it is written."""

    def __init__(self, path: Path, then: Callable[[dict], None]):
        super().__init__(path)
        self._then = then

    def write(self, row: dict) -> None:
        super().write(row)
        self._then(row)


class Trackers(ExitStack):
    """The trackers that `config.report_to` names, and the files of a stage's rows. For the first process alone.

    Open it once the files hold the finished steps only. `UserError` for a tracker that is not installed.
    """

    def __init__(self, folder: Path, config: Config):
        super().__init__()
        self._folder, self._waiting, self._failed = folder, [], False
        self._open: dict[str, Tracker] = {}
        if not config.report_to:
            return
        rows, samples = (read_jsonl(path) if path.is_file() else [] for path in map(self._file, ("metrics", "samples")))
        about = About(folder, identity(folder, is_new=not rows), config.model_dump(mode="json", fallback=str))
        for name in dict.fromkeys(config.report_to):
            with self._spared(name):
                self._open[name] = opened(name, about)
        if any(tracker.last < row["step"] for tracker in self._open.values() for row in rows):
            for row in rows:
                self._send(row, [sample for sample in samples if sample["step"] == row["step"]])

    def metrics(self) -> JsonlWriter:
        """The file of one row per step."""
        return Rows(self._file("metrics"), self._step)

    def samples(self) -> JsonlWriter:
        """The file of samples: those of a step are written before its row of metrics."""
        return Rows(self._file("samples"), self._waiting.append if self._open else lambda row: None)

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> bool | None:
        for name, tracker in list(self._open.items()):
            with self._spared(name):
                tracker.close(kind is not None)
        return super().__exit__(kind, *rest)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    def _step(self, row: dict) -> None:
        self._send(row, [sample for sample in self._waiting if sample["step"] == row["step"]])
        self._waiting.clear()

    def _send(self, row: dict, samples: Sequence[dict]) -> None:
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float) and key != "step"}
        for name, tracker in list(self._open.items()):
            if row["step"] > tracker.last:
                with self._spared(name):
                    tracker.log(row["step"], numbers, samples)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """Goes on without this tracker where it fails, and says so."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self._open.pop(name, None)
            said = " ".join(str(error).split()) or type(error).__name__
            log.warning(
                "report_to: %s failed (%s); the stage goes on without it, and %s holds every step", name, said,
                self._file("metrics"),
            )  # fmt: skip


def opened(name: str, about: About) -> Tracker:
    """The tracker; `UserError` where its package is not installed."""
    try:
        return TRACKERS[name](about)
    except ImportError as error:
        raise UserError(
            f"report_to: {name} needs a package that is not installed ({error}); {install_extra('log')} installs it, "
            "or leave it out"
        ) from None


def identity(folder: Path, is_new: bool) -> str:
    """What the stage's run is known by: that of its first steps, or a new one for a stage that begins."""
    file = folder / IDENTITY
    if is_new or not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {"id": uuid.uuid4().hex[:8]})
    return read_json(file)["id"]


def notes(report_to: Sequence[str]) -> Iterator[str]:
    """What is known before a run to keep a tracker from working, but for packages that are missing."""
    if "wandb" in report_to and os.environ.get("WANDB_MODE") not in OFFLINE and not _has_login():
        yield (
            "report_to: wandb finds no login of W&B, and runs go on without it; `wandb login`, set WANDB_API_KEY, or "
            "set WANDB_MODE=offline and send the runs later"
        )


def _has_login() -> bool:
    """Whether W&B has been logged in to, by its variable or as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = os.environ.get("WANDB_BASE_URL")
    hosts = {own.partition("://")[2].split("/")[0]} if own else HOSTS
    try:
        return not hosts.isdisjoint(netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False
