"""The model that is timed: a random one of a named shape, which never samples a tag, or one from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from polythink.bench.floor import Shape, Sizes
from polythink.bench.shapes import CONTEXT, SHAPES
from polythink.errors import UserError, did_you_mean
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, load, pick_device, to_device

DIALECT = "parathinker"  # its runtime forks at the end of the prompt
CONSTANT = 8.0  # of one coordinate of the residual stream: makes logits of tags about 50 or more below the others


@dataclass(frozen=True)
class Subject:
    """A model and the ids of its ordinary tokens, of which prompts are made."""

    name: str
    lm: LanguageModel
    words: Sequence[int]

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def special(self) -> set[int]:
        return special_ids(self.lm)


def open_subject(name: str, device: str | None, dtype: str | None) -> Subject:
    """The model of a shape's name or a folder's; `UserError` for what is neither.

    A random model is made in float32 if no dtype is given, one of a folder as it was saved.
    """
    place = pick_device(device)
    if name in SHAPES:
        with place:  # billions of random numbers are slow on a CPU
            lm = make(name, dtype or "float32")
        to_device(lm, place)
    elif Path(name).expanduser().is_dir():
        lm = load(Path(name).expanduser(), device=str(place), dtype=dtype)
    else:
        raise UserError(f"no model {name!r}: neither a folder nor a shape{did_you_mean(name, SHAPES)}")
    special = special_ids(lm)
    size = lm.model.get_input_embeddings().weight.shape[0]
    return Subject(name, lm, [i for i in range(min(size, len(lm.tokenizer))) if i not in special])


def make(name: str, dtype: str, seed: int = 0) -> LanguageModel:
    """A random Qwen3 of a named shape that samples ordinary tokens only, so that budgets alone end its paths."""
    shape = dict(SHAPES[name])
    vocabulary = shape.pop("vocabulary")
    config = ModelConfig(**shape, dtype=dtype, max_position_embeddings=CONTEXT)
    tags = len(from_config(ModelConfig(**{**shape, "num_hidden_layers": 1}), DIALECT, ()).tokenizer)
    lm = from_config(config, DIALECT, [f"w{i}" for i in range(vocabulary - tags)], seed)
    _never_sample(lm)
    return lm


def special_ids(lm: LanguageModel) -> set[int]:
    unknown = lm.tokenizer.unk_token_id
    return {lm.pad, *lm.ends, *(id for id in lm.tag_ids.values() if id >= 0), *([] if unknown is None else [unknown])}


@torch.no_grad()
def _never_sample(lm: LanguageModel) -> None:
    """Make the special tokens' logits very low after every ordinary token, by the weights alone.

    No hook or logits processor, because every engine under test has its own way through the last layer. The first
    coordinate of the residual stream is +c for ordinary tokens and -c for special ones, no layer writes to it, and the
    embeddings are the output layer's rows: ordinary logits all rise by the same c^2, special ones fall by as much.
    After a special token it would be the other way round; so a forced ordinary token follows each forced tag.
    """
    embedding = lm.model.get_input_embeddings().weight
    assert embedding is lm.model.get_output_embeddings().weight, "tied embeddings are needed"
    embedding[:, 0] = CONSTANT
    embedding[sorted(special_ids(lm)), 0] = -CONSTANT
    for layer in lm.model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0


def shape_of(model: PreTrainedModel) -> Shape:
    """The numbers of a decoder of transformers or of the package, on any device."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()), table=0 if table is head else table.numel(),
        layers=config.num_hidden_layers, hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", 0), heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads, vocabulary=len(head),
    )  # fmt: skip


def sizes_of(lm: LanguageModel) -> Sizes:
    """What a step of the model reads and computes."""
    return shape_of(lm.model).sizes(lm.model.get_input_embeddings().weight.element_size())
