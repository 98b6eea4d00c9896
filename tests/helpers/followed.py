"""Traces drawn with an engine and followed as the service follows them: all their updates, stops and aborts too."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from helpers.random_cases import model_of, random_requests
from helpers.tiny import lean_towards
from polythink.engine.engine import Engine
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel, with_settings
from polythink.serve.detokenise import Decoding
from polythink.serve.following import Follower
from polythink.serve.generation import Update, Wanted


def byte_thinker() -> LanguageModel:
    """It writes bytes, which make characters now and then, tags, and ends."""
    lm = from_config(ModelConfig(tokenizer="bytes", num_hidden_layers=1), "parallel_r1", seed=1)
    bias = torch.zeros(lm.model.config.vocab_size)
    bias[lm.eos] = 2.0
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias.to(out.device))
    return lean_towards(lm, {"</Path>": 2.0, "</Summary>": 2.0, "<Parallel>": 2.0, "<Path>": 1.0})


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A: {% if loop.last or m.content == 'keep' %}"
    "[{{ m.reasoning_content }}]{% endif %}{{ m.content }}<|end|>{% else %}{{ m.role }}: {{ m.content }}\n"
    "{% endif %}{% endfor %}A: "
)
DECODING = {"max_main_tokens": 12, "max_path_tokens": 10, "max_summary_tokens": 5, "max_trace_tokens": 120}


def thinker() -> LanguageModel:
    """The same with a chat template, small budgets and a width of its own for one effort."""
    lm = byte_thinker()
    lm.tokenizer.chat_template = TEMPLATE
    return with_settings(lm, decoding=DECODING, chat=True, efforts={"medium": 5})


def followed(
    engine: Engine, wanted: Sequence[Wanted], abort_at: Sequence[int] | None = None
) -> list[tuple[Wanted, list[Update]]]:
    """The updates of each trace; one that cannot be drawn is left out. `abort_at`: updates after which it is aborted,
    0: never."""
    decoding, open_, found = Decoding(engine.lm.codec), {}, []
    for index, each in enumerate(wanted):
        try:
            state = engine.prepare(each.request, each.params, each.seed, stream=True)
        except UserError:
            continue
        updates: list[Update] = []
        found.append((each, updates))
        open_[engine.enqueue(state)] = (
            Follower(index, each, state, decoding),
            updates,
            (abort_at or {index: 0})[index],
        )
    while open_:
        events = engine.step()
        for id, (follower, updates, most) in list(open_.items()):
            updates += follower.read([event for event in events if event.request == id])
            done = bool(updates) and updates[-1].event.kind == "done"
            if not done and (follower.stopped or 0 < most <= len(updates)):
                updates += follower.read(engine.stop(id, "stop" if follower.stopped else "abort"))
                done = True
            if done:
                del open_[id]
    return found


STOPS = (("b",), ("b",), (">b",), ("/", ">\n"), (">a b", "l>"))  # some begin or lie within a tag


def random_traces(rng: random.Random, model: str, n: int) -> list[tuple[Wanted, list[Update]]]:
    """Random requests, some of which are stopped by a text or aborted."""
    requests, params = random_requests(rng, model, n)
    stops = [rng.choice(STOPS) if rng.random() < 0.2 else () for _ in requests]
    each = [
        Wanted(*one[:2], rng.randrange(99), one[2], stop_between_tags=i % 2 == 1)
        for i, one in enumerate(zip(requests, params, stops, strict=True))
    ]
    return followed(Engine(model_of(model)), each, [rng.choice((0, 0, 0, 0, 3, 8, 20)) for _ in requests])
