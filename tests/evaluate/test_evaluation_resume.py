"""An evaluation that is stopped, and goes on: the same result, sample for sample, and only for the same question."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.backends import CannedBackend
from helpers.program import die, forked
from helpers.sweep import sweep
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.compare import compare
from polythink.evaluate.config import CompareConfig, TunnelConfig
from polythink.evaluate.journal import Journal
from polythink.evaluate.run import evaluate
from polythink.evaluate.tunnel import tunnel
from polythink.models.build import ModelConfig, from_config
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.folder import read_json, take_lock, write_json
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import get_dialect
from polythink.trace.dialect_file import from_plain
from polythink.trace.production import Dialect

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16, intermediate_size=64)
PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80, fork_at=2
)
MINI = ProblemSet("mini", problems("mini", "heldout", 3), ("it is small",))
ASK = {"prompt": "countdown_parallel", "params": PARAMS, "seed": 5}
PARTIAL = "samples.partial.jsonl"


def silent(line: str) -> None:
    pass


class Stopped(Engine):
    """An engine that is interrupted when it has announced so many responses, over all its calls."""

    left = 1 << 30

    def generate(self, requests, params, seed=0, on_event=None, label="", done_only=False):
        def watched(event) -> None:
            on_event(event)
            self.left -= event.kind == "done"
            if self.left == 0:
                raise KeyboardInterrupt

        return super().generate(requests, params, seed, watched if on_event else None, label, done_only)


def engine(dialect: str = "parallel_r1", seed: int = 0) -> Stopped:
    return Stopped(from_config(ModelConfig(**SHAPE), dialect, VOCABULARY, seed), max_num_seqs=4)


def run_eval(backend, out: Path, **more) -> dict:
    return evaluate(backend, MINI, **{**ASK, "samples": 4, "greedy": True, "log": silent, **more}, out=out)


def run_compare(backend, out: Path, **more) -> dict:
    options = CompareConfig(sequential_prompt="countdown_sequential", samples=2, paths=(1, 2))
    return compare(backend, MINI, options, **{**ASK, "log": silent, **more}, out=out)


def run_tunnel(backend, out: Path, **more) -> dict:
    options = TunnelConfig(budgets=(6,), paths=(1, 2), samples=2, prefixes=(0.3,), traces=3, continuations=6)
    return tunnel(backend, MINI, options, **{**ASK, "log": silent, **more}, out=out)


def timeless(value):
    """A result without what depends on when it was found, and at what cost."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "forwarded", "date", "command")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict:
    """All files; JSON without times."""
    return {
        path.name: timeless(read_json(path)) if path.suffix == ".json" else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("run", "dialect", "stops"),
    sweep(
        [
            (run_eval, "parallel_r1", (1, 5, 4)),  # in the samples, twice; then in the greedy responses
            (run_compare, "parathinker:4", (4, 7, 9)),
            (run_tunnel, "parathinker:4", (3, 8, 12)),
        ],
        [(run_eval, "parallel_r1", (1, 5, 4)), (run_compare, "parathinker:4", (4, 7, 9))],
    ),
)
def test_stopped_again_and_again_it_comes_to_what_it_does_at_once(tmp_path, run, dialect, stops) -> None:
    backend = engine(dialect)
    run(backend, tmp_path / "whole")
    for left in stops:
        backend.left = left
        with pytest.raises(KeyboardInterrupt):
            run(backend, tmp_path / "out", resume=True)
        assert (tmp_path / "out" / PARTIAL).exists()
    kept = [(row["draw"], row["problem"], row["sample"]) for row in read_jsonl(tmp_path / "out" / PARTIAL)[1:]]
    assert len(kept) == len(set(kept)) >= sum(stops), "nothing is sampled twice, and what was finished is kept"
    backend.left = 1 << 30
    run(backend, tmp_path / "out", resume=True)
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")
    assert PARTIAL not in outcome(tmp_path / "whole")


def run_until(row: int, out: Path) -> None:
    """`run_eval` until so many rows are kept."""
    write, rows = Journal.write, [0]

    def write_and_die(self: Journal, draw: str, kept: dict) -> None:
        write(self, draw, kept)
        rows[0] += 1
        if rows[0] == row:
            die()

    Journal.write = write_and_die
    run_eval(engine(), out, resume=True)


@pytest.mark.slow
def test_a_killed_process_loses_only_what_it_was_sampling(tmp_path) -> None:
    for attempt in (1, 2):
        assert forked(lambda: run_until(5, tmp_path / "out")) == -signal.SIGKILL
        assert len(read_jsonl(tmp_path / "out" / PARTIAL)) == 1 + 5 * attempt
        with (tmp_path / "out" / PARTIAL).open("ab") as file:
            file.write(b'{"draw": "", "seco')  # a kill may tear the last line
    run_eval(engine(), tmp_path / "out", resume=True)
    run_eval(engine(), tmp_path / "whole")
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")


# ---- the same question only ----


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> dict[str, Path]:
    """An evaluation that was stopped, and the same when it had gone on to its end."""
    found, backend = {name: tmp_path_factory.mktemp(name) for name in ("begun", "finished")}, engine()
    backend.left = 3
    with pytest.raises(KeyboardInterrupt):
        run_eval(backend, found["begun"])
    shutil.copytree(found["begun"], found["finished"], dirs_exist_ok=True)
    backend.left = 1 << 30
    run_eval(backend, found["finished"], resume=True)
    return found


@pytest.fixture
def begun(left, tmp_path) -> Path:
    return shutil.copytree(left["begun"], tmp_path / "begun")


OTHERS = {
    "seed: 5 -> 6": {"seed": 6},
    "samples: 4 -> 2": {"samples": 2},
    "greedy: True -> False": {"greedy": False},
    "decoding.temperature: 1.0 -> 0.5, decoding.top_k: 0 -> 3": {
        "params": PARAMS.model_copy(update={"temperature": 0.5, "top_k": 3})
    },
    "prompt.name: countdown_parallel -> countdown_sequential, prompt.hash: ": {"prompt": "countdown_sequential"},
    "overlong_prompts: skip -> refuse": {"overlong_prompts": "refuse"},
}


@pytest.mark.parametrize("named", OTHERS)
@pytest.mark.parametrize("finished", [False, True])
def test_another_question_is_refused_and_what_differs_is_named(left, tmp_path, named, finished) -> None:
    folder = shutil.copytree(left["finished" if finished else "begun"], tmp_path / "left")
    before = outcome(folder)
    file = "eval.json" if finished else PARTIAL
    with pytest.raises(UserError) as refused:
        run_eval(engine(), folder, resume=True, **OTHERS[named])
    assert str(refused.value).startswith(f"{folder / file} answers another question ({named}")
    assert outcome(folder) == before


def test_other_weights_and_other_problems_are_another_question(begun) -> None:
    folder = begun
    with pytest.raises(UserError, match=r"another question \(weights: \w{16} -> \w{16}\)"):
        run_eval(engine(seed=1), folder, resume=True)
    other = ProblemSet("mini", tuple(replace(p, answer="1") for p in MINI))
    with pytest.raises(UserError, match=r"another question \(problem_hash: \w{16} -> \w{16}\)"):
        evaluate(engine(), other, **ASK, samples=4, greedy=True, out=folder, resume=True, log=silent)


FORMAT = """
name: mine
block:
  - tag: <Fork>
  - paths: [<TAG>, </TAG>]
    least: 2
  - {tag: </Fork>, by: runtime}
  - summary: [<Join>, </Join>]
"""


def of_dialect(dialect: Dialect, out: Path) -> dict:
    backend = CannedBackend({"p": ["<Fork><Path>x</Path><Path>y</Path></Fork><Join>z</Join> Final Answer: 7"]})
    backend.dialect = dialect
    return evaluate(backend, [Problem("p", "3 + 4?", "7")], samples=1, prompt="none", out=out, resume=True, log=silent)


def test_a_dialect_file_that_was_edited_is_another_question(tmp_path) -> None:
    before, now = (from_plain(yaml.safe_load(FORMAT.replace("TAG", tag)), "") for tag in ("Path", "Way"))
    for _ in range(2):
        assert of_dialect(before, tmp_path / "out")["metrics"]["parallel_ratio"]["value"] == 1
    with pytest.raises(UserError, match=r"another question \(dialect_hash: \w{16} -> \w{16}\)"):
        of_dialect(now, tmp_path / "out")
    file = tmp_path / "out" / "eval.json"
    write_json(file, {key: value for key, value in read_json(file).items() if key != "dialect_hash"})
    with pytest.raises(UserError, match=r"another question \(dialect_hash: None -> \w{16}\)"):
        of_dialect(before, tmp_path / "out")


@pytest.mark.parametrize("name", ["parallel_r1", "parathinker:4"])
def test_a_published_dialect_is_known_by_its_name(tmp_path, name) -> None:
    found = of_dialect(get_dialect(name), tmp_path / "out")
    assert found["dialect"] == name
    assert "dialect_hash" not in found


def test_speed_and_hardware_are_no_part_of_the_question(begun) -> None:
    folder = begun
    other = Engine(engine().lm, max_num_seqs=2)
    run_eval(other, folder, resume=True)
    assert len(read_jsonl(folder / "samples.jsonl")) == 12


def test_what_is_finished_is_returned_and_left_alone(tmp_path) -> None:
    result = run_eval(engine(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    said: list[str] = []
    backend = engine()
    backend.generate = None
    assert timeless(run_eval(backend, tmp_path / "out", resume=True, log=said.append)) == timeless(
        read_json(tmp_path / "out" / "eval.json")
    )
    assert said[-1].startswith("mini: mean@4 ")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert result["provenance"] == read_json(tmp_path / "out" / "eval.json")["provenance"]


# ---- nothing is written over ----


def test_a_used_folder_is_refused_unless_it_is_resumed(begun, tmp_path) -> None:
    folder = begun
    before = outcome(folder)
    with pytest.raises(
        UserError, match=r"holds samples\.partial\.jsonl already; resume it \(--resume\), or give another"
    ):
        run_eval(engine(), folder)
    assert outcome(folder) == before
    (tmp_path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"holds samples\.jsonl already"):
        run_eval(engine(), tmp_path)
    run_eval(engine(), tmp_path, name="other")
    assert (tmp_path / "samples.jsonl").read_text() == "{}\n"


def test_two_processes_do_not_write_one_evaluation(begun) -> None:
    folder = begun
    lock = take_lock(folder / PARTIAL)
    with pytest.raises(UserError, match=r"another process writes .*samples\.partial\.jsonl"):
        run_eval(engine(), folder, resume=True)
    os.close(lock)
    run_eval(engine(), folder, resume=True)


def test_who_interrupts_is_told_what_is_kept(tmp_path) -> None:
    backend, said = engine(), []
    backend.left = 3
    with pytest.raises(KeyboardInterrupt):
        run_eval(backend, tmp_path / "out", log=said.append)
    assert said[-1] == f"3 of 12 responses are kept in {tmp_path / 'out' / PARTIAL}; --resume goes on with them"


def test_a_backend_that_announces_nothing_is_kept_when_it_is_done(tmp_path) -> None:
    backend = CannedBackend({"p": ["Final Answer: 7", "Final Answer: 8"]})
    evaluate(backend, [Problem("p", "3 + 4?", "7")], samples=2, out=tmp_path / "out", log=silent)
    assert [row["verdict"] for row in read_jsonl(tmp_path / "out" / "samples.jsonl")] == ["right", "wrong"]
    assert list(read_jsonl(tmp_path / "out" / "samples.jsonl")[0])[:5] == [
        "problem", "question", "answer", "checker", "sample",
    ]  # fmt: skip
