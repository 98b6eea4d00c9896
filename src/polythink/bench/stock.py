"""transformers as a contender: `generate` on one batch, and continuous batching (`generate_batch`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from polythink.bench.cases import Case, Trace
from polythink.bench.machine import free_bytes
from polythink.bench.model import Subject, sizes_of
from polythink.bench.timing import Clock, Run, Skipped

CHUNK = 8192  # prompt tokens that continuous batching reads in one step
PAGE = 256  # tokens: the default of transformers


@contextmanager
def silent() -> Iterator[None]:
    """Without the warnings of transformers about requests that nothing ends and managers that are kept."""
    loggers = [logging.getLogger(name) for name in ("transformers", "ContinuousBatchingLogger")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Ticking(StoppingCriteria):
    """Never stops; notes when each step has ended."""

    def __init__(self) -> None:
        self.clock = Clock()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.clock.tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def check_memory(subject: Subject, traces: Sequence[Trace], steps: int, copies: int = 1) -> None:
    """Raises `Skipped` where a copy of the prompt for each path does not fit into memory."""
    tokens = sum(trace.paths * (len(trace.prompt) + steps) for trace in traces)
    needed, free = copies * tokens * sizes_of(subject.lm).kv_bytes, free_bytes(subject.device)
    if needed > free:
        raise Skipped(f"needs {needed / 1e9:.1f} GB for a copy of the prompt per path, {free / 1e9:.1f} are free")


class Generate:
    """`generate` with one row per path, padded on the left, each with its own copy of the prompt."""

    name = "generate"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        check_memory(self.subject, traces, steps, copies=2)  # it grows by copying

    @silent()
    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        lm, ticking = self.subject.lm, _Ticking()
        rows = [trace.prompt for trace in traces for _ in range(trace.paths)]
        longest = max(map(len, rows))
        ids = torch.tensor([[lm.pad] * (longest - len(row)) + list(row) for row in rows], device=self.subject.device)
        lm.model.generate(
            ids, attention_mask=(ids != lm.pad).long(), stopping_criteria=[ticking],
            generation_config=GenerationConfig(
                do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=steps + 1, pad_token_id=lm.pad,
                eos_token_id=-1,  # nothing ends a row; None would take the model's own
            ),
        )  # fmt: skip
        return ticking.clock.run()

    def close(self) -> None:
        """Nothing is kept between runs."""


class Continuous:
    """transformers' continuous batching, one request per path.

    It takes a flash attention where one is installed, which it needs to be fast, and the model's own otherwise.
    """

    name = "continuous"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        flash = subject.device.type == "cuda" and (is_flash_attn_3_available() or is_flash_attn_2_available())
        self.about = "FlashAttention" if flash else subject.lm.model.config._attn_implementation

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        from transformers import ContinuousBatchingConfig

        check_memory(self.subject, traces, steps)
        self.inputs = [list(trace.prompt) for trace in traces for _ in range(trace.paths)]
        longest = max(map(len, self.inputs))
        rows = len(self.inputs)
        self.lag = -(-sum(map(len, self.inputs)) // CHUNK) + 2  # steps until the last prompt has been read
        pages = -(-(longest + steps + self.lag) // PAGE) + 1
        known = ContinuousBatchingConfig.__dataclass_fields__
        options = {"page_size" if "page_size" in known else "block_size": PAGE}  # the name until transformers 5.17
        options |= {"seed": 0} if "seed" in known else {}
        self.config = ContinuousBatchingConfig(
            num_blocks=rows * pages + 8, max_batch_tokens=max(CHUNK, 2 * rows), **options
        )

    @silent()
    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        done = self.subject.lm.model.generate_batch(
            self.inputs, continuous_batching_config=self.config, record_timestamps=True, progress_bar=False,
            persistent_manager=True,  # its CUDA graphs are kept from run to run
            generation_config=GenerationConfig(
                # not sampled, which is cheaper: FlashAttention leaves what it likes in rows of padding, and
                # torch.multinomial ends the process where it finds that these are not numbers
                do_sample=False, max_new_tokens=steps + self.lag,
                pad_token_id=self.subject.lm.pad, eos_token_id=-1,
            ),
        )  # fmt: skip
        outputs = list(done.values())
        wanted = len(self.inputs)
        if len(outputs) < wanted or any(output.error for output in outputs):
            first = next((output.error for output in outputs if output.error), "no reason given")
            raise Skipped(f"{wanted - len(outputs)} of {wanted} requests are missing: {first}")
        times = [output.timestamps for output in outputs if output.timestamps]
        first, last = max(t[0] for t in times), min(t[-1] for t in times)  # all decode between these
        inside = [t for t in max(times, key=len) if first <= t <= last]
        if len(inside) < 2:
            raise Skipped("its requests never all decoded at once")
        return Run([after - before for before, after in pairwise(inside)][:steps])

    def close(self) -> None:
        self.subject.lm.model.destroy_cached_continuous_batching_manager()
