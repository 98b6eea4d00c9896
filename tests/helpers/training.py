"""A tiny model of the synthetic task, and the pieces that the loops take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from helpers.program import die, forked
from polythink.engine.params import SamplingParams
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel
from polythink.pipeline.stage import main
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.config import parse_config
from polythink.run.folder import write_json
from polythink.run.jsonl import JsonlWriter
from polythink.train.config import SFTConfig
from polythink.train.data import TraceEncoder
from polythink.train.data_keys import DataConfig
from polythink.train.mixture import Mixture, make_mixture
from polythink.train.shards import Reader

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16, intermediate_size=64)
PROMPT = Prompt("plain", "{problem} :")


BOTH = (
    {"problems": "mini", "weight": 2},
    {"problems": "mini", "weight": 1, "demonstrations": {"style": "sequential"}},
)


def sft_config(**changes) -> SFTConfig:
    plain = {"steps": 6, "batch": 12, "lr": 3e-3, "micro_batch": 5, "checkpoint_every": 2}
    return parse_config(SFTConfig, {k: v for k, v in {**plain, **changes}.items() if v is not None}, "test")


def mixture(lm, config, mini, mode="structured", seed=0, data=BOTH) -> Mixture:
    """The sources `data`, in which every set of problems is `mini`."""
    encode = TraceEncoder(lm, SamplingParams(mode=mode), PROMPT)
    sources = [parse_config(DataConfig, source, "test") for source in data]
    return make_mixture(sources, encode, config, seed, lambda name: mini, lambda source: source.file)


def make_lm(seed: int = 0, **shape) -> LanguageModel:
    return from_config(ModelConfig(**{**SHAPE, **shape}), "parallel_r1", VOCABULARY, seed)


def forking_lm() -> LanguageModel:
    """A random model that opens blocks, and whose rollouts differ in length."""
    lm = make_lm(3)
    with torch.no_grad():  # the output matrix is tied: push the state towards the opening tag
        lm.model.model.norm.weight.mul_(2)
        lm.model.get_input_embeddings().weight[lm.tag_ids["<Parallel>"]] *= 6
    return lm


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def checkpointed(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the one checkpoint in a folder, whoever wrote it."""
    (place,) = folder.glob("step-*")
    reader = Reader(place)
    found = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(tensor.size, dtype=tensor.properties.dtype) for name, tensor in found.items()}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def run_until(spec: str, step: int) -> None:
    """Run the stage of the file `spec`; this process is killed as soon as it has written the metrics of `step`."""
    write = JsonlWriter.write

    def write_and_die(self: JsonlWriter, row: dict) -> None:
        write(self, row)
        if self.path.name == "metrics.jsonl" and row["step"] == step:
            die()

    JsonlWriter.write = write_and_die
    main([spec])


def killed(plan, folder: Path, step: int, fresh: bool = False) -> None:
    """Run a stage in a process of its own that is killed as soon as it has written the metrics of `step`.

    `fresh`: a new interpreter (another order of sets of words), which takes seconds to import torch.
    """
    spec = folder.parent / "spec.json"
    write_json(spec, {"plan": plan.model_dump(mode="json"), "folder": str(folder), "previous": None})
    if fresh:
        script = "import sys; from helpers.training import run_until; run_until(sys.argv[1], int(sys.argv[2]))"
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-c", script, str(spec), str(step)]
        status = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode
    else:
        status = forked(lambda: run_until(str(spec), step))
    assert status == -signal.SIGKILL


@pytest.fixture
def lm() -> LanguageModel:
    return make_lm()


@pytest.fixture(scope="session")
def mini():
    """All training problems of two numbers."""
    return problems("mini", "train")
