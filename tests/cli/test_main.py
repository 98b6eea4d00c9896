"""The program as a whole: quick to start, and whatever goes wrong is one line and an exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polythink.cli import main as program
from polythink.pipeline import experiment as experiment_run
from polythink.pipeline.experiment import Outcome

MAIN = "from polythink.cli import main as program; program.main()"
COMMANDS = ("train", "experiment", "report", "generate", "eval", "data", "trace")


def polythink(*arguments: str, code: str = MAIN, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, **options
    )


def test_help_names_every_command_in_its_group() -> None:
    done = polythink("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    for text in (*COMMANDS, "Train and compare", "Use a model", "Problems and traces", "Begin with: polythink train"):
        assert any(text in line for line in lines), text


@pytest.mark.parametrize("command", ["train", "experiment", "report", "generate", "eval", "data show", "trace check"])
def test_the_help_of_a_command_is_short_and_has_an_example(command: str) -> None:
    done = CliRunner().invoke(program.app, [*command.split(), "--help"], prog_name="polythink")
    assert done.exit_code == 0
    assert f"Example: polythink {command} " in done.output
    assert len(done.output.splitlines()) < 50


def test_the_program_starts_without_the_heavy_libraries() -> None:
    code = f"import sys\ntry:\n    {MAIN.replace('; ', chr(10) + '    ')}\nfinally:\n    print(sorted(sys.modules))"
    done = polythink("--help", code=code)
    modules = done.stdout.splitlines()[-1]
    assert "'polythink.cli.train'" in modules
    for heavy in ("torch", "transformers", "matplotlib", "pyarrow", "sympy", "math_verify", "httpx"):
        assert f"'{heavy}'" not in modules, heavy


def test_the_version_is_that_of_the_package() -> None:
    done = polythink("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "polythink")


def test_threads_do_not_spin_unless_the_user_says_so() -> None:
    code = "import os\n" + MAIN.replace(
        "program.main()", "program.app = lambda: print(*(os.environ.get(k) for k in KEYS))"
    )
    code = "KEYS = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')\n" + code + "\nprogram.main()"
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for given, found in ({}, "passive 0"), ({"OMP_WAIT_POLICY": "active"}, "active 0"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**plain, **given}, check=True
        )
        assert done.stdout.strip() == found


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "nowhere"], "polythink: no run folder 'nowhere'"),
        (["trace", "check", "nowhere.jsonl", "--field", "text"], "polythink: no file nowhere.jsonl"),
        (["experiment", "nowhere.yaml"], "polythink: no file nowhere.yaml"),
        (["data", "show", "gsm9k"], "polythink: no problem set 'gsm9k'; did you mean 'gsm8k'?"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments: list[str], sentence: str) -> None:
    done = polythink(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["trian"], ["train"], ["report", "--wide", "x"]])
def test_a_wrong_command_line_is_status_2_without_a_traceback(arguments: list[str]) -> None:
    done = polythink(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


WITH_COMMAND = """
import sys, time
from polythink.cli import main as program
@program.app.command("try")
def attempt():
    {body}
program.main()
"""


def test_a_full_disk_is_one_line_and_status_2() -> None:
    full = Path("/dev/full")
    assert full.exists()
    done = polythink("try", code=WITH_COMMAND.format(body=f"open({str(full)!r}, 'w', buffering=1).write('x\\n')"))
    assert (done.returncode, done.stderr) == (2, "polythink: No space left on device\n")
    done = polythink("try", code=WITH_COMMAND.format(body="open('/nowhere/file', 'w')"))
    assert (done.returncode, done.stderr) == (2, "polythink: /nowhere/file: No such file or directory\n")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    done = polythink("try", code=WITH_COMMAND.format(body="assert False, 'a bug'"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "AssertionError: a bug" in done.stderr


@pytest.mark.parametrize(("number", "status", "said"), [
    (signal.SIGINT, 130, "polythink: interrupted\n"), (signal.SIGTERM, 143, "polythink: terminated\n"),
])  # fmt: skip
def test_an_interruption_closes_what_is_open(number: signal.Signals, status: int, said: str) -> None:
    body = "try:\n        print('up', flush=True)\n        time.sleep(60)\n    finally:\n        print('closed')"
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_COMMAND.format(body=body), "try"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (status, "closed\n", said)


def test_a_failed_stage_is_status_1_after_the_table(tmp_path, monkeypatch) -> None:
    (tmp_path / "recipe.yaml").write_text("name: r")
    (tmp_path / "trial.yaml").write_text("name: trial\narms: {a: {recipe: recipe.yaml}}")
    called = []

    def outcome(experiment, out, jobs):
        called.append((experiment.name, out, jobs))
        return Outcome("the table", failures)

    monkeypatch.setattr(experiment_run, "run_experiment", outcome)
    failures = ("stage rl failed",)
    done = CliRunner().invoke(program.app, ["experiment", str(tmp_path / "trial.yaml"), "--jobs", "3"])
    assert (done.exit_code, done.output) == (1, "the table\nstage rl failed\n")
    failures = ()
    done = CliRunner().invoke(program.app, ["experiment", str(tmp_path / "trial.yaml"), "--out", str(tmp_path / "x")])
    assert (done.exit_code, done.output) == (0, "the table\n")
    assert called == [("trial", Path("runs/trial"), 3), ("trial", tmp_path / "x", None)]
