"""The run folder under bad luck: a disk that is full, a process that is killed, a line that is torn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from polythink.errors import UserError
from polythink.run.folder import (
    atomic_write,
    check_new_folder,
    environment,
    provenance,
    read_json,
    record_attempt,
    sweep,
    write_bytes,
    write_json,
    write_text,
)
from polythink.run.jsonl import read_jsonl, write_jsonl


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole files ----


def test_files_are_written_whole_and_into_new_folders(tmp_path) -> None:
    write_text(tmp_path / "a" / "b" / "t.txt", "é\n")
    write_bytes(tmp_path / "a" / "b" / "t.bin", b"\x00\xff")
    write_json(tmp_path / "a" / "b" / "t.json", {"x": [1, 2.5, None], "p": Path("q"), "n": float("nan")})
    write_jsonl(tmp_path / "a" / "b" / "t.jsonl", [{"a": 1}, {"a": np.float32(0.5), "b": np.arange(2)}])
    assert (tmp_path / "a/b/t.txt").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "a/b/t.bin").read_bytes() == b"\x00\xff"
    assert read_json(tmp_path / "a/b/t.json") == {"x": [1, 2.5, None], "p": "q", "n": None}
    assert read_jsonl(tmp_path / "a/b/t.jsonl") == [{"a": 1}, {"a": 0.5, "b": [0, 1]}]
    assert names(tmp_path / "a" / "b") == ["t.bin", "t.json", "t.jsonl", "t.txt"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path) -> None:
    write_text(tmp_path / "t", "old")

    def interrupted() -> None:
        with atomic_write(tmp_path / "t") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "t").read_text() == "old"
    assert names(tmp_path) == ["t"]


def test_a_path_that_cannot_be_written_is_named(tmp_path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(UserError, match=r"cannot write .*file/t\.json: .*(Not a directory|File exists)"):
        write_json(tmp_path / "file" / "t.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder: Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_missing_and_broken_json_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*t\.json: No such file"):
        read_json(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*t\.json: not valid JSON"):
        read_json(tmp_path / "t.json")


# ---- a full disk: a limit on the size of files, and where we may mount one a real small disk ----

WRITE_TOO_MUCH = """
import resource, signal, sys
from polythink.errors import UserError
from polythink.run.folder import write_json
from polythink.run.jsonl import JsonlWriter, write_jsonl
folder, kind = sys.argv[1:]
if kind == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for write, name, data in (
    (write_json, "eval.json", {"value": "x" * 200_000}),
    (write_jsonl, "samples.jsonl", ({"row": i, "text": "x" * 1000} for i in range(200))),
):
    try:
        write(f"{folder}/{name}", data)
    except UserError as error:
        print(error)
writer = JsonlWriter(f"{folder}/metrics.jsonl")
try:
    for step in range(1000):
        writer.write({"step": step, "text": "x" * 150})
except UserError as error:
    print(error)
    print(step)
"""


@contextmanager
def mounted(folder: Path) -> Iterator[bool]:
    """A disk of 64 KiB at `folder`; False where we may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    done = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(folder)], check=True)


def kinds_of_full_disk() -> list[str]:
    with tempfile.TemporaryDirectory() as folder, mounted(Path(folder) / "disk") as possible:
        return ["limit", "disk"] if possible else ["limit"]


@pytest.mark.parametrize("kind", kinds_of_full_disk())
def test_a_full_disk_keeps_the_old_file_and_the_rows_before_it(tmp_path, kind: str) -> None:
    folder = tmp_path / "disk"
    with mounted(folder) if kind == "disk" else nullcontext(folder.mkdir()):
        write_json(folder / "eval.json", {"value": 1})
        command = [sys.executable, "-c", WRITE_TOO_MUCH, str(folder), kind]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        reason = "No space left on device" if kind == "disk" else "File too large"
        assert lines[:3] == [
            f"cannot write {folder}/{n}: {reason}" for n in ("eval.json", "samples.jsonl", "metrics.jsonl")
        ]
        assert names(folder) == ["eval.json", "metrics.jsonl"]
        assert read_json(folder / "eval.json") == {"value": 1}
        assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == list(range(int(lines[3])))
        assert int(lines[3]) > 100
        assert (folder / "metrics.jsonl").read_bytes().endswith(b"\n")
        if kind == "disk":
            (folder / "metrics.jsonl").unlink()
            write_json(folder / "eval.json", {"value": 2})
            assert read_json(folder / "eval.json") == {"value": 2}


# ---- environment ----


def test_the_environment_says_what_a_result_depends_on() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= found["cpus"] <= os.cpu_count()


def test_the_first_attempt_is_kept_for_ever_and_later_ones_follow(tmp_path, monkeypatch) -> None:
    for command in ("train a", "train a --resume", "train a --resume -q"):
        monkeypatch.setattr(sys, "argv", command.split())
        record_attempt(tmp_path)
    found = read_json(tmp_path / "environment.json")
    assert found["command"] == ["train", "a"]
    assert found.keys() == environment().keys() | {"later_attempts"}
    assert [again["command"] for again in found["later_attempts"]] == [
        ["train", "a", "--resume"], ["train", "a", "--resume", "-q"],
    ]  # fmt: skip
    assert found["later_attempts"][0].keys() == environment().keys()


def test_a_provenance_is_flat_and_complete(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/polythink/__main__.py", "eval", "a b", "--out", "o"])
    found = provenance(model="m", seed=3, problems="aime24:test", limit=5)
    assert list(found) == [
        "model", "weights", "version", "commit", "command", "date", "device", "dtype", "torch", "transformers",
        "python", "seed", "problems", "limit",
    ]  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert not any(isinstance(value, dict | list) for value in found.values())
    assert found["command"] == "polythink eval 'a b' --out o"
    monkeypatch.setattr(sys, "argv", ["/x/polythink", "eval", "--rollouts", "http://user:word@host:8000/v1"])
    assert provenance()["command"] == "polythink eval --rollouts 'http://***@host:8000/v1'", "without the password"
    assert (found["model"], found["weights"], found["seed"], found["limit"]) == ("m", None, 3, 5)
    assert found["version"] == environment()["packages"]["polythink"]


# ---- folders that are in use ----


def test_only_a_new_or_empty_folder_is_new(tmp_path) -> None:
    check_new_folder(tmp_path / "a" / "b", "give another")
    (tmp_path / "a").mkdir()
    for name in ("lock", ".eval.json.1234abcd.tmp"):
        (tmp_path / "a" / name).touch()
    check_new_folder(tmp_path / "a", "give another")
    for name in ("w", "x", "y", "z"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(UserError, match=r"/a is in use: it holds w, x, y and 1 more; give another$"):
        check_new_folder(tmp_path / "a", "give another")
    for place in ("a/w", "a/w/x/y"):
        with pytest.raises(UserError, match=rf"cannot write .*{place}: .*/a/w is a file, and --out names a folder"):
            check_new_folder(tmp_path / place, "give another")


def test_the_rests_of_a_killed_process_are_swept(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".x.json.1234abcd.tmp", "a/.y.1234abcd.tmp", "a/kept.tmp", "a/.kept"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == [".kept", "kept.tmp"]


def test_a_file_that_holds_the_same_already_is_left_alone(tmp_path) -> None:
    write_json(tmp_path / "t.json", {"a": 1})
    before = (tmp_path / "t.json").stat()
    write_json(tmp_path / "t.json", {"a": 1})
    assert (tmp_path / "t.json").stat().st_ino == before.st_ino
    write_json(tmp_path / "t.json", {"a": 2})
    assert read_json(tmp_path / "t.json") == {"a": 2}
