"""README, CONTRIBUTING and Makefile: the scripts, the list of rooms, every command and option that is shown."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from polythink.cli.app import load
from test_imports import LAYERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# command lines: those of the code blocks, and those in the first column of the table of commands
LINES = re.sub(r"\\\n\s*", "", README).splitlines()  # one that ends in a backslash goes on below
SHOWN = [line.partition("  #")[0].strip() for line in LINES if line.startswith("polythink ")]
TABLE = re.findall(r"^\| `(polythink [^`]+)`", README, re.MULTILINE)
COMMANDS = [*SHOWN, *(line.replace("[", "").replace("]", "") for line in TABLE if "," not in line)]


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_the_readme_shows_a_script_word_for_word(script: Path) -> None:
    text = script.read_text(encoding="utf-8").rstrip()
    assert f"```python\n{text}\n```" in README
    assert len(text.splitlines()) <= 20


def test_contributing_lists_the_rooms_as_the_import_test_does() -> None:
    floors: dict[int, list[str]] = {}
    for room, layer in LAYERS.items():
        floors.setdefault(layer, []).append(f"`{room}`")
    rows = [f"| {layer} | {', '.join(floors[layer])} |" for layer in sorted(floors, reverse=True)]
    table = "\n".join(["| layer | rooms |", "| --- | --- |", *rows])
    found = re.search(r"<!-- rooms -->\n(.*?)\n<!-- end of rooms -->", CONTRIBUTING, re.DOTALL)
    assert found
    assert found[1] == table, f"write this between the marks:\n{table}"


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line: str) -> None:
    assert len(SHOWN) > 4 < len(TABLE)
    words = shlex.split(line)[1:]
    command = load(words.pop(0))
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if re.match("--?[a-zA-Z]", word)} <= known


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_goes_on_with_a_run_that_is_there(tmp_path: Path) -> None:
    for target, folder in (("smoke", "smoke"), ("demo-lm", "smollm2")):
        say = ("make", "--dry-run", "-f", str(ROOT / "Makefile"), "--old-file=install", "--old-file=smollm2", target)
        for begun in (False, True):
            if begun:
                (tmp_path / "runs" / folder).mkdir(parents=True)
            said = subprocess.run(say, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
            assert f"--out runs/{folder}" in said
            assert ("--resume" in said) == begun
