"""Tiny random models for the engine's tests: few words, so that tags are drawn often."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.device import DEVICE, collate
from polythink.engine.params import Request
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel, ModelSettings
from polythink.models.logprobs import token_logprobs
from polythink.models.thoughts import thoughts_of
from polythink.models.tokenizers import word_tokenizer
from polythink.trace.dialect import PARALLEL_R1

WORDS = ("a", "b", "c")


def tiny(seed: int = 1, **shape) -> LanguageModel:
    return from_config(ModelConfig(**{"num_hidden_layers": 2, **shape}), "parallel_r1", WORDS, seed=seed)


def requests(lm: LanguageModel, n: int) -> list[Request]:
    """Prompts of one to twelve tokens, several samples of each: while a long one is read, other rows decode."""
    prompt = tuple(lm.encode("a b c c a b b a c b a c"))
    return [Request(prompt[: (1, 3, 12, 2, 5)[i % 5]], f"p{i // 4}", i % 4) for i in range(n)]


def drawn(rollout) -> list[tuple]:
    """What two rollouts must share to count as the same."""
    segments = [(s.kind, s.block, s.path, s.tokens, s.sampled, s.finish_reason) for s in rollout.segments]
    return [*segments, (rollout.stop,)]


def family(model_type: str, **changes) -> LanguageModel:
    """A tiny random model of another family under the same tokenizer."""
    tokenizer = word_tokenizer(WORDS, PARALLEL_R1)
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    config = AutoConfig.for_model(model_type, **{**shape, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=changes.pop("attn_implementation", None))
    with torch.no_grad():  # random models attend almost evenly: make attention matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return LanguageModel(model.eval().to(DEVICE), tokenizer, ModelSettings())


def lean_towards(lm: LanguageModel, weights: dict[str, float]) -> LanguageModel:
    """Add to the logits of some tags, for the engine and the masked forward alike."""
    bias = torch.zeros(lm.model.config.vocab_size, device=lm.device)
    for tag, weight in weights.items():
        bias[lm.tag_ids[tag]] = weight
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm


def thinker(seed: int = 1, dialect: str = "parathinker", **shape):
    """A tiny ParaThinker: random weights, random thought embeddings, tags sampled now and then."""
    lm = from_config(
        ModelConfig(**{"num_hidden_layers": 2, "thought_embeddings": True, **shape}), dialect, WORDS, seed=seed
    )
    if (thoughts := thoughts_of(lm.model)) is not None:
        drawn = torch.randn(thoughts.table.shape, generator=torch.Generator().manual_seed(0))  # on any device
        thoughts.table.data.copy_(drawn)
    # tags that belong nowhere are drawn often enough, and ends as well; most of the 34 are rare, for they end main text
    rare = {tag: -4.0 for tag in lm.dialect.tags}
    often = {"</summary>": -0.5, "</think1>": -0.5, "</think2>": 0.3, "<think3>": -1.0, "<summary>": -1.5}
    return lean_towards(lm, rare | often if lm.dialect.inventory else {})


def gaps(lm, rollouts) -> list[float]:
    """|log-probability while decoding - one masked forward over the finished trace|, of every sampled token."""
    found = []
    for rollout in rollouts:
        layout = rollout.layout()
        temperature = torch.ones(1, len(layout), device=DEVICE)
        start = len(rollout.prompt)
        for segment in rollout.segments:
            temperature[0, start : start + len(segment.tokens)] = segment.temperature
            start += len(segment.tokens)
        again = token_logprobs(lm.model, collate([layout]), temperature)[0, len(rollout.prompt) :]
        recorded = [x for s in rollout.segments for x in s.logprobs]
        sampled = layout.sampled[len(rollout.prompt) :]
        found += [abs(a - b) for a, b, drawn in zip(recorded, again.tolist(), sampled, strict=True) if drawn]
    return found
