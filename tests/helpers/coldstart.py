"""Cold starts for tests: over the endpoint of `chat_server`, and by the synthetic teacher."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from helpers.chat_server import ChatServer
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import COUNTDOWN, demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint, EndpointConfig
from polythink.teachers.teacher import RetryPolicy

QUICK = RetryPolicy(retries=2, wait=0.01)
AT_ONCE = 3  # requests of `command`


def record(server: ChatServer, n: int, p_right: float = 1.0) -> tuple[Problem, ...]:
    """`n` problems whose responses the server knows."""
    chosen = problems("easy", "train", limit=n)
    for problem in chosen:
        server.recorded[problem.question] = demonstrate(problem, DemoStyle(p_right=p_right), random.Random(problem.key))
    return chosen


def ask(server: ChatServer, chosen: tuple[Problem, ...], out: Path, *, rule: str = "strict", **options) -> list[dict]:
    """One cold start over the endpoint. The server knows bare questions, so the prompt is empty."""
    endpoint = {name: options.pop(name) for name in ("timeout", "key_env") if name in options}
    with Endpoint(EndpointConfig(url=server.base, model="teacher", **endpoint)) as teacher:
        return run_coldstart(
            chosen, teacher, get_prompt("none"), rule, out, about_teacher=teacher.about,
            **{"concurrency": 4, "retry": QUICK, **options},
        )  # fmt: skip


def countdown_run(out: Path, **options):
    chosen = problems("easy", "train", limit=60)
    teacher = COUNTDOWN.teacher({"sequential": 1, "parallel": 1}, p_right=0.4)
    prompt = get_prompt("none")
    return run_coldstart(chosen, teacher, prompt, "strict", out, about_teacher=teacher.about, samples=2, **options)


def last_rows(out: Path) -> dict[str, dict]:
    return {row["question"]: row for row in read_jsonl(out / "all.jsonl")}


def command(server: ChatServer, out: Path, n: int, *options: object) -> list[str]:
    """The command line that asks the server for `n` problems, for a new interpreter."""
    run = "import sys; from polythink.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", run, *arguments(server, out, n, *options)]


def arguments(server: ChatServer, out: Path, n: int, *options: object) -> list[str]:
    """The program's arguments that ask the server for `n` problems."""
    return [
        "data", "coldstart", "countdown-easy:train", "--limit", str(n), "--out", str(out),
        "--endpoint", server.base, "--model", "teacher", "--prompt", "none", "--concurrency", str(AT_ONCE),
        *map(str, options),
    ]  # fmt: skip
