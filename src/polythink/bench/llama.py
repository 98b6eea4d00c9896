"""llama.cpp as a contender, through llama-cpp-python: one sequence per path, the prompt's cells shared by `seq_cp`.

The same weights, written as GGUF. `exact` keeps keys and values in float32 without flash attention; otherwise it runs
with its defaults, float16 and flash attention. Tokens are sampled from its logits by torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polythink.bench.cases import Case, Trace, branches
from polythink.bench.model import Subject
from polythink.bench.timing import Clock, Run, Skipped
from polythink.engine.llama.memory import MOST_SEQUENCES
from polythink.engine.llama.native import BATCH, Context, Weights, library
from polythink.errors import UserError
from polythink.models.to_gguf import write_gguf


class LlamaCpp:
    """The context is made anew for each case; the file of the weights lives as long as this object."""

    def __init__(self, subject: Subject, exact: bool) -> None:
        self.subject, self.exact, self.context = subject, exact, None
        self.name = "llama.cpp exact" if exact else "llama.cpp"
        self.folder = tempfile.TemporaryDirectory(prefix="polythink-gguf-")
        file = Path(self.folder.name) / "model.gguf"
        try:
            library()
            write_gguf(subject.lm.model, file)
            self.weights = Weights(file, gpu=subject.device.type == "cuda")
        except UserError as error:
            raise Skipped(str(error)) from error

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        count = branches(traces)
        if count > MOST_SEQUENCES:
            raise Skipped(f"{count} sequences, llama.cpp takes {MOST_SEQUENCES}")
        cells = sum(len(trace.prompt) for trace in traces) + count * (steps + 2)
        try:
            self.context = Context(self.weights, cells, count, self.exact)
        except UserError as error:
            raise Skipped(str(error)) from error

    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        self.context.clear()
        tokens, positions = read_prompts(self.context, traces, self.subject.words[-1])
        sequences, all_of_them = np.arange(len(tokens)), np.ones(len(tokens), bool)
        clock = Clock()
        for step in range(steps + 1):
            logits = torch.from_numpy(self.context.decode(tokens, positions + step, sequences, all_of_them))
            tokens = torch.multinomial(logits.softmax(-1), 1)[:, 0].numpy()
            clock.tick()
        return clock.run()

    def close(self) -> None:
        """Free the context; the model stays."""
        if self.context:
            self.context.close()
            self.context = None


def read_prompts(context: Context, traces: Sequence[Trace], token: int) -> tuple[np.ndarray, np.ndarray]:
    """Run the prompts and fork: the next token of each sequence, which is `token`, and its position."""
    positions, main = [], 0
    for trace in traces:
        prompt = np.array(trace.prompt)
        for first in range(0, len(prompt), BATCH):
            part = prompt[first : first + BATCH]
            n = len(part)
            context.decode(part, first + np.arange(n), np.full(n, main), np.zeros(n, bool))
        for other in range(main + 1, main + trace.paths):
            context.copy(main, other)
        positions += [len(prompt)] * trace.paths
        main += trace.paths
    return np.full(main, token), np.array(positions)
