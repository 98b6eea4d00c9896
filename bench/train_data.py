"""The traces and rollouts of `train_gpu.py`: random tokens in structured traces of given sizes."""

from __future__ import annotations

import numpy as np

from polythink.models.batch import masks
from polythink.models.lm import LanguageModel
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.train.grpo_step import TrainItem


def trace(rng: np.random.Generator, words: int, prompt: int, main: int, blocks: int, paths: int, path: int,
          summary: int) -> Layout:  # fmt: skip
    """A structured trace: a prompt, then text and blocks of paths and their summaries in turn."""

    def piece(kind: str, count: int, block: int = -1, number: int = 0) -> Piece:
        drawn = rng.integers(words, size=count).tolist()
        return Piece(kind, tuple(drawn), (kind != "prompt",) * count, block, number)

    pieces = [piece("prompt", prompt)]
    for block in range(blocks):
        pieces.append(piece("main", main))
        pieces += [piece("path", path, block, number) for number in range(1, paths + 1)]
        pieces.append(piece("summary", summary, block))
    return lay_out(pieces, "structured")


def sft_traces(lm: LanguageModel, tiny: bool) -> list[Layout]:
    """4 traces of 2,048 tokens: 256 of the prompt, two blocks of 4 paths."""
    rng = np.random.default_rng(0)
    sizes = (16, 8, 2, 4, 10, 8) if tiny else (256, 32, 2, 4, 200, 64)
    return [trace(rng, lm.model.config.vocab_size, *sizes) for _ in range(4)]


def long_trace(lm: LanguageModel, tiny: bool) -> list[Layout]:
    """One trace of 16,384 tokens: a prompt of 512, four blocks of 4 paths."""
    sizes = (16, 8, 4, 4, 10, 8) if tiny else (512, 128, 4, 4, 928, 128)
    return [trace(np.random.default_rng(1), lm.model.config.vocab_size, *sizes)]


def rollouts(lm: LanguageModel, tiny: bool) -> list[list[TrainItem]]:
    """8 groups of 8 samples of 2 paths, 9,728 tokens together; log-probabilities near those of a random model."""
    rng = np.random.default_rng(2)
    sizes = (8, 1, 1, 2, 6, 4) if tiny else (48, 7, 1, 2, 32, 33)

    def item(number: int) -> TrainItem:
        layout = trace(rng, lm.model.config.vocab_size, *sizes)
        drawn = np.full(len(layout), -np.log(lm.model.config.vocab_size), np.float32)
        return TrainItem(layout, drawn, drawn, np.ones(len(layout), np.float32), 1.0 if number % 2 else -1.0)

    return [[item(number) for number in range(8)] for _ in range(8)]


def seen_share(layouts: list[Layout]) -> float:
    """The share of the cells of the masks that are seen."""
    cells = [masks(x.segment[None], x.sees[None]).mean() for x in layouts]
    return float(np.mean(cells))
