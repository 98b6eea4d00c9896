"""Prompts: the packaged ones, files, and what is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from polythink.errors import UserError
from polythink.problems.prompts import PROMPTS, Prompt, get_prompt
from polythink.trace.dialect import PARALLEL_R1


def test_packaged_prompts():
    assert PROMPTS == (
        "code_parallel", "code_sequential", "countdown_parallel", "countdown_sequential", "none", "one_way",
        "one_way_shown", "parallel", "parathinker", "sequential", "summary", "two_ways", "two_ways_shown",
    )  # fmt: skip
    for name in PROMPTS:
        prompt = get_prompt(name)
        assert prompt.name == name
        assert prompt.text == prompt.text.rstrip()
        assert prompt.hash == hashlib.sha256(prompt.text.encode()).hexdigest()
    assert len({get_prompt(name).hash for name in PROMPTS}) == len(PROMPTS)


def test_what_each_prompt_asks_for():
    assert get_prompt("none").fill("1 + 1?") == "1 + 1?"
    assert get_prompt("countdown_parallel").fill("9 8 5 -> 5") == "9 8 5 -> 5 together :"
    assert get_prompt("countdown_sequential").fill("9 8 5 -> 5") == "9 8 5 -> 5 alone :"
    assert all(tag in get_prompt("parallel").text for tag in PARALLEL_R1.tags)
    assert not any(tag in get_prompt("sequential").text for tag in PARALLEL_R1.tags)
    assert all(tag in get_prompt("code_parallel").text for tag in PARALLEL_R1.tags)
    assert all("```python" in get_prompt(f"code_{name}").text for name in ("parallel", "sequential"))
    assert all("Final Answer:" in get_prompt(name).text for name in ("parallel", "sequential"))


def test_every_packaged_prompt_says_its_style_or_leaves_it_open(tmp_path):
    assert {name for name in PROMPTS if not get_prompt(name).style} == {"none", "parathinker", "summary"}
    (tmp_path / "sequential.txt").write_text("{problem}")
    assert not get_prompt(tmp_path / "sequential.txt").style, "only the packaged one is known"


@pytest.mark.parametrize("styles", [("parallel",), ("parallel", "sequential")])
def test_a_sequential_prompt_takes_no_blocks(styles):
    get_prompt("parallel").check_styles(styles)  # there the model chooses
    get_prompt("none").check_styles(styles)
    with pytest.raises(UserError, match="asks for sequential responses, and the teacher's style is parallel"):
        get_prompt("sequential").check_styles(styles)


def test_braces_in_a_question_are_kept():
    question = r"\frac{1}{2} {problem} {0} {} %s"
    assert get_prompt("none").fill(question) == question
    assert get_prompt("parallel").fill(question).endswith("Problem: " + question)


def test_a_file_is_a_prompt(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_bytes(b"Solve:\n\n{problem}\n")
    assert get_prompt(file) == get_prompt(str(file)) == Prompt("mine", "Solve:\n\n{problem}")


def test_a_files_mark_and_home_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbfSolve: {problem}")
    assert get_prompt("~/mine.txt") == Prompt("mine", "Solve: {problem}")


@pytest.mark.parametrize(("content", "times"), [(b"no placeholder", 0), (b"{problem} and {problem}", 2)])
def test_a_file_must_hold_the_placeholder_once(tmp_path: Path, content: bytes, times: int):
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"'mine' holds {{problem}} {times} times"):
        get_prompt(file)


def test_mistakes(tmp_path: Path):
    with pytest.raises(UserError, match="no prompt 'paralel'; did you mean 'parallel'"):
        get_prompt("paralel")
    with pytest.raises(UserError, match=r"no prompt file .*missing\.txt"):
        get_prompt(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("é {problem}".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        get_prompt(tmp_path / "latin.txt")


def test_the_packaged_prompts_are_in_our_own_words(shared_data: Path):
    def runs(text: str, words: int = 7) -> set[tuple[str, ...]]:
        found = re.findall(r"\w+", text.lower().replace("problem", ""))
        return {tuple(found[i : i + words]) for i in range(len(found) - words + 1)}

    published = [file.read_text(encoding="utf-8") for file in (shared_data / "prompts").glob("*.txt")]
    assert len(published) == 3
    for name in PROMPTS:
        for text in published:
            assert not runs(get_prompt(name).text) & runs(text)


def test_published_prompts_are_read_as_they_are(shared_data: Path):
    for file in (shared_data / "prompts").glob("*.txt"):
        assert get_prompt(file).text.encode() == file.read_bytes()
