"""llama.cpp as a contender, through llama-cpp-python: one sequence per path, the prompt's cells shared by `seq_cp`.

The same weights, written as GGUF. `exact` keeps keys and values in float32 without flash attention; otherwise it runs
with its defaults, float16 and flash attention. Tokens are sampled from its logits by torch.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polythink.bench.cases import Case, Trace, branches
from polythink.bench.gguf_file import write_gguf
from polythink.bench.model import Subject
from polythink.bench.timing import Clock, Run, Skipped

CHUNK = 512  # prompt tokens in one batch
MOST_SEQUENCES = 256  # as llama.cpp is compiled


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level, text, data):
    """llama.cpp reports to nobody."""


class LlamaCpp:
    """The context is made anew for each case; the file of the weights lives as long as this object."""

    def __init__(self, subject: Subject, exact: bool) -> None:
        import llama_cpp

        self.api, self.subject, self.exact, self.context = llama_cpp, subject, exact, None
        self.name = "llama.cpp exact" if exact else "llama.cpp"
        if subject.lm.model.config.model_type != "qwen3":
            raise Skipped(f"only a qwen3 is written as GGUF here, this is a {subject.lm.model.config.model_type}")
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.folder = tempfile.TemporaryDirectory(prefix="polythink-gguf-")
        file = Path(self.folder.name) / "model.gguf"
        write_gguf(subject.lm.model, file)
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = -1 if subject.device.type == "cuda" else 0
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not self.model:
            raise Skipped("llama.cpp does not load the weights")

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        count = branches(traces)
        if count > MOST_SEQUENCES:
            raise Skipped(f"{count} sequences, llama.cpp takes {MOST_SEQUENCES}")
        api, params = self.api, self.api.llama_context_default_params()
        cells = sum(len(trace.prompt) for trace in traces) + count * (steps + 2)
        params.n_ctx = -(-cells // 256) * 256
        params.n_batch = params.n_ubatch = max(CHUNK, count)
        params.n_seq_max = count
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.kv_unified = True
        if self.exact:
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.type_k = params.type_v = 0  # GGML_TYPE_F32
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise Skipped(f"llama.cpp makes no context of {params.n_ctx} cells")
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(params.n_batch, 0, 1)

    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        self.api.llama_memory_clear(self.memory, False)
        tokens, positions = self.read(traces)
        clock = Clock()
        for step in range(steps + 1):
            logits = self.decode(tokens, positions + step, np.arange(len(tokens)))
            tokens = torch.multinomial(logits.softmax(-1), 1)[:, 0].numpy()
            clock.tick()
        return clock.run()

    def read(self, traces: Sequence[Trace]) -> tuple[np.ndarray, np.ndarray]:
        """Run the prompts and fork; the next token of each sequence, an ordinary one, and its position."""
        positions, main = [], 0
        for trace in traces:
            prompt = np.array(trace.prompt)
            for first in range(0, len(prompt), CHUNK):
                part = prompt[first : first + CHUNK]
                self.decode(part, first + np.arange(len(part)), np.full(len(part), main), wanted=False)
            for other in range(main + 1, main + trace.paths):
                self.api.llama_memory_seq_cp(self.memory, main, other, -1, -1)
            positions += [len(prompt)] * trace.paths
            main += trace.paths
        return np.full(main, self.subject.words[-1]), np.array(positions)

    def decode(
        self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, wanted: bool = True
    ) -> torch.Tensor:
        """Run a batch; logits (N, V) after every token if wanted."""
        batch, count = self.batch, len(tokens)
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i] = int(tokens[i]), int(positions[i])
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, int(sequences[i]), wanted
        status = self.api.llama_decode(self.context, batch)
        if status:
            raise Skipped(f"llama_decode failed with status {status}")
        if not wanted:
            return torch.empty(0)
        vocabulary = self.subject.lm.model.config.vocab_size
        logits = np.ctypeslib.as_array(self.api.llama_get_logits(self.context), (count, vocabulary))
        return torch.from_numpy(logits)

    def close(self) -> None:
        """Free the context; the model stays."""
        if self.context:
            self.api.llama_batch_free(self.batch)
            self.api.llama_free(self.context)
            self.context = None
