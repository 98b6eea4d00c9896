"""A trace of one dialect as a trace of another: the tree stays, paths get numbers or lose them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from polythink.run.errors import UserError
from polythink.trace.dialect import Dialect
from polythink.trace.tree import Block, Trace


def convert(trace: Trace, dialect: Dialect, rng: Random | None = None) -> Trace:
    """The trace with its paths numbered 1..P, or with numbers that `rng` draws from the inventory, or without.

    `UserError` for a trace that the dialect has no words for.
    """
    return Trace(tuple(_block(p, dialect, rng) if isinstance(p, Block) else p for p in trace.parts))


def _block(block: Block, dialect: Dialect, rng: Random | None) -> Block:
    paths = len(block.paths)
    if paths < dialect.min_paths:
        raise UserError(f"a block of {paths} paths cannot be written in dialect {dialect.name}: it has at least "
                        f"{dialect.min_paths}")  # fmt: skip
    if not dialect.nests and any(inner.blocks for inner in (*block.paths, block.summary)):
        raise UserError(f"a block inside a block cannot be written in dialect {dialect.name}: there blocks stand in no "
                        "other block")  # fmt: skip
    inside = tuple(convert(path, dialect, rng) for path in block.paths)
    labels = draw_labels(dialect.inventory, paths, rng)
    return replace(block, paths=inside, summary=convert(block.summary, dialect, rng), labels=labels)


def draw_labels(inventory: int, paths: int, rng: Random | None) -> tuple[int, ...]:
    """The numbers of a block's paths: 1..P, or any P of the `inventory`, or none where there is none."""
    if not inventory:
        return ()
    if paths > inventory:
        raise UserError(
            f"{paths} paths are more than the {inventory} numbers of the dialect's inventory; take fewer, or train "
            f"with a larger inventory (dialect: parathinker:{paths})"
        )
    return tuple(rng.sample(range(1, inventory + 1), paths) if rng else range(1, paths + 1))
