"""Instruction prompts: texts with one `{problem}` each, from the package or from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from polythink.errors import UserError, did_you_mean
from polythink.problems.tasks.demonstrations import BLOCKS, FLAT

PLACEHOLDER = "{problem}"
_FOLDER = Path(__file__).parent / "prompts"
PROMPTS = tuple(sorted(file.stem for file in _FOLDER.glob("*.txt")))
Overlong = Literal["skip", "refuse"]  # what to do with a problem whose prompt cannot be asked
OVERLONG = get_args(Overlong)
# What the packaged prompts ask for; the others leave it open.
ASKS_FOR = {
    **dict.fromkeys(("code_sequential", "countdown_sequential", "one_way", "one_way_shown", "sequential"), FLAT),
    **dict.fromkeys(("code_parallel", "countdown_parallel", "parallel", "two_ways", "two_ways_shown"), BLOCKS),
}


@dataclass(frozen=True)
class Prompt:
    """`text` holds `{problem}` once. `name`: that of the packaged prompt, or of the file without its suffix.

    `style` is what it asks for: "sequential" (flat text), "parallel" (blocks of paths), or "" where it does not say.
    """

    name: str
    text: str
    style: str = ""

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

    def check_styles(self, styles: Iterable[str]) -> None:
        """`UserError` if responses in these styles contradict it: all in the other style, or blocks under flat text.

        One that asks for blocks leaves it to the model whether they pay, so some of its responses may be flat text.
        """
        given = set(styles)
        if self.style and (self.style not in given or (self.style == FLAT and len(given) > 1)):
            other = next(style for style in sorted(given) if style != self.style)
            raise UserError(
                f"the prompt {self.name} asks for {self.style} responses, and the teacher's style is {other}; give "
                f"the style {self.style}, or a prompt for {other} ones"
            )


def get_prompt(name_or_file: str | Path) -> Prompt:
    """A packaged prompt by its name (`PROMPTS`), or the prompt in a UTF-8 file, without line breaks at its end."""
    if str(name_or_file) in PROMPTS:
        return _read(str(name_or_file), _FOLDER / f"{name_or_file}.txt", ASKS_FOR.get(str(name_or_file), ""))
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


def _read(name: str, file: Path, style: str = "") -> Prompt:
    try:
        return Prompt(name, file.read_text(encoding="utf-8-sig").rstrip("\r\n"), style)
    except UnicodeDecodeError:
        raise UserError(f"prompt file {file} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"cannot read the prompt file {file}: {error.strerror}") from None
