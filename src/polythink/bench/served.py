"""vLLM as a contender, in this process: the same weights, saved as a folder; every path is a sample of its prompt."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence

from polythink.bench.cases import Case, Trace
from polythink.bench.machine import free_bytes
from polythink.bench.model import Subject, sizes_of
from polythink.bench.stock import check_memory
from polythink.bench.timing import Run, Skipped

SHORT = 2  # tokens of the run that is taken off: its prompts and its overhead


class Vllm:
    """A step's time is that of a long run less that of a short one, by the steps between: one number a run."""

    name = "vllm"

    def __init__(self, subject: Subject) -> None:
        import vllm

        self.api, self.subject = vllm, subject
        if subject.device.type != "cuda":
            raise Skipped("vLLM is compared on a GPU only")
        self.folder = tempfile.TemporaryDirectory(prefix="polythink-vllm-")
        subject.lm.model.save_pretrained(self.folder.name)
        self.engine = None

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        check_memory(self.subject, traces, steps)
        if self.engine is None:
            sizes = sizes_of(self.subject.lm)
            share = min(0.45, 2 * sizes.weight_bytes / free_bytes(self.subject.device) + 0.25)
            self.engine = self.api.LLM(
                self.folder.name, dtype=str(self.subject.lm.model.dtype).removeprefix("torch."), max_model_len=16384,
                gpu_memory_utilization=share, skip_tokenizer_init=True, enable_prefix_caching=True, seed=0,
                disable_log_stats=True,
            )  # fmt: skip

    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        short, long = self._seconds(traces, SHORT), self._seconds(traces, SHORT + steps)
        if long <= short:
            raise Skipped("a run was too short to be timed; give more steps")
        return Run([(long - short) / steps])

    def _seconds(self, traces: Sequence[Trace], tokens: int) -> float:
        prompts = [{"prompt_token_ids": list(trace.prompt)} for trace in traces]
        params = [
            self.api.SamplingParams(
                n=trace.paths, temperature=1.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False
            )
            for trace in traces
        ]
        started = time.perf_counter()
        self.engine.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started

    def close(self) -> None:
        """The engine is kept for the next case."""
