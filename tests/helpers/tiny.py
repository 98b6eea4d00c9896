"""Tiny random models for the engine's tests: few words, so that tags are drawn often."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from polythink.engine.params import Request
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel, ModelSettings
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
    return [(s.kind, s.block, s.path, s.tokens, s.sampled, s.finish_reason) for s in rollout.segments]


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
    return LanguageModel(model.eval(), tokenizer, ModelSettings())


def lean_towards(lm: LanguageModel, weights: dict[str, float]) -> LanguageModel:
    """Add to the logits of some tags, for the engine and the masked forward alike."""
    bias = torch.zeros(lm.model.config.vocab_size)
    for tag, weight in weights.items():
        bias[lm.tag_ids[tag]] = weight
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out + bias)
    return lm
