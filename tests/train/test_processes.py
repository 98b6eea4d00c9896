"""Several processes train as one: the same rollouts, losses, gradient norms and weights, whatever their number."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.program import die
from helpers.ranks import LONG, Ranks, together
from helpers.sweep import sweep
from helpers.training import PROMPT, make_lm, mixture, sft_config, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.problems.tasks.countdown import problems
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.run.folder import folder_lock
from polythink.run.jsonl import read_jsonl
from polythink.train import distributed, watch
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft
from polythink.train.shards import Writer

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=40
)
CLOSE = 1e-5  # float32: sums in another order


def run_sft(folder: Path, steps: int = 5, **changes) -> dict:
    lm, config = make_lm(), sft_config(steps=steps, micro_batch=3, **changes)
    asked = problems("mini", "heldout")[:3]
    data = mixture(lm, config, problems("mini", "train"))
    return train_sft(lm, config, data, folder, prompt=PROMPT, params=PARAMS, problems=asked)


def ragged(given: RewardInput) -> float:
    """Some groups are equal and left out: of the three groups of a step, two, one or none stay."""
    numbers = sorted(int(word) for word in given.question.split() if word.isdigit())
    return float(given.tokens % 5) if sum(numbers) % 2 else 0.0


def run_grpo(folder: Path, steps: int = 5, reward=ragged, **changes) -> dict:
    lm = make_lm()
    given = {"prompts_per_step": 3, "group_size": 3, "checkpoint_every": 2, "lr": 1e-3, "micro_batch": 2, **changes}
    config = parse_config(GRPOConfig, {"reward": {"function": reward}, "steps": steps, **given}, "test")
    return train_grpo(lm, config, problems("mini", "train"), folder, prompt=PROMPT, params=PARAMS)


RUNS = {"sft": run_sft, "grpo": run_grpo}
EXTRAS = {  # everything that takes further forwards
    "kl_coef": 0.1, "old_logprobs": "recomputed", "importance_sampling_mode": "token_truncate", "mini_batches": 2,
    "loss_type": "sequence-mean", "reshard_after_forward": False, "pack": 80, "logits_memory_bytes": 4000,
    "pass_rate": {"samples": 3, "at_least": 0, "problems": 7},
}  # fmt: skip


def everything(folder: Path) -> list[dict]:
    """All that the fast tests look at, in one launch."""
    run_sft(folder / "begun", 2)
    return [run(folder / kind) for kind, run in RUNS.items()]


def assert_same(one: Path, many: Path, close: float = CLOSE) -> None:
    """The rows, the samples and the weights of two folders."""
    found = [without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (one, many)]
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.keys() == ours.keys()
        for name, value in ours.items():
            number = isinstance(value, int | float)
            assert theirs[name] == (pytest.approx(value, rel=close, abs=close) if number else value), name
    if (one / "samples.jsonl").exists():
        assert texts(many) == texts(one), "drawn alike"
    weights = [load(folder / "model").model.state_dict() for folder in (one, many)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=close, atol=close, msg=name)


def texts(folder: Path) -> list[tuple]:
    rows = read_jsonl(folder / "samples.jsonl")
    return [(row["step"], row["problem"], row["text"], row.get("reward")) for row in rows]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_weights_are_gathered_in_bfloat16_and_kept_in_float32(tmp_path, kind):
    """Near to one process that casts in its forwards; what is drawn in bfloat16 is trained in bfloat16."""
    run = {"sft": sft_in_bfloat16, "grpo": grpo_in_bfloat16}[kind]
    run(tmp_path / "one")
    ended = together(2, run, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    (first, *_), (other, *_) = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    if kind == "sft":
        assert other["loss"] == pytest.approx(first["loss"], rel=1e-2)
        assert other["grad_norm"] == pytest.approx(first["grad_norm"], rel=3e-2)
    else:
        assert other["mismatch_kl"] < 1e-3
    assert {value.dtype for value in load(tmp_path / "two" / "model").model.state_dict().values()} == {torch.float32}


def sft_in_bfloat16(folder: Path) -> None:
    run_sft(folder, 2, autocast=True)


def grpo_in_bfloat16(folder: Path) -> None:
    run_grpo(folder, 2, autocast=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The folders of one process."""
    folder = tmp_path_factory.mktemp("one")
    everything(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folders of two, and what each process got back."""
    folder = tmp_path_factory.mktemp("two")
    return folder, together(2, everything, folder)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_two_processes_train_as_one(one, two, kind):
    folder, ended = two
    assert [end.status for end in ended] == [0, 0], ended
    assert_same(one / kind, folder / kind)


def run_extras(folder: Path) -> None:
    run_grpo(folder, 2, **EXTRAS)


@pytest.mark.long
def test_two_processes_take_further_forwards_as_one(tmp_path):
    run_extras(tmp_path / "one")
    ended = together(2, run_extras, tmp_path / "two")
    assert [end.status for end in ended] == [0, 0], ended
    assert_same(tmp_path / "one", tmp_path / "two")


def test_the_data_are_ragged(one):
    """Otherwise the test above says little: in some steps all groups are equal, in some no more than one is left."""
    shares = {round(row["zero_spread"], 2) for row in read_jsonl(one / "grpo" / "metrics.jsonl")}
    assert 1.0 in shares
    assert shares & {0.33, 0.67}


def test_all_processes_get_the_summary(two):
    _, ended = two
    assert ended[0].value == ended[1].value
    assert [found["steps"] for found in ended[0].value] == [5, 5]


def test_one_process_goes_on_from_a_checkpoint_of_two(one, two):
    run_sft(two[0] / "begun")
    assert_same(one / "sft", two[0] / "begun")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_other_numbers_of_processes_go_on_from_a_checkpoint(one, tmp_path, kind):
    """Two processes, then one, then three: as five steps of one."""
    assert all(end.status == 0 for end in together(2, RUNS[kind], tmp_path, 2))
    RUNS[kind](tmp_path, 4)
    assert all(end.status == 0 for end in together(3, RUNS[kind], tmp_path, 5))
    assert_same(one / kind, tmp_path)


# ---- errors ----


def fails_in(rank: int, what: str, folder: Path) -> None:
    with distributed.processes():

        def work() -> None:
            if distributed.rank() == rank:
                raise UserError("no such file") if what == "user" else ZeroDivisionError("by nothing")

        distributed.gathered(work)


def test_an_error_of_one_process_ends_all_with_one_sentence(tmp_path):
    ended = together(2, fails_in, 1, "user", tmp_path)
    assert [(end.status, end.said) for end in ended] == [(2, "no such file"), (2, "")]
    first, second = together(2, fails_in, 1, "ours", tmp_path)
    assert (first.status, first.said) == (2, "process 1 of 2 ended with ZeroDivisionError: by nothing")
    assert (second.status, second.said) == (1, "ZeroDivisionError: by nothing"), "where its traceback is"


def wrong(given: RewardInput) -> float:
    raise ValueError("a mistake in the reward")


@pytest.mark.long
def test_a_reward_that_raises_ends_all(tmp_path):
    first, second = together(2, run_grpo, tmp_path, 2, wrong)
    assert first.status in (1, 2)
    assert "a mistake in the reward" in first.said
    assert (second.status, second.said) == (2, "")


@pytest.mark.long
def test_a_folder_that_is_in_use_ends_all(tmp_path):
    with folder_lock(tmp_path / "checkpoint"):
        first, second = together(2, run_sft, tmp_path)
    assert "another process is at work" in first.said
    assert (first.status, second.status, second.said) == (2, 2, "")


def without_room(rank: int, folder: Path) -> None:
    """The disk of one process is full when it writes its part of a checkpoint, as far as the program can tell."""
    write = Writer.write_data

    def full(self, *given):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        return write(self, *given)

    with distributed.processes():
        if distributed.rank() == rank:
            Writer.write_data = full
        run_sft(folder, 5)


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_in_the_middle_of_a_checkpoint_leaves_the_previous_one_whole(one, tmp_path, rank):
    run_sft(tmp_path, 2)
    first, second = together(2, without_room, rank, tmp_path)
    place = tmp_path / "checkpoint"
    assert (first.status, first.said) == (2, f"cannot write {place / 'step-000004'}: File too large")
    assert (second.status, second.said) == (2, "")
    assert {path.name for path in place.iterdir()} == {"step-000002", "lock"}
    run_sft(tmp_path, 5)
    assert_same(one / "sft", tmp_path)


def silent(rank: int, late: bool) -> None:
    """One process stops in the middle, the other waits for it. `late`: before their watches have met."""
    watch.EVERY, watch.SILENT = 0.05, 1.0
    if late:
        reach = watch.Watch._reach
        watch.Watch._reach = lambda self: (time.sleep(0.5), reach(self))
    with distributed.processes():
        distributed.gathered(lambda: os.kill(os.getpid(), signal.SIGSTOP) if distributed.rank() == rank else None)


@pytest.mark.parametrize(
    ("rank", "late"),
    [(0, False), (0, True), *(pytest.param(1, late, marks=pytest.mark.long) for late in (False, True))],
)
def test_a_process_that_falls_silent_is_not_waited_for(rank, late):
    ranks = Ranks(2, silent, rank, late)
    ranks.processes[1 - rank].join(LONG)
    assert ranks.processes[1 - rank].exitcode == watch.STATUS
    for process in ranks.processes:
        process.kill()


class Ticks:
    """An event that is never set, but ends a thread that has waited for it so often."""

    def __init__(self, count: int) -> None:
        self.left = count

    def wait(self, seconds: float) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_suspended_process_does_not_hold_its_own_silence_against_the_others(monkeypatch, capsys):
    """However long it stood still between two looks: only looks count."""
    monkeypatch.setattr(watch.os, "_exit", sys.exit)
    one = object.__new__(watch.Watch)
    one.sentence, one.unheard, one.over = "silent", 0, Ticks(round(watch.SILENT / watch.EVERY))
    one._judge()
    one.over = Ticks(1)
    with pytest.raises(SystemExit, match="2"):
        one._judge()
    assert capsys.readouterr().err == "polythink: silent\n"


# Calls and returns of functions in each process after they have met: 400 thousand until the checkpoint is looked for,
# a million more until the first one is written, 1.8 million until training is over; then the first process saves.
BEGUN, KEPT, OVER = 400_000, 1_350_000, (2_700_000, 1_800_000)


def dies(rank: int, event: int, kind: str, folder: Path) -> int:
    """A run that one process leaves by kill -9 at that call or return of a function; how many it has seen, otherwise.

    Nothing of it depends on the machine's speed: it may be in the middle of a step, of a collective or of a file.
    """
    seen = 0

    def count(*_) -> None:
        nonlocal seen
        seen += 1
        if seen == event and distributed.rank() == rank:
            die()

    with distributed.processes():
        sys.setprofile(count)
        RUNS[kind](folder)
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("moment", sweep(range(20), [0]))
def test_kill_minus_nine_at_random_moments(one, tmp_path, moment):
    """The other says one sentence and ends; both go on later to the numbers of a run that nobody killed."""
    kind, rank = ("sft", "grpo")[moment // 2 % 2], moment % 2
    where = (KEPT, OVER[rank]) if moment // 4 % 2 == 0 else (BEGUN, KEPT)
    event = random.Random(moment).randrange(*where)
    ended = together(2, dies, rank, event, kind, tmp_path)
    assert ended[rank].status == -signal.SIGKILL, f"killed at event {event}: {ended}"
    assert (ended[1 - rank].status, ended[1 - rank].said) == (2, distributed.LOST), event
    assert all(end.status == 0 for end in together(2, RUNS[kind], tmp_path))
    assert_same(one / kind, tmp_path)
