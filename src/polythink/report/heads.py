"""How alike the attention heads of a model are, as one figure of a report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from polythink.evaluate.head_file import PLACES, HeadAnalysis, load
from polythink.report.page import section, small
from polythink.report.plots import COLOURS, INK, style_axes, svg_figure

WIDTH, HEIGHT = 10.5, 2.2  # inches


def heads_section(path: Path, title: str) -> str:
    """The section on what `evaluate.head_file.save` wrote to this file; empty without it."""
    if not path.is_file():
        return ""
    analysis = load(path)
    hint = (
        f"From {analysis.texts} texts. Similarity of maps: 1 - Jensen-Shannon divergence in bits, 1 where two heads "
        "give every key the same weight, 0 where they have no key in common. Similarity of outputs: 1 where two heads "
        "add the same direction to the layer's output. Entropy: 1 for even weights, 0 for a single key; small dots are "
        "single heads."
    )
    return section(title, small(hint) + heads_figure(analysis))


def heads_figure(analysis: HeadAnalysis) -> str:
    """The three measures by layer, a line per place (encoder, decoder, cross), as an SVG element."""
    panels = {
        "Similarity of maps": lambda heads: others(heads.similarity),
        "Similarity of outputs (cosine)": lambda heads: others(heads.outputs),
        "Entropy, as a share of the maximum": lambda heads: float(heads.entropy.mean()),
    }

    def draw(figure: Any) -> None:
        for column, (title, measure) in enumerate(panels.items()):
            axes = figure.add_axes((0.045 + 0.333 * column, 0.2, 0.275, 0.62))
            style_axes(axes, title, "layer")
            for colour, place in zip(COLOURS, analysis.places, strict=False):
                layers = analysis.at(place)
                numbers = range(1, len(layers) + 1)
                values = [measure(heads) for heads in layers]
                axes.plot(numbers, values, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=PLACES[place])
                if title.startswith("Entropy"):  # every head by itself
                    spread = [(n, e) for n, heads in zip(numbers, layers, strict=True) for e in heads.entropy]
                    axes.scatter(*zip(*spread, strict=True), s=5, color=colour, alpha=0.35, linewidths=0)
            axes.set_xticks(range(1, 1 + max(len(analysis.at(place)) for place in analysis.places)))
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0) if "cosine" in title else 0, max(1, high) if "cosine" in title else 1)
            if not column and len(analysis.places) > 1:
                axes.legend(frameon=False, labelcolor=INK, fontsize=7, loc="best", handlelength=1.2)

    svg = svg_figure("Heads by layer", (WIDTH, HEIGHT), draw)
    return svg.replace("<svg", f'<svg style="width:min(100%,{96 * WIDTH:.0f}px);height:auto"', 1)


def others(matrix: np.ndarray) -> float:
    """The mean of a matrix (H, H) off its diagonal; nan for one head."""
    off = ~np.eye(len(matrix), dtype=bool)
    return float(matrix[off].mean()) if off.any() else math.nan
