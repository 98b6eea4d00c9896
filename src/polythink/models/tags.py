"""A dialect's tags as single tokens: checked for every model, added on request."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from polythink.errors import UserError
from polythink.trace.dialect import Dialect


def tag_ids(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, needed: bool = True) -> dict[str, int]:
    """The id of each tag, all of them different. `UserError` unless every tag is exactly one token.

    Where they are not `needed`, a tag that is no single token has a negative number, which is no token's.
    """
    missing = missing_tags(tokenizer, dialect)
    if missing and needed:
        raise UserError(lacking(missing, dialect))
    ids = {tag: -1 - i if tag in missing else _pieces(tokenizer, tag)[0] for i, tag in enumerate(dialect.tags)}
    assert len(set(ids.values())) == len(ids)
    return ids


def lacking(missing: Iterable[str], dialect: Dialect) -> str:
    """What is said of tags that are no tokens."""
    return (
        f"the tokenizer does not hold {', '.join(missing)} as single tokens (dialect {dialect.name!r}); "
        "set model.add_tags: true to add them with embedding rows of their own"
    )


def missing_tags(tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> list[str]:
    """The tags that the tokenizer splits into several tokens or does not know."""
    pieces = {tag: _pieces(tokenizer, tag) for tag in dialect.tags}
    return [tag for tag, ids in pieces.items() if len(ids) != 1 or ids[0] == tokenizer.unk_token_id]


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def add_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> list[str]:
    """Add the missing tags to tokenizer and embeddings, in place; returns those that were added.

    A new row is the mean of the rows of the tag's words ("/" read as "end"; of its pieces, if it has no words) plus
    noise of a tenth of the rows' usual size, so that no two rows are equal: in released checkpoints all unused rows are
    one vector, and tags on such rows could not be told apart.
    """
    missing = missing_tags(tokenizer, dialect)
    if not missing:
        return []
    spoken = {tag: "end " * ("/" in tag) + " ".join(re.findall(r"\w+", tag)).lower() for tag in missing}
    words = {tag: _pieces(tokenizer, text) or _pieces(tokenizer, tag) for tag, text in spoken.items()}
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    scales = [0.1 * _spread(table) for table in tables]  # of the rows that there are: transformers draws new ones
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in missing])
    if len(tokenizer) > len(tables[0]):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # the rows are set below
        tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table, scale in {id(table): (table, scale) for table, scale in zip(tables, scales, strict=True)}.values():
            for tag in missing:
                noise = scale * torch.randn(table.shape[1], generator=generator)
                row = table[words[tag]].float().mean(0).cpu() + noise
                table[tokenizer.convert_tokens_to_ids(tag)] = row.to(table.dtype).to(table.device)
    return missing


def _spread(table: torch.Tensor, rows: int = 4096) -> float:
    """The standard deviation of a table's numbers, in float64 and in parts: without a copy of the table."""
    total = squares = 0.0
    for part in table.split(rows):
        part = part.double()
        total, squares = total + part.sum().item(), squares + part.square().sum().item()
    return ((squares - total**2 / table.numel()) / max(1, table.numel() - 1)) ** 0.5
