"""The program as a whole: quick to start, and whatever goes wrong is one line and an exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polythink.cli.app import COMMANDS, app
from polythink.pipeline import experiment as experiment_run
from polythink.pipeline.experiment import Outcome

MAIN = "from polythink.cli.main import main; main()"


def polythink(*arguments: str, code: str = MAIN, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, **options
    )


def test_help_names_every_command_in_its_group() -> None:
    done = polythink("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) < 50
    for text in (*COMMANDS, "Train and compare", "Use a model", "Problems and traces", "Begin with: polythink train"):
        assert any(text in line for line in lines), text


@pytest.mark.parametrize("command", ["train", "experiment", "report", "generate", "eval", "data show", "trace check"])
def test_the_help_of_a_command_is_short_and_has_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="polythink")
    assert done.exit_code == 0
    assert f"Example: polythink {command} " in done.output
    assert len(done.output.splitlines()) < 95


LIGHT = "--help | train --help | eval -h | recipes | data list | train countdown-smoke --dry-run | explain lr"


@pytest.fixture(scope="module")
def imported() -> list[list[str]]:
    """The modules that are there after each of these command lines, one after another in one process."""
    code = """
import contextlib, io, json, sys
from polythink.cli.main import main
found = []
for line in sys.argv[1].split(" | "):
    sys.argv = ["polythink", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    found.append(sorted(sys.modules))
print(json.dumps(found))
"""
    return json.loads(polythink(LIGHT, code=code, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(LIGHT.count(" | ") + 1), ids=LIGHT.split(" | ").__getitem__)
def test_what_is_only_looked_up_imports_no_heavy_library(imported, number: int) -> None:
    heavy = {"torch", "transformers", "matplotlib", "sympy", "math_verify", "httpx"}
    if number == 0:
        heavy |= {"numpy", "pyarrow", "pydantic", "yaml", "polythink.cli.runs"}
    assert "typer" in imported[number]
    assert heavy.isdisjoint(imported[number]), heavy & {*imported[number]}


def test_python_m_polythink_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "polythink", "-V"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "polythink", "")
    assert done.stdout == polythink("--version").stdout


@pytest.mark.parametrize("command", [*COMMANDS, "data grade", "trace show"])
def test_every_command_has_short_help_and_says_how_much(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "-h"], prog_name="polythink")
    assert done.exit_code == 0
    if command not in ("bench", "data", "trace"):  # groups, whose commands have the options
        assert "--quiet" in done.output
        assert "--verbose" in done.output


@pytest.mark.slow
def test_the_shell_completes_commands_recipes_and_names(polythink, monkeypatch) -> None:
    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_POLYTHINK_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        return polythink()[1].split()

    assert complete("polythink", "exp") == ["experiment", "export", "explain"]
    assert "countdown-smoke" in complete("polythink", "train", "countdown-s")
    assert complete("polythink", "experiment", "countdown-e") == ["countdown-experiment"]
    assert complete("polythink", "data", "show", "gsm8k:te") == ["gsm8k:test"]
    assert complete("polythink", "generate", "--prompt", "seq") == ["sequential"]


@pytest.mark.slow
def test_verbose_ends_with_the_time_and_quiet_is_quiet(polythink, tmp_path) -> None:
    block = "<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>"
    (tmp_path / "row.jsonl").write_text(json.dumps({"text": block}) + "\n")
    command = ("trace", "check", str(tmp_path / "row.jsonl"), "--field", "text")
    assert "s of processor time" in polythink(*command, "-v")[2]
    assert "s of processor time" in polythink("-v", *command)[2]
    assert polythink(*command, "-q")[2] == polythink(*command)[2] == ""


def test_threads_do_not_spin_unless_the_user_says_so() -> None:
    code = (
        "import os\nfrom polythink.cli import app\n"
        "app.app = lambda **_: print(*(os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))\n" + MAIN
    )
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for given, found in ({}, "passive 0"), ({"OMP_WAIT_POLICY": "active"}, "active 0"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**plain, **given}, check=True
        )
        assert done.stdout.strip() == found


# ---- what goes wrong ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "nowhere"], "polythink: no run folder 'nowhere'"),
        (["trace", "check", "nowhere.jsonl", "--field", "text"], "polythink: no file nowhere.jsonl"),
        (["experiment", "nowhere.yaml"], "polythink: no file nowhere.yaml"),
        (["data", "show", "gsm9k"], "polythink: no problem set 'gsm9k'; did you mean 'gsm8k'?"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(polythink, arguments: list[str], sentence: str) -> None:
    status, out, err = polythink(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(sentence)


def test_a_users_mistake_is_the_status_of_the_process() -> None:
    done = polythink("report", "nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("polythink: no run folder 'nowhere'; ")


def test_an_interruption_while_modules_are_imported_is_one_line() -> None:
    code = f"""
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
{MAIN}
"""
    done = polythink("--help", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "polythink: interrupted\n")


@pytest.mark.slow
def test_a_terminal_that_is_not_utf8_is_no_traceback(tmp_path) -> None:
    block = "<Parallel><Path>α</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>"
    (tmp_path / "row.jsonl").write_text(json.dumps({"text": block}))
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "trace", "show", str(tmp_path / "row.jsonl")],
        capture_output=True, encoding="latin-1", env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "path 1" in done.stdout


SWALLOWED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "polythink.cli.app":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000): pass
            except BaseException: pass  # as some libraries do around an import of their own
sys.meta_path.insert(0, Finder())
"""


def test_an_interruption_that_an_import_swallows_ends_the_program_all_the_same() -> None:
    done = polythink("recipes", code=SWALLOWED + MAIN)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "polythink: interrupted\n")


WITHOUT_TORCH = [
    (["train", "countdown-smok"], "did you mean 'countdown-smoke'?"),
    (["train", "countdown-smoke", "rl_easy.stepz=5"], "did you mean 'steps'?"),
    (["train", "countdown-smoke", "--rl_easy.steps=5"], "keys go without dashes: rl_easy.steps=5"),
    (["train", "countdown-smoke", "--seed=5"], "keys go without dashes: seed=5"),
    (["train", "countdown-smoke", "--device", "cpu"], "train has no option --device: training runs on the GPU where"),
    (["train", "countdown-smoke", "--dtype=float32"], "in the type that the recipe's key model.dtype says"),
    (["experiment", "countdown-experiment", "--device=cpu"], "experiment has no option --device: training runs on"),
    (["train", "countdown-smoke", "--out", "used"], "holds a run already; add --resume"),
    (["train", "countdown-experiment"], "run it with: polythink experiment countdown-experiment"),
    (["train", "translation-grammar", "train.stepz=5"], "did you mean 'steps'?"),
    (["experiment", "countdown"], "run it with: polythink train countdown"),
    (["experiment", "wrong.yaml"], "arm a: "),
    (["generate", "used/smok", "9 8 5 -> 5"], "no model folder 'used/smok'; did you mean 'used/smoke'?"),
    (["generate", "used", "9 8 5 -> 5"], "used holds no model"),
    (["generate", "model", ""], "the prompt is empty"),
    (["generate", "model"], "give a prompt, or --file FILE"),
    (["generate", "model", "paths=3"], "paths=3 is a change, and there is no prompt; give the prompt first, or - to"),
    (["generate", "model", "paths=3", "top_k=2"], "paths=3 is a change, and there is no prompt"),
    (
        ["generate", "model", "paths=3", "9", "8", "top_k=2"],
        "stands before paths=3 and other changes: polythink generate MODEL '9 8' ...",
    ),
    (["generate", "model", "1", "+", "1?"], "put the prompt in quotes: polythink generate MODEL '1 + 1?'"),
    (
        ["generate", "model", "if", "x=3", "so?", "paths=3"],
        "put the prompt in quotes: polythink generate MODEL 'if x=3 so?' ...",
    ),
    (["generate", "model", "x", "pahts=3"], "did you mean 'paths'?"),
    (["generate", "model", "x", "--paths", "3", "paths=2"], "--paths and paths=... are the same setting"),
    (["generate", "model", "x", "--prompt", "paralell"], "did you mean 'parallel'?"),
    (["generate", "model", "x", "--dialect", "parallel-r1"], "did you mean 'parallel_r1'?"),
    (["generate", "model", "x", "--mode", "structurd"], "mode must be 'structured', 'reread', 'sequential'"),
    (["generate", "model", "x", "--device", "gpu"], "no device 'gpu'"),
    (["generate", "model", "x", "--dtype", "float61"], "no dtype 'float61'; did you mean 'float16'?"),
    (["generate", "model", "--file", "nowhere.txt"], "cannot read nowhere.txt"),
    (["generate", "model", "--file", "rows.jsonl", "--column", "qestion"], "did you mean 'question'?"),
    (["eval", "model", "--problems", "gsm9k", "--out", "o"], "did you mean 'gsm8k'?"),
    (["eval", "model", "--problems", "countdown-mini", "--out", "rows.jsonl"], "--out names a folder"),
    (["eval", "model", "pahts=3", "--problems", "countdown-mini", "--out", "o"], "did you mean 'paths'?"),
    (["eval", "model", "--compare", "--problems", "countdown-mini", "--out", "o"], "sequential_prompt is missing"),
    (["params", "countdown", "modl.hidden_size=3"], "did you mean 'model'?"),
    (["explain", "temprature"], "did you mean 'temperature'?"),
    (["recipes", "countdwn"], "did you mean 'countdown'?"),
]


@pytest.fixture(scope="module")
def answers_without_torch(tmp_path_factory) -> list[list]:
    """Status and errors of all these command lines, one after another in one process that cannot import torch."""
    folder = tmp_path_factory.mktemp("without")
    for model in (folder / "model", folder / "used" / "smoke"):
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    (folder / "used" / "recipe.yaml").touch()
    (folder / "wrong.yaml").write_text("name: wrong\narms: {a: {recipe: countdown, overrides: [sede=1]}}")
    (folder / "rows.jsonl").write_text('{"question": "1+1"}')
    code = """
import contextlib, io, json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from polythink.cli.main import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["polythink", *arguments]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except BaseException as error:
            status = error.code if isinstance(error, SystemExit) else repr(error)
    found.append([status, errors.getvalue()])
print(json.dumps(found))
"""
    done = polythink(json.dumps([arguments for arguments, _ in WITHOUT_TORCH]), code=code, cwd=folder, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(WITHOUT_TORCH)), ids=lambda n: " ".join(WITHOUT_TORCH[n][0]))
def test_a_mistake_is_found_before_torch_is_imported(answers_without_torch, number: int) -> None:
    status, err = answers_without_torch[number]
    assert (status, err.count("\n")) == (2, 1), err
    assert WITHOUT_TORCH[number][1] in err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["trian"], ["train"], ["report", "--wide", "x"]])
def test_a_wrong_command_line_is_status_2_without_a_traceback(polythink, arguments: list[str]) -> None:
    status, _, err = polythink(*arguments)
    assert status == 2
    assert "Usage: " in err
    assert "Traceback" not in err


WITH_COMMAND = """
import sys, time
from polythink.cli.app import app
from polythink.cli.main import main
@app.command("try")
def attempt():
    {body}
main()
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_status_2() -> None:
    full = Path("/dev/full")
    assert full.exists()
    done = polythink("try", code=WITH_COMMAND.format(body=f"open({str(full)!r}, 'w', buffering=1).write('x\\n')"))
    assert (done.returncode, done.stderr) == (2, "polythink: No space left on device\n")
    done = polythink("try", code=WITH_COMMAND.format(body="open('/nowhere/file', 'w')"))
    assert (done.returncode, done.stderr) == (2, "polythink: /nowhere/file: No such file or directory\n")


@pytest.mark.parametrize(("said", "sentence"), [  # as torch has said it
    ("CUDA out of memory. Tried to allocate 122.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which",
     "the GPU has no memory left for 122.00 MiB more; training needs less with a smaller micro_batch"),
    ("CUDA error: out of memory Search for `cudaErrorMemoryAllocation' in", "the GPU has no memory left; training"),
    ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes.",
     "the machine has no memory left for 800 bytes more; training"),
])  # fmt: skip
def test_memory_that_is_not_there_is_one_line_and_status_1(said: str, sentence: str) -> None:
    done = polythink("try", code=WITH_COMMAND.format(body=f"raise RuntimeError({said!r})"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"polythink: {sentence}")
    assert done.stderr.count("\n") == 1


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
    done = CliRunner().invoke(app, ["experiment", str(tmp_path / "trial.yaml"), "--jobs", "3"])
    places = "table: {0}/table.md\nreport: {0}/report.html\n"
    assert (done.exit_code, done.output) == (1, f"the table\n{places.format('runs/trial')}stage rl failed\n")
    failures = ()
    done = CliRunner().invoke(app, ["experiment", str(tmp_path / "trial.yaml"), "-o", str(tmp_path / "x")])
    assert (done.exit_code, done.output) == (0, f"the table\n{places.format(tmp_path / 'x')}")
    assert called == [("trial", Path("runs/trial"), 3), ("trial", tmp_path / "x", None)]
