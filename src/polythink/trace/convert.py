"""Convert a trace to another dialect: the tree stays, paths get numbers or lose them.

The answer is not moved here: `problems.answers.with_boxed_answer` writes it where the target dialect looks for it.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from polythink.errors import UserError
from polythink.trace.dialect import Dialect
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Trace


class ConversionError(UserError):
    """Raised when a trace cannot be written in the target dialect; `reason` is a short stable key to count by."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def convert(trace: Trace, dialect: Dialect, rng: Random | None = None) -> Trace:
    """The trace for `dialect`, which may number its paths: 1..P, or with `rng` by numbers drawn from the inventory.

    `ConversionError` if the trace cannot be written in that dialect.
    """
    return Trace(tuple(_block(p, dialect, rng) if isinstance(p, Block) else _text(p, dialect) for p in trace.parts))


def _text(text: str, dialect: Dialect) -> str:
    if tag := next((token.text for token in scan(text, dialect) if token.kind not in ("text", "end")), None):
        sentence = f"the text {tag} cannot be written in dialect {dialect.name}: it is a tag there"
        raise ConversionError(sentence, "tag_in_text")
    return text


def _block(block: Block, dialect: Dialect, rng: Random | None) -> Block:
    paths, name = len(block.paths), dialect.name
    if paths < dialect.min_paths:
        sentence = f"a block of {paths} paths cannot be written in dialect {name}, whose blocks have at least "
        raise ConversionError(f"{sentence}{dialect.min_paths}", "too_few_paths")
    if not dialect.nests and any(inner.blocks for inner in (*block.paths, block.summary)):
        sentence = f"a block inside a block cannot be written in dialect {name}, where blocks do not nest"
        raise ConversionError(sentence, "nested")
    if dialect.inventory and paths > dialect.inventory:
        sentence = f"a block of {paths} paths cannot be written in dialect {name}: it has {dialect.inventory} numbers"
        raise ConversionError(sentence, "too_many_paths")
    labels = dialect.draw_labels(paths, rng)
    inside = tuple(convert(path, dialect, rng) for path in block.paths)
    return replace(block, paths=inside, summary=convert(block.summary, dialect, rng), labels=labels)
