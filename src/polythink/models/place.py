"""Where a model is read from: a folder, a name on the hub, or a .gguf file. Importable without torch."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from polythink.errors import UserError, did_you_mean, install_extra
from polythink.run.folder import listed_stages

GGUF = ".gguf"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # owner/name, or a name of the hub's early days
# a model that a recipe of ours names -> what fetches it
FETCHED = {"SmolLM2-135M-Instruct.Q4_1.gguf": "python docs/fetch_smollm2.py {folder}",
           "gemma-3-270m-q4_k_m.gguf": "python docs/fetch_smollm2.py {folder} gemma"}  # fmt: skip
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


class ModelPlace(NamedTuple):
    """A model's `folder` (or its name on the hub), and the name of the .gguf `file` in it, None without one."""

    folder: str
    file: str | None = None

    @property
    def local(self) -> bool:
        return Path(self.folder).is_dir()


def place_of(path: str) -> ModelPlace:
    """The place that `FOLDER`, `OWNER/NAME`, `FILE.gguf` or `OWNER/NAME:FILE.gguf` names; whether it is there is not
    looked at."""
    here = Path(path)
    if here.suffix.lower() != GGUF or here.is_dir():
        return ModelPlace(path)
    name, colon, file = path.partition(":")
    if colon and HUB_NAME.fullmatch(name) and not here.is_file():
        return ModelPlace(name, file)
    return ModelPlace(str(here.parent), here.name)


def check_path(path: str) -> None:
    """`UserError` for a path that is no folder, no .gguf file, and cannot be a name on the hub. Makes no request.

    `runs/smok` has the form of a hub name; where there is a folder `runs`, it is taken for a mistyped path.
    """
    here, place = Path(path), place_of(path)
    if place.file and _PART.search(place.file):
        raise UserError(
            f"{path!r} is one part of a .gguf file; put the parts together (llama.cpp: `llama-gguf-split --merge "
            "FIRST-PART WHOLE`), and give the whole"
        )
    if here.is_dir() or (place.file and (here.is_file() or path == f"{place.folder}:{place.file}")):
        return
    what = "no .gguf file" if place.file else "no model folder"
    fetch = FETCHED.get(place.file or "", "").format(folder=place.folder)
    how = f"; `{fetch}` in a clone of polythink fetches it" if fetch else ""
    if here.parent.is_dir() and (place.file or here.parent != Path()):
        wanted = [Path(file).name for file in gguf_files(here.parent)] if place.file else model_folders(here.parent)
        before = "" if here.parent == Path() else f"{here.parent}{os.sep}"
        hint = did_you_mean(here.name, wanted, before) if wanted else f", and no other in {str(here.parent)!r}"
        raise UserError(f"{what} {path!r}{how or hint}")
    if place.file:
        raise UserError(f"{what} {path!r}: there is no folder {place.folder!r}{how}")
    if here.exists() or not HUB_NAME.fullmatch(path):
        raise UserError(f"{what} {path!r}, and an id on the hub is of the form owner/name")


def model_folder(path: Path) -> Path:
    """The model meant by a model folder, a stage folder or a run folder (the last of its stages that has a model)."""
    if (path / "config.json").is_file():
        return path
    if (path / "model").is_dir():
        return path / "model"
    models = [path / stage["folder"] / "model" for stage in listed_stages(path)]
    return next((folder for folder in reversed(models) if folder.is_dir()), path)


def check_packages(path: str) -> None:
    """`UserError` for a .gguf file where what reads such files is not installed. Imports nothing of it."""
    needed = ("gguf", "accelerate") if place_of(path).file else ()
    if lacking := [name for name in needed if find_spec(name) is None]:
        raise UserError(
            f"reading {path!r} needs {' and '.join(lacking)}; `pip install {' '.join(lacking)}` installs what is "
            f"lacking, and so does {install_extra('gguf')}"
        )


def model_folders(folder: str | Path) -> list[str]:
    """The names of the folders in a folder that hold a model or a run, for a hint at them."""
    held = ("config.json", "model", "stages.json")
    return sorted(o.name for o in Path(folder).iterdir() if any(os.path.exists(o / name) for name in held))


def gguf_files(folder: str | Path) -> list[str]:
    """The .gguf files in a folder, for a hint at them."""
    return sorted(str(file) for file in Path(folder).iterdir() if file.suffix.lower() == GGUF)
