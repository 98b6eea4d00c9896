"""`polythink chat`: a conversation in the terminal, with the paths side by side while they grow."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli import console
from polythink.cli.generate import say_truncated, watch
from polythink.cli.model import Decoding, Model, ModelChoice, find_model, open_engine, settle, with_model_options
from polythink.errors import UserError, did_you_mean
from polythink.run.plain import LARGEST

if TYPE_CHECKING:
    from polythink.engine.engine import Engine
    from polythink.engine.params import SamplingParams
    from polythink.trace.rollout import Rollout

MARK = "> "
EMPTY = "the answer is empty; this turn is not part of the conversation"
AWAY = "it answers each turn alone: {why}, so it cannot be told what was said before"


@with_model_options
def chat(
    model: Model,
    overrides: Decoding = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the first turn.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST, help="Another seed gives another conversation.")] = 0,
    choice: ModelChoice = ModelChoice(),
) -> None:
    """Talk with a model; its paths are shown side by side while they grow.

    A line is a turn. /paths 8, /mode sequential and /seed 3 change how the next answers are drawn, /reset forgets what
    was said, /help lists the commands, /quit leaves. Ctrl-C stops a running answer; a second one leaves. Without a
    terminal, lines are read from stdin and the answers printed, one after another.

    Example: polythink chat runs/smoke paths=4

    Example: polythink chat runs/smoke paths=4 < turns.txt > answers.txt
    """
    place = find_model(model)
    params, choice = settle(place, choice, overrides or [])
    talk = Conversation(open_engine(place, choice), params, seed, system)
    if sys.stdin.isatty():
        talk_with_a_person(talk)
    else:
        talk_with_a_pipe(talk)


@dataclass
class Conversation:
    """What was said, and how the next answer is drawn. Turns are named, so a seed gives the same conversation again."""

    engine: Engine
    params: SamplingParams
    seed: int = 0
    system: str | None = None
    said: list[dict[str, str]] = field(default_factory=list)  # messages of user and assistant by turns
    over: bool = False

    def __post_init__(self) -> None:
        lm = self.engine.lm
        self.alone = ""  # why each turn stands alone
        if not lm.tokenizer.chat_template:
            self.alone = "its tokenizer has no chat template"
        elif not lm.settings.chat:
            self.alone = "it was trained without the chat template"
        if self.alone and self.system:
            raise UserError(f"--system is a message of a conversation, and {self.alone}; leave it out")
        if self.alone:
            console.note(AWAY.format(why=self.alone))

    def prompt(self, text: str) -> list[int]:
        """Token ids of all that was said, and this."""
        lm = self.engine.lm
        if self.alone:
            from polythink.evaluate.study import prompt_of

            around = prompt_of(lm.settings)
            return lm.encode_prompt(around.fill(text), around.text)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return lm.encode_chat([*system, *self.said, {"role": "user", "content": text}])

    def answer(self, text: str, show: Callable[..., Rollout]) -> str:
        """Draw the answer to a turn, which is said then. `show(engine, request, params, seed)` draws and shows it."""
        from polythink.engine.params import Request
        from polythink.serve.finished import shown
        from polythink.serve.growing import Spelling

        engine = self.engine
        request = Request(self.prompt(text), f"turn {len(self.said) // 2}")
        rollout = show(engine, request, self.params, self.seed)
        say_truncated([rollout], self.params, engine)
        content = shown(rollout, Spelling.of(engine.lm)).content.strip()
        if not (content or self.alone):
            console.note(EMPTY)
            return ""
        self.said += [{"role": "user", "content": text}, {"role": "assistant", "content": content}]
        return content

    # --- commands

    def obey(self, line: str) -> str:
        """Do what a line that begins with / says; the reply. `UserError` for what cannot be done."""
        name, _, value = line[1:].strip().partition(" ")
        if name not in COMMANDS:
            raise UserError(f"no command /{name}{did_you_mean(name, COMMANDS)}; /help lists them")
        return COMMANDS[name][1](self, value.strip())

    def change(self, key: str, value: str) -> str:
        """Change a decoding parameter for the answers to come."""
        from polythink.run.config import apply_overrides, parse_config

        if not value:
            return f"{key}={getattr(self.params, key)}"
        data = apply_overrides(self.params.model_dump(exclude_unset=True), [f"{key}={value}"])
        self.params = parse_config(type(self.params), data, f"/{key}")
        return f"{key}={getattr(self.params, key)}"

    def reseed(self, value: str) -> str:
        if value and not (value.isascii() and value.isdigit() and int(value) <= LARGEST):
            raise UserError(f"/seed takes a whole number from 0 to {LARGEST}, not {value[:40]!r}")
        self.seed = int(value) if value else self.seed
        return f"seed={self.seed}"

    def reset(self) -> str:
        self.said.clear()
        return "what was said is forgotten"

    def quit(self) -> str:
        self.over = True
        return ""


Command = tuple[str, Callable[[Conversation, str], str]]
COMMANDS: dict[str, Command] = {
    "paths": ("/paths N: paths in each block", lambda talk, value: talk.change("paths", value)),
    "mode": ("/mode NAME: structured, reread or sequential", lambda talk, value: talk.change("mode", value)),
    "temperature": (
        "/temperature X: 0 is greedy, but several paths are still sampled: see /path_temperature",
        lambda talk, value: talk.change("temperature", value),
    ),
    "path_temperature": (
        "/path_temperature X: of paths; null: as /temperature, 1.0 where that is 0",
        lambda talk, value: talk.change("path_temperature", value),
    ),
    "seed": ("/seed N: another seed draws other answers", lambda talk, value: talk.reseed(value)),
    "reset": ("/reset: forget what was said", lambda talk, value: talk.reset()),
    "help": ("/help: this list", lambda talk, value: "\n".join(text for text, _ in COMMANDS.values())),
    "quit": ("/quit: leave, as Ctrl-D does", lambda talk, value: talk.quit()),
}


def turn(talk: Conversation, line: str, show: Callable[..., Rollout]) -> tuple[str, bool]:
    """What a line brings, and whether it is an answer. A line that begins with // is a turn that begins with /."""
    if line.startswith("/") and not line.startswith("//"):
        return talk.obey(line), False
    return talk.answer(line[1:] if line.startswith("//") else line, show), True


# ---- in a terminal ----


def talk_with_a_person(talk: Conversation) -> None:
    with suppress(ImportError):
        importlib.import_module("readline")  # lines can be edited, and called back with the arrow keys
    if console.level != "quiet":
        print("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves", file=sys.stderr)
    while not talk.over:
        line = ask()
        if line is None:
            return
        if not line.strip():
            continue
        try:
            _one_turn(talk, line.strip())
        except UserError as error:
            print(f"polythink: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; this turn is not part of the conversation", file=sys.stderr)


def _one_turn(talk: Conversation, line: str) -> None:
    on_screen = sys.stdout.isatty()
    said, answered = turn(talk, line, watch if on_screen else draw)
    if said and not (answered and on_screen):
        print(said, flush=True)


def ask() -> str | None:
    """A line of the person's, None at the end (Ctrl-D)."""
    try:
        if sys.stdout.isatty():
            line = input(MARK)
        else:
            print(MARK, end="", file=sys.stderr, flush=True)
            line = input()
        line.encode("utf-8")
    except EOFError:
        print(file=sys.stderr)
        return None
    except UnicodeError:
        print("polythink: the line is not UTF-8 text; type it again", file=sys.stderr)
        return ""
    return line


def draw(engine: Engine, request: object, params: SamplingParams, seed: int) -> Rollout:
    """One rollout, which nobody watches."""
    (rollout,) = engine.generate([request], params, seed)
    return rollout


# ---- lines in, answers out ----


def talk_with_a_pipe(talk: Conversation) -> None:
    """Every line's answer on stdout, mistakes on stderr; exit status 2 if a line was one."""
    mistakes = 0
    for line in _lines():
        try:
            if line is None:
                raise UserError("a line of standard input is not UTF-8 text")
            said, answered = turn(talk, line, draw)
            if said or answered:
                print(said, flush=True)
        except UserError as error:
            mistakes += 1
            print(f"polythink: {error}", file=sys.stderr, flush=True)
        if talk.over:
            break
    if mistakes:
        raise typer.Exit(2)


def _lines() -> Iterator[str | None]:
    """The lines of standard input that are not empty, as they come; None for one that is not UTF-8."""
    for raw in sys.stdin.buffer:
        try:
            line: str | None = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            line = None
        if line != "":
            yield line
