"""Fork/join decoding of many traces at once on an unmodified transformers model.

One step is one ragged list of feeds over all open branches of all rows: a prompt chunk, a fork, a forced tag, a plain
decoding step are all just that. Finished rows are refilled at once. `reference.py` is the slow twin.

Left out: prompt keys shared between the samples of one problem, speculative decoding, paged kernels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.params import OnEvent, Request, SamplingParams
from polythink.engine.sampling import draw, uniforms
from polythink.engine.selfcheck import choose_backend
from polythink.engine.tag_ids import TagIds
from polythink.engine.trace_state import TokenInput, TraceState
from polythink.errors import UserError
from polythink.models.lm import LanguageModel
from polythink.models.tags import tag_ids
from polythink.models.thoughts import attach
from polythink.run.progress import Progress
from polythink.trace.dialect import Dialect, get_dialect
from polythink.trace.rollout import Rollout


class Engine:
    """Draws traces from a language model whose weights it shares with whoever else uses them.

    `max_num_seqs` traces are drawn at once; prompts are run in chunks of `prefill_chunk` tokens. `backend` is "flat" (the model runs on
    one row of all feeds), "padded" (a (rows, branches) batch through the model's own attention: slower, the fallback
    for models whose attention takes extras), or "auto": the first of them that passes the self-check. A model that
    passes with neither is refused with a `UserError`.
    """

    def __init__(
        self, lm: LanguageModel, max_num_seqs: int = 64, backend: str = "auto", prefill_chunk: int = 512
    ) -> None:
        if max_num_seqs < 1 or prefill_chunk < 1:
            raise UserError(
                f"the engine needs at least one row and one token a chunk; given max_num_seqs={max_num_seqs}, prefill_chunk={prefill_chunk}"
            )
        self.lm, self.max_num_seqs, self.prefill_chunk = lm, max_num_seqs, prefill_chunk
        self.backend: TransformersBackend = choose_backend(lm, backend)
        self.forwarded = 0  # tokens run through the model since this engine was made

    @property
    def dialect(self) -> Dialect:
        return self.lm.dialect

    @property
    def context(self) -> int:
        return self.lm.context

    def encode_prompt(self, text: str) -> list[int]:
        return self.lm.encode_prompt(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.lm.decode(ids)

    def generate(
        self,
        requests: Sequence[Request],
        decoding: SamplingParams,
        seed: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
    ) -> list[Rollout]:
        """One finished rollout a request, in their order. `label` names the progress display."""
        names = {request.dialect for request in requests}
        grammars = {name: self._grammar(name, decoding.summary_prefix) for name in names}
        trained = self.trained_paths(decoding)
        drawings = [
            TraceState(request, i, decoding, grammars[request.dialect], seed, self.lm.context, on_event, trained)
            for i, request in enumerate(requests)
        ]
        most = max((len(d.request.prompt) + d.most_tokens for d in drawings), default=1)
        with (
            self.backend.session(min(self.max_num_seqs, len(drawings)), most),
            Progress(len(drawings), label) as progress,
        ):
            for drawing in self._run(drawings, decoding):
                for record in drawing.records[1:]:
                    record.text = self.lm.decode(record.tokens)
                progress.advance(1)
        return [drawing.rollout() for drawing in drawings]

    def trained_paths(self, decoding: SamplingParams) -> int:
        """Beyond how many paths attention is scaled behind a join, 0: never.

        `UserError` where that is to be done and the model cannot: here, and not in the middle of drawing.
        """
        trained = (
            self.lm.settings.trained_paths if decoding.length_scaling_above is None else decoding.length_scaling_above
        )
        if decoding.mode == "structured" and 0 < trained < decoding.paths:
            try:
                with self.backend.lock:
                    attach(self.lm.model, None)
            except UserError as error:
                raise UserError(
                    f"{error}; or set length_scaling_above: 0, and the join of {decoding.paths} paths, more than {trained}, is "
                    "not scaled"
                ) from error
        return trained

    def _grammar(self, name: str, opening: str) -> TagIds:
        lm, dialect = self.lm, get_dialect(name) if name else self.lm.dialect
        ids = lm.tag_ids if dialect == lm.dialect else tag_ids(lm.tokenizer, dialect)
        return TagIds.of(dialect, ids, lm.eos, lm.encode, opening)

    def _run(self, drawings: list[TraceState], decoding: SamplingParams) -> Iterator[TraceState]:
        """Step all live rows together until every drawing is done; yields each when it is, and refills its row."""
        waiting = deque(drawings)
        free = deque(range(min(self.max_num_seqs, len(drawings))))
        live: dict[int, TraceState] = {}
        while waiting or live:
            while free and waiting:
                live[free.popleft()] = waiting.popleft()
            feeds: list[TokenInput] = []
            rows: list[int] = []
            for row, drawing in sorted(live.items()):
                while drawing.opened:
                    segment = drawing.opened.popleft()
                    self.backend.open_segment(row, segment, drawing.follows[segment])
                taken = drawing.take(self.prefill_chunk)
                feeds += taken
                rows += [row] * len(taken)
            self._step(feeds, rows, live, decoding)
            for drawing in live.values():
                drawing.join_if_ready()
            for row in [row for row, drawing in live.items() if drawing.done]:
                free.append(row)
                yield live.pop(row)

    def _step(
        self, feeds: list[TokenInput], rows: list[int], live: dict[int, TraceState], decoding: SamplingParams
    ) -> None:
        """Run the feeds, draw the wanted tokens, hand them to their branches."""
        self.forwarded += len(feeds)
        wanted = [i for i, feed in enumerate(feeds) if feed.branch is not None]
        logits = self.backend.run(feeds, rows, wanted)
        if not wanted:
            return
        branches = [feeds[i].branch for i in wanted]
        uniform = uniforms(
            np.array([b.key for b in branches], np.uint64), np.array([b.drawn for b in branches], np.uint64)
        )
        tokens, logprobs = draw(
            logits,
            torch.tensor([b.temperature for b in branches], device=logits.device),
            torch.from_numpy(uniform).to(logits.device),
            decoding.top_p,
            decoding.top_k,
        )
        for i, branch, token, logprob in zip(wanted, branches, tokens.tolist(), logprobs.tolist(), strict=True):
            live[rows[i]].on_token(branch, token, logprob)
