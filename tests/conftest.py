"""Shared fixtures: where the real data lies, and one thread, so that tests are quick and repeatable on two cores."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# POLYTHINK_TEST_DEVICE=cuda puts the models of tests/engine and tests/models there (tests/helpers/device.py). Without
# it no GPU is seen, so that the tests are the same on every machine.
if not os.environ.get("POLYTHINK_TEST_DEVICE", "cpu").startswith("cuda"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest

# Workers, and the interpreters that tests start, read what was compiled once; some images forbid to keep it.
sys.dont_write_bytecode = False
# What is imported and collected stays to the end: a quarter of the time of collecting tests went into looking through
# it for cycles. From the first test on collections run as always, over what tests make.
gc.disable()

# A shell without job control starts background jobs with interruptions ignored, and programs inherit that: tests that
# interrupt a program would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()
    if "polythink.engine.selfcheck" in sys.modules:
        from helpers import checked

        checked.install()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real problems and traces; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("POLYTHINK_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder} (set POLYTHINK_SHARED to its parent)")
    return folder
