"""The table at the end of `bench/gpu.sh`, from results as `polythink bench decode` writes them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu_table():
    spec = importlib.util.spec_from_file_location("gpu_table", ROOT / "bench" / "gpu_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contender(ms: float, busy: float | None = None) -> dict:
    found = {
        "ms": ms,
        "ms_q25": ms,
        "ms_q75": ms,
        "cpu_ms": None,
        "about": "",
        "steps": 4,
        "branches": 8.0,
        "tokens_per_s": 8000 / ms,
    }
    return {**found, "join_steps": 1.0, "kv_bytes": 100, "over_floor": 2.0} | ({"gpu_busy": busy} if busy else {})


def case(name: str, **contenders: dict) -> dict:
    return {
        "case": name, "paths": 8, "prompt": 512, "alone": True, "bandwidth": 1e12, "flops": 1e14, "floor_ms": 0.3,
        "kv_needed": 80, "contenders": {n.replace("_", " "): c for n, c in contenders.items()}, "skipped": {},
    }  # fmt: skip


def result(*cases: dict, widths: tuple = ()) -> dict:
    machine = {"date": "2026-11-27 10:00", "device": "a GPU", "threads": 1, "torch": "2", "transformers": "5"}
    model = {"name": "0.6b", "architecture": "qwen3", "dtype": "bfloat16", "weight_bytes": 10, "kv_bytes_per_token": 4}
    return {
        "model": model, "machine": machine, "rounds": 1, "steps": 4, "absent": {"vllm": "vllm not installed"},
        "cases": list(cases), "widths": list(widths),
    }  # fmt: skip


def run(gpu_table, monkeypatch, folder: Path) -> tuple[int, str, dict]:
    monkeypatch.setattr(sys, "argv", ["gpu_table.py", str(folder), str(folder / "out")])
    status = gpu_table.main()
    return (
        status,
        (folder / "out" / "summary.md").read_text(),
        json.loads((folder / "out" / "results.json").read_text()),
    )


def test_what_was_reached_and_what_was_not(gpu_table, monkeypatch, tmp_path, capsys) -> None:
    width = {"paths": 8, "prompt": 512, "ratio": 1.1, "floor_ratio": 1.05}
    widths = tuple(
        {**width, "contender": f"engine {n}", "over_floor_ratio": r} for n, r in (("fast", 1.05), ("flat", 9))
    )
    small = result(
        case("1x8@512", engine_flat=contender(80), engine_fast=contender(1.5, 0.95)),
        case("8x8@512", engine_fast=contender(3)),
        widths=widths,
    )
    stock = {"about": "sdpa"}
    peers = result(
        case("1x8@512", engine_fast=contender(1.5), continuous=contender(5) | stock),
        case("8x8@512", engine_fast=contender(3), continuous=contender(6) | stock),
    )
    sharing = result(case("1x8@8192", engine_fast=contender(1)), case("8x1@8192", engine_fast=contender(3)))
    for name, data in {"small": small, "peers": peers, "sharing": sharing, "drawing": {"s": 0.5}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    (tmp_path / "parts.tsv").write_text("tests\t0\t40\nlarge\tout of time\t60\n")
    (tmp_path / "tests.log").write_text("......\n162 passed, 1 skipped in 40.1s\n")
    reached = {what: (value, ok) for what, _, value, ok in gpu_table.bars(gpu_table.read(tmp_path)[0])}
    assert reached["small model, 1x8@512: ms a step"] == (1.5, True)
    assert reached["small model, 8x8@512: ms a step"] == (3, False)
    assert reached["small model, 64x8@512: ms a step"] == (None, None)
    assert reached["large model, 1x8@512: ms a step"] == (None, None)
    assert reached["1x8@512: times faster than continuous batching (sdpa)"] == (pytest.approx(5 / 1.5), True)
    assert reached["8x8@512: times faster than continuous batching (sdpa)"] == (2, False)
    assert reached["1x8@512: GPU busy share of a step"] == (0.95, True)
    assert reached["step(8)/step(1) over the floor's own"] == (1.05, True)
    assert reached["1x8@8192: times faster than 8x1@8192"] == (3, True)
    assert reached["1:64x1@2048: times faster than 64x1@2048"] == (None, None)
    assert reached["8 x 8 samples of 2 paths drawn, s"] == (0.5, True)
    status, text, data = run(gpu_table, monkeypatch, tmp_path)
    assert status == 0
    assert "**out of time**" in text
    assert "162 passed, 1 skipped" in text
    assert "not measured" in text
    assert data["small"] == small
    assert capsys.readouterr().out.startswith(text[:40])


@pytest.mark.parametrize("parts", ["", "tests\t1\t40\n", "tests\t0\t9\ncuda_check\tout of time\t50\n"])
def test_the_status_says_whether_correctness_was_shown(gpu_table, monkeypatch, tmp_path, parts) -> None:
    (tmp_path / "parts.tsv").write_text(parts)
    assert run(gpu_table, monkeypatch, tmp_path)[0] == 1


def test_the_script_is_whole_and_every_file_is_described() -> None:
    bench = ROOT / "bench"
    assert subprocess.run(["bash", "-n", str(bench / "gpu.sh")], check=False).returncode == 0
    described = (bench / "README.md").read_text()
    assert [
        file.name for file in bench.iterdir() if file.suffix in (".py", ".sh") and f"`{file.name}`" not in described
    ] == []


def test_tests_that_did_not_end_are_counted(gpu_table, tmp_path) -> None:
    (tmp_path / "tests.log").write_text(
        "a.py::test_a PASSED [ 1%]\na.py::test_b FAILED [ 2%]\na.py::test_c PASSED [ 3%]\n"
    )
    assert gpu_table.read(tmp_path)[2] == "2 passed, 1 failed, 0 error, not to the end"


STAND_IN = """#!/bin/bash
# what a part found before it hung
case "$*" in
  *gpu_table*) exec {python} "$@" ;;
  *cuda_check*) echo '| what | value |'; echo $$ >{out}/hung; exec sleep 600 ;;
  *graph_check*) echo good ;;
  *) exit 1 ;;
esac
"""


def test_a_script_that_is_told_to_end_makes_the_table_and_leaves_no_process(tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, out=tmp_path))
    python.chmod(0o755)
    env = os.environ | {"PYTHON": str(python), "OUT": str(tmp_path / "out"), "PARTS": "cuda_check graph_check"}
    script = subprocess.Popen(["bash", str(ROOT / "bench" / "gpu.sh"), "--tiny"], env=env, stdout=subprocess.DEVNULL)
    hung = tmp_path / "hung"
    while not (hung.is_file() and hung.read_text().strip()):
        assert script.poll() is None
        time.sleep(0.05)
    while not (tmp_path / "out" / "parts" / "parts.tsv").is_file():  # that of the other check
        time.sleep(0.05)
    script.terminate()
    assert script.wait() == 1
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| graph_check | passed |" in " ".join(text.split())
    assert "| what | value |" in text
    while runs(hung.read_text().strip()):
        time.sleep(0.05)


def runs(process: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
