"""A tiny model that has a dialect's grammar by heart: random weights, and what may follow a token as a bigram.

Each token has a place of its own in the residual stream, from which the output layer reads what follows it. The rest is
random, so attention still matters and a wrong mask shows. Plans, blocks and blocks in blocks are drawn often enough.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel

WORDS = ("a", "b", "c", *(f"{i}:" for i in range(1, 17)))
Table = Callable[[LanguageModel, int], Tensor]  # the model, V -> (V, V) logits of the next token after each


def scribe(dialect: str, seed: int = 0, opens: float = 0.5, table: Table | None = None, **shape) -> LanguageModel:
    """`opens`: how much a word leans towards the tag that opens a block; `table`: instead of `follows`."""
    config = {"num_hidden_layers": 2, "hidden_size": 96, "tie_word_embeddings": False, **shape}
    lm = from_config(ModelConfig(**config), dialect, WORDS, seed=seed)
    size, vocabulary = lm.model.config.hidden_size, len(lm.tokenizer)
    assert vocabulary <= size
    table = follows(lm, vocabulary, opens) if table is None else table(lm, vocabulary)
    with torch.no_grad():
        embedding, head = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
        for weight in lm.model.parameters():  # sharp attention
            if weight.ndim > 1 and weight is not embedding and weight is not head:
                weight.mul_(3)
        embedding.mul_(10)
        embedding[:vocabulary, :vocabulary] += 8 * torch.eye(vocabulary, device=embedding.device)
        scale = 1.5 * (64 / size + 0.04) ** 0.5 / 8  # undoes the last norm, and some more
        head.mul_(4)
        head[:vocabulary, :vocabulary] += scale * table.T.to(head.device)
        head[vocabulary:] = 0
    return lm


def follows(lm: LanguageModel, vocabulary: int, opens: float) -> Tensor:
    """(V, V) logits of the next token after each."""
    d, id = lm.dialect, lm.tag_ids
    table = torch.full((vocabulary, vocabulary), -4.0)
    words = [lm.encode(word)[0] for word in WORDS]
    table[:, words[:3]] = 1.0
    table[:, lm.eos] = -1.0
    table[:, [lm.tokenizer.unk_token_id, lm.tokenizer.pad_token_id]] = -9.0
    inner = [d.path_tags(n)[1] for n in range(bool(d.inventory), 4 if d.inventory else 1)]
    inner += [d.summary.close] if d.summary else []
    inner += [d.plan.item[1]] if d.plan else []
    for word in words:
        table[word, [id[tag] for tag in inner]] = 0.0
    path = [id[d.path_tags(n)[0]] for n in range(bool(d.inventory), 4 if d.inventory else 1)]
    first = id[d.opening.text] if d.opening else id[d.plan.open] if d.plan else path[0]
    table[words, first] = opens
    if d.plan:
        item = [id[tag] for tag in d.plan.item]
        if d.opening:
            table[first, id[d.plan.open]] = 6.0
        table[id[d.plan.open], item[0]] = 5.0
        table[item[1], [item[0], id[d.plan.close]]] = 5.5
        table[item[0], words[3:6]] = 2.0
        table[words[3:6], item[1]] = 3.0
        table[id[d.plan.close], path] = 5.0
    elif d.opening:
        table[first, path] = 6.0
    after = [tag.text for tag in d.joining] + ([d.summary.open] if d.summary else [])
    for n in range(bool(d.inventory), 4 if d.inventory else 1):
        table[id[d.path_tags(n)[1]], [*path, id[after[0]]]] = 3.0
    for one, two in pairwise(after):
        table[id[one], id[two]] = 7.0
    for tag in d.closing:
        table[id[d.summary.close], id[tag.text]] = 4.0
    return table
