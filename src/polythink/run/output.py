"""Where a command writes a file that the user named: never over what is there, unless told so."""

from __future__ import annotations

import os
from pathlib import Path

from polythink.errors import UserError


def check_out(
    out: str | Path, *inputs: str | Path, overwrite: bool = False, suffix: str = "", named: str = "--out"
) -> Path:
    """The path to write; `UserError` before any work is done if it cannot be, or would lose what is there.

    An input is refused under every name it has (a link, another spelling), also with `overwrite`. Any other existing
    file needs `overwrite`. `suffix`: what the name must end in; `named`: what names it on the command line.
    """
    path = Path(out).expanduser()
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"cannot write {path}: the name must end in {suffix}")
    for given in inputs:
        if _same(path, Path(given).expanduser()):
            raise UserError(f"{path} is the file that is read, {given}; give another {named}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists; give another {named}, or add --overwrite to replace it")
    if (above := next(folder for folder in path.absolute().parents if folder.exists())) and not above.is_dir():
        raise UserError(f"cannot write {path}: {above} is not a folder")
    return path


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return one.resolve() == other.resolve()
