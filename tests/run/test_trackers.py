"""Trackers are given what the files hold: every step once, also after a stop; what fails is said and stops nothing."""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

import pytest

from polythink.errors import UserError
from polythink.pipeline.recipe import load_recipe
from polythink.pipeline.requirements import check_requirements
from polythink.run import trackers
from polythink.run.config import Config
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.run.trackers import ReportTo, Trackers, identity, notes

REASON = "{} is not installed; pip install -e '.[log]' installs it"


class Keys(Config):
    report_to: ReportTo | None = None
    lr: float = 0.1


def train(folder, names, first: int, last: int) -> None:
    """A loop's rows from one step to another, as a resumed stage writes them: the files are cut to what is done."""
    for name in ("metrics", "samples"):
        if (file := folder / f"{name}.jsonl").is_file():
            write_jsonl(file, [row for row in read_jsonl(file) if row["step"] < first])
    with Trackers(folder, Keys(report_to=names)) as tracked, tracked.metrics() as metrics, tracked.samples() as samples:
        for step in range(first, last + 1):
            for number in range(2):
                text = f"<Path>a | {number}</Path>\nend {step}"
                samples.write({"step": step, "problem": f"p{number}", "text": text, "extracted": None, "segments": []})
            metrics.write({"step": step, "loss": 1 / step, "reward/format": step, "name": "x", "kl": None, "ok": True})


class Kept:
    """A tracker that keeps what it is given, in place of TensorBoard."""

    logged: ClassVar[list[tuple]] = []
    last = 0
    fails_at: int | None = None
    closed: ClassVar[list[bool]] = []

    def __init__(self, about):
        self.about = about
        type(self).last = max((step for step, _, _ in self.logged), default=0)

    def log(self, step, numbers, samples):
        if step == self.fails_at:
            raise ConnectionError("no network\nat all")
        self.logged.append((step, numbers, samples))

    def close(self, failed):
        self.closed.append(failed)


@pytest.fixture
def kept(monkeypatch):
    own = type("Own", (Kept,), {"logged": [], "closed": [], "last": 0})
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", own)
    return own


def test_a_tracker_is_given_the_numbers_and_the_samples_of_each_step_once(kept, tmp_path):
    train(tmp_path, "tensorboard", 1, 3)
    train(tmp_path, "tensorboard", 3, 4)  # stopped after a checkpoint at step 2: step 3 is done again
    assert [step for step, _, _ in kept.logged] == [1, 2, 3, 4]
    assert kept.logged[1][1] == {"loss": 0.5, "reward/format": 2.0, "ok": 1.0}
    assert [[s["problem"] for s in samples] for _, _, samples in kept.logged] == [["p0", "p1"]] * 4
    assert kept.closed == [False, False]


def test_a_tracker_that_lacks_steps_of_the_files_is_given_them_first(kept, tmp_path):
    train(tmp_path, "none", 1, 3)
    assert kept.logged == []
    train(tmp_path, "tensorboard", 4, 4)
    assert [step for step, _, _ in kept.logged] == [1, 2, 3, 4]
    assert [len(samples) for _, _, samples in kept.logged] == [2] * 4


def test_one_that_fails_is_said_once_and_left_out(kept, tmp_path, caplog):
    kept.fails_at = 2
    with caplog.at_level(logging.WARNING):
        train(tmp_path, "tensorboard", 1, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "report_to: tensorboard failed (no network at all); the stage goes on without it, and "
        f"{tmp_path}/metrics.jsonl holds every step"
    ]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [step for step, _, _ in kept.logged] == [1]


def test_a_loop_that_fails_is_told(kept, tmp_path):
    with pytest.raises(ZeroDivisionError), Trackers(tmp_path, Keys(report_to="tensorboard")):
        _ = 1 / 0
    assert kept.closed == [True]


def test_a_missing_package_is_said_before_the_first_step(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"report_to: wandb needs a package .*pip install -e '\.\[log\]'"):
        train(tmp_path, "wandb", 1, 1)
    recipe = load_recipe("countdown-smoke", ["report_to=wandb"])
    with pytest.raises(
        UserError, match=r"wandb for report_to: wandb in .*sft.*; pip install wandb \(or `pip install -e '\.\[log\]'`"
    ):
        check_requirements(recipe.plan())


def test_the_key_of_a_recipe_and_of_a_stage():
    plain = load_recipe("countdown-smoke").plan()
    kinds = {plan.name: plan.stage.report_to for plan in plain if hasattr(plan.stage, "report_to")}
    assert set(kinds.values()) == {()}
    named = load_recipe("countdown-smoke", ["report_to=[tensorboard, trackio]", "sft.report_to=none"]).plan()
    found = {plan.name: plan.stage.report_to for plan in named if hasattr(plan.stage, "report_to")}
    assert found["sft"] == ()
    assert {value for name, value in found.items() if name != "sft"} == {("tensorboard", "trackio")}
    assert [plan.digest for plan in named] == [plan.digest for plan in plain], "it changes no result"
    with pytest.raises(UserError, match="report_to"):
        load_recipe("countdown-smoke", ["report_to=mlflow"])


def test_a_login_that_is_missing_is_said_before_the_run(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (said,) = load_recipe("countdown-smoke", ["report_to=wandb"]).notes()
    assert "finds no login" in said
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not list(notes(["wandb"]))
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password none\n")
    assert not list(notes(["wandb"]))


def test_a_stage_that_begins_anew_has_a_new_identity(tmp_path):
    first = identity(tmp_path, is_new=True)
    assert identity(tmp_path, is_new=False) == first
    assert identity(tmp_path, is_new=True) != first


# ---- the real ones ----


def test_tensorboard_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason=REASON.format("tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "tensorboard", 1, 3)
    train(tmp_path, "tensorboard", 3, 4)
    read = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=False)
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["loss", "ok", "reward/format"]
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3, 4], "as the files hold them, none twice"
    assert [event.value for event in read.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    texts = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("samples/text_summary")]
    assert len(texts) == 4
    assert "&lt;Path&gt;a \\| 1&lt;/Path&gt;<br>end 4" in texts[-1]
    assert texts[-1].startswith("| problem | text")


def leveldb_records(data: bytes) -> list[bytes]:
    """The records of W&B's file: seven bytes that name it, then LevelDB's log format in blocks of 32 KiB."""
    records, at = [], 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that holds no further head
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part = data[at + 7 : at + 7 + size]
        if kind in (1, 2):  # whole, or the first part
            records.append(part)
        else:
            records[-1] += part
        at += 7 + size
    return records


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason=REASON.format("wandb"))
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path, "wandb", 1, 2)
    train(tmp_path, "wandb", 2, 3)  # each offline run holds all steps of the files under one id
    wandb.teardown()
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len({file.name for file in files}) == 1, "one identity"
    steps, tables = [], 0
    for data in leveldb_records(files[-1].read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "loss" in items:
            steps.append(int(items["_step"]))
            tables += any(key.startswith("samples") for key in items)
    assert steps == [1, 2, 3]
    assert tables == 3


def test_trackio_on_this_machine(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason=REASON.format("trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setenv("TRACKIO_PROJECT", f"p{identity(tmp_path / 'name', is_new=True)}")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    train(tmp_path, "trackio", 1, 2)
    train(tmp_path, "trackio", 2, 3)
    project = trackers.os.environ["TRACKIO_PROJECT"]
    (run,) = trackio.Api().runs(project)
    rows = SQLiteStorage.get_logs(project, run.name)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["loss"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3])
    assert all("samples" in row for row in rows)
