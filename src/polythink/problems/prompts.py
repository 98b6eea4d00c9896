"""Instruction prompts: texts with one `{problem}` each, from the package or from a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from polythink.errors import UserError, did_you_mean

PLACEHOLDER = "{problem}"
_FOLDER = Path(__file__).parent / "prompts"
PROMPTS = tuple(sorted(file.stem for file in _FOLDER.glob("*.txt")))
Overlong = Literal["skip", "refuse"]  # what to do with a problem whose prompt cannot be asked
OVERLONG = get_args(Overlong)


@dataclass(frozen=True)
class Prompt:
    """`text` holds `{problem}` once. `name`: that of the packaged prompt, or of the file without its suffix."""

    name: str
    text: str

    def __post_init__(self) -> None:
        if self.text.count(PLACEHOLDER) != 1:
            found = self.text.count(PLACEHOLDER)
            raise UserError(f"prompt {self.name!r} holds {PLACEHOLDER} {found} times; it must hold it exactly once")

    @property
    def hash(self) -> str:
        """SHA-256 of the text (64 hex digits), recorded with every run."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def fill(self, question: str) -> str:
        """The prompt with the question in its place; braces in the question stay as they are."""
        return self.text.replace(PLACEHOLDER, question)


def get_prompt(name_or_file: str | Path) -> Prompt:
    """A packaged prompt by its name (`PROMPTS`), or the prompt in a UTF-8 file, without line breaks at its end."""
    if str(name_or_file) in PROMPTS:
        return _read(str(name_or_file), _FOLDER / f"{name_or_file}.txt")
    file = Path(name_or_file).expanduser()
    try:
        found = file.is_file()
    except OSError:  # no name of a file at all: too long, say
        raise UserError(f"no prompt {str(name_or_file)[:50]!r}{did_you_mean(str(name_or_file), PROMPTS)}") from None
    if found:
        return _read(file.stem, file)
    if file.suffix or len(file.parts) > 1:
        raise UserError(f"no prompt file {file}; give a file that holds {PLACEHOLDER}, or one of {', '.join(PROMPTS)}")
    raise UserError(f"no prompt {str(name_or_file)!r}{did_you_mean(str(name_or_file), PROMPTS)}")


def _read(name: str, file: Path) -> Prompt:
    try:
        return Prompt(name, file.read_text(encoding="utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError:
        raise UserError(f"prompt file {file} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"cannot read the prompt file {file}: {error.strerror}") from None
