"""`polythink chat`: history, commands, lines in and answers out, and a real terminal with Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys
import time
from pathlib import Path

import pytest

from polythink.cli.chat import COMMANDS, Conversation, draw
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import save, with_settings

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
SMALL = dict(paths=2, max_main_tokens=8, max_path_tokens=4, max_summary_tokens=4, max_trace_tokens=60)
PATIENCE = 60.0  # seconds; a bound for what hangs, no measure of speed


@pytest.fixture(scope="module")
def lm():
    lm = from_config(ModelConfig(num_hidden_layers=1, tokenizer="bytes"), "parallel_r1")
    lm.tokenizer.chat_template = TEMPLATE
    return with_settings(lm, chat=True)


@pytest.fixture(scope="module")
def plain(lm, tmp_path_factory) -> str:
    """The folder of a model without a chat template."""
    folder, lm.tokenizer.chat_template = tmp_path_factory.mktemp("plain"), None
    save(with_settings(lm, chat=False), folder)
    lm.tokenizer.chat_template = TEMPLATE
    return str(folder)


def asked_of(lm, talk: Conversation, text: str) -> tuple[str, str]:
    """The prompt of a turn as text, and the answer."""
    seen = []

    def show(engine, request, params, seed):
        seen.append(lm.decode(request.prompt))
        return draw(engine, request, params, seed)

    answer = talk.answer(text, show)
    return seen[0], answer


def test_every_turn_is_told_what_was_said_before(lm):
    talk = Conversation(Engine(lm), SamplingParams(**SMALL), system="be brief")
    assert not talk.alone
    first, one = asked_of(lm, talk, "hello")
    second, two = asked_of(lm, talk, "and then?")
    assert first == "[system]be brief[user]hello[assistant]"
    assert second == f"[system]be brief[user]hello[assistant]{one}[user]and then?[assistant]"
    again = Conversation(Engine(lm), SamplingParams(**SMALL), system="be brief")
    assert [asked_of(lm, again, text) for text in ("hello", "and then?")] == [(first, one), (second, two)]
    talk.obey("/reset")
    assert asked_of(lm, talk, "hello") == (first, one)
    talk.obey("/seed 3")
    talk.obey("/reset")
    assert asked_of(lm, talk, "hello")[1] != one


def test_commands_change_how_the_next_answer_is_drawn(lm):
    talk = Conversation(Engine(lm), SamplingParams(**SMALL))
    assert talk.obey("/paths 8") == "paths=8"
    assert (talk.params.paths, talk.params.max_path_tokens) == (8, 4)
    assert talk.obey("/mode sequential") == "mode=sequential"
    assert talk.obey("/mode") == "mode=sequential"
    assert talk.obey("/temperature 0") == "temperature=0.0"
    assert talk.obey("/path_temperature 0") == "path_temperature=0.0"
    assert talk.params.path_temperature == 0
    assert talk.obey("/path_temperature null") == "path_temperature=None"
    assert talk.obey("/seed 7") == "seed=7"
    assert talk.seed == 7
    assert len(talk.obey("/help").splitlines()) == len(COMMANDS)
    assert talk.obey("/quit") == ""
    assert talk.over


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/pths 8", "no command /pths; did you mean 'paths'"),
        ("/paths none", "paths must be"),
        ("/paths 0", "paths"),
        ("/mode fast", "mode must be"),
        ("/seed -1", "/seed takes a whole number"),
        ("/seed ²", "/seed takes a whole number"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(lm, line, sentence):
    talk = Conversation(Engine(lm), SamplingParams(**SMALL), seed=4)
    before = (talk.params, talk.seed)
    with pytest.raises(UserError, match=re.escape(sentence)):
        talk.obey(line)
    assert (talk.params, talk.seed) == before


def test_a_turn_that_cannot_be_drawn_is_not_said(lm):
    talk = Conversation(Engine(lm), SamplingParams(**SMALL))
    with pytest.raises(UserError, match="context"):
        talk.answer("x" * lm.context, draw)
    assert talk.said == []


def test_a_cut_answer_is_told_and_an_empty_one_is_not_said(lm, capsys):
    talk = Conversation(Engine(lm), SamplingParams(mode="sequential", max_main_tokens=8, max_trace_tokens=60))
    assert talk.answer("hello", draw)
    assert "note: truncated segments: 1 by max_main_tokens=8" in capsys.readouterr().err
    said = list(talk.said)
    assert len(said) == 2
    talk.params = SamplingParams(**{**SMALL, "fork_at": 0, "max_path_tokens": 30, "max_trace_tokens": 23})
    assert talk.answer("and then?", draw) == ""
    err = capsys.readouterr().err
    assert "max_trace_tokens=23" in err
    assert "note: the answer is empty; this turn is not part of the conversation" in err
    assert talk.said == said
    talk.params = SamplingParams(mode="sequential", max_trace_tokens=1)
    with pytest.raises(UserError, match=r"nothing could be sampled; .*max_trace_tokens=1"):
        talk.answer("and then?", draw)
    assert talk.said == said


def test_lines_in_and_answers_out(polythink, monkeypatch, plain):
    given = b"hello\n\n/paths 3\n//slash\n\xff\xfe\n/pths\nlast\n/quit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    status, out, err = polythink("chat", plain, *(f"{key}={value}" for key, value in SMALL.items()))
    assert status == 2  # two of the lines were mistakes
    assert err.count("it answers each turn alone: its tokenizer has no chat template") == 1
    assert "a line of standard input is not UTF-8 text" in err
    assert "no command /pths; did you mean 'paths'" in err
    assert "paths=3\n" in out
    assert "never" not in out


def test_a_system_message_needs_a_conversation(polythink, monkeypatch, plain):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    status, _, err = polythink("chat", plain, "--system", "be brief")
    assert status == 2
    assert "--system is a message of a conversation, and its tokenizer has no chat template" in err


class Terminal:
    """A program in a pseudo-terminal: what is typed, and what comes."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:  # forked: torch is in memory already
            try:
                from polythink.cli.main import main

                sys.argv = ["polythink", *arguments]
                sys.stdin, sys.stdout, sys.stderr = (open(n, mode) for n, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
                main()
                os._exit(0)
            except SystemExit as stop:
                sys.stdout.flush()
                os._exit(stop.code or 0)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What comes up to where the pattern is found."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern} in {self.text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 1 << 16).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert re.search(pattern, self.text), self.text
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def wait_until_it_reads(self) -> None:
        """After the prompt: readline shows it a moment before it waits for a key, and misses a Ctrl-C in between."""
        end, stat = time.monotonic() + PATIENCE, Path(f"/proc/{self.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end, "the program does not wait for a line"
            time.sleep(0.01)

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_conversation_in_a_terminal(plain):
    terminal = Terminal("chat", plain, "mode=sequential", "max_trace_tokens=4000", "max_main_tokens=12")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    assert "on the critical path" in terminal.wait_for("seed 0")
    terminal.wait_for("> ")
    terminal.type("/pths\n")
    terminal.wait_for("no command /pths; did you mean 'paths'")
    terminal.wait_for("> ")
    terminal.type("/help\n")
    terminal.wait_for("/quit: leave")
    terminal.wait_for("> ")
    terminal.type("/quit\n")
    assert terminal.status() == 0


def test_ctrl_c_stops_an_answer_and_a_second_one_leaves(plain):
    terminal = Terminal("chat", plain, "mode=sequential", "max_trace_tokens=4000", "max_main_tokens=4000", "top_k=1")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for(r"(?s)(\x1b\[H\w.*?){2}")  # two frames with the begin of an answer
    terminal.type("\x03")
    terminal.wait_for("stopped; this turn is not part of the conversation")
    terminal.wait_for("> ")
    terminal.wait_until_it_reads()
    terminal.type("\x03")
    terminal.wait_for("interrupted")
    assert terminal.status() == 130
