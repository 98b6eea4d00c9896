"""Random requests for the engine: any dialect, mode, prompt, budgets, widths, numbers, prefixes and temperatures."""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from pydantic import ValidationError

from helpers.scribe import scribe
from polythink.engine.params import Request, SamplingParams
from polythink.engine.width import ForkState
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import thoughts_of
from polythink.trace.dialect import DIALECTS, get_dialect
from polythink.trace.modes import MODES

MODELS = (*DIALECTS, "thoughts", "short")


@lru_cache
def model_of(name: str) -> LanguageModel:
    """A tiny model of a dialect; "thoughts": ParaThinker with its embeddings; "short": few positions."""
    if name == "thoughts":
        lm = scribe("parathinker", opens=1.5, num_hidden_layers=1, thought_embeddings=True)
        table = thoughts_of(lm.model).table
        table.data.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
        return lm
    if name == "short":
        return scribe("parallel_r1", opens=1.5, num_hidden_layers=1, max_position_embeddings=32)
    return scribe(name, opens=1.5, num_hidden_layers=1)


def one_more(state: ForkState) -> int:
    """A width policy that forks path after path while they end in a tag of even number."""
    return len(state.drawn) + 1 if not state.drawn or len(state.drawn[-1]) % 2 else len(state.drawn)


def hundred(state: ForkState) -> int:
    """A width policy that asks for more paths than any block may have."""
    return 100


def random_params(rng: random.Random, dialect: str) -> SamplingParams:
    d = get_dialect(dialect)
    exact = [name for name, mode in MODES.items() if mode.exact]
    while True:
        mode = rng.choice((*exact, *exact, *MODES))
        changes = {
            "mode": mode,
            "paths": rng.choice((1, 2, 2, 3, 4, 8)),
            "max_paths": rng.choice((2, 3, 8)),
            "width": rng.choice(("fixed", "fixed", "fixed", "agreement", one_more, hundred)),
            "max_blocks": rng.choice((1, 1, 2, 3)),
            "max_depth": rng.choice((1, 2, 3, 3)) if d.nests else 1,
            "max_main_tokens": rng.randint(1, 10),
            "max_path_tokens": rng.randint(1, 8),
            "max_summary_tokens": rng.randint(1, 6),
            "max_trace_tokens": rng.choice((25, 50, 90)),
            "fork_at": rng.choice((None, None, 0, 2)),
            "join_when": rng.choice(("all", "all", "first", "half")),
            "labels": rng.choice(("ordered", "random")),
            "path_position_stride": 0 if d.paths.heading else rng.choice((0, 0, "auto", 20)),
            "length_scaling_above": rng.choice((None, 1, 0)),
            "summary_prefix": rng.choice(("", "", "a b")) if d.summary else "",
            "temperature": rng.choice((1.0, 1.0, 0.7, 0.0)),
            "path_temperature": rng.choice((None, None, 1.3)),
            "top_p": rng.choice((1.0, 1.0, 0.8)),
            "top_k": rng.choice((0, 0, 5)),
        }
        try:
            return SamplingParams(**changes)
        except ValidationError:  # such as a join before all have ended, of paths that hold blocks
            continue


def random_requests(rng: random.Random, model: str, n: int) -> tuple[list[Request], list[SamplingParams]]:
    """Each with its own parameters, on the same model."""
    lm, wanted, each = model_of(model), [], []
    words = lm.encode("a b c")
    for i in range(n):
        params, prefixes = random_params(rng, lm.settings.dialect), ()
        if params.rules.isolated and params.max_path_tokens > 3 and params.max_trace_tokens > 50 and rng.random() < 0.3:
            prefixes = tuple(
                tuple(rng.choices(words, k=rng.randint(0, 2))) for _ in range(rng.randint(1, params.paths))
            )
        prompt = tuple(rng.choices(words, k=rng.choice((1, 1, 2, 3, 5, 9, 14))))
        wanted.append(Request(prompt, f"p{i}", rng.randrange(4), path_prefixes=prefixes))
        each.append(params)
    return wanted, each
