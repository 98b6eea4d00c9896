"""Figures of how alike the attention heads are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from polythink.report.plots import COLOURS, GRID, INK, SOFT, svg_figure

if TYPE_CHECKING:  # torch
    from polythink.evaluate.heads import HeadAnalysis, Heads

MOST_TOKENS = 48  # of the maps that are drawn


def figures(analysis: HeadAnalysis) -> list[tuple[str, str]]:
    """(title, SVG element): the measures by layer, then for each place its similarities and its maps."""
    from polythink.evaluate.heads import PLACES

    drawn = [("Heads by layer", _by_layer(analysis))]
    for place in analysis.places:
        where, layers = PLACES[place], analysis.at(place)
        drawn.append((f"Which heads are alike: {where}", _matrices(f"Which heads are alike: {where}", layers)))
        shape = layers[0].maps.shape[1:]
        cut = f", first {MOST_TOKENS} tokens" if max(shape) > MOST_TOKENS else ""
        title = f"Attention maps of the first text: {where}{cut}"
        drawn.append((title, _maps(title, layers)))
    return drawn


def others(matrix: np.ndarray) -> float:
    """The mean of a matrix (H, H) off its diagonal; nan for one head."""
    off = ~np.eye(len(matrix), dtype=bool)
    return float(matrix[off].mean()) if off.any() else math.nan


def _by_layer(analysis: HeadAnalysis) -> str:
    from polythink.evaluate.heads import PLACES

    panels = {
        "Similarity of maps": lambda heads: others(heads.similarity),
        "Similarity of outputs (cosine)": lambda heads: others(heads.outputs),
        "Entropy, as a share of the most": lambda heads: float(heads.entropy.mean()),
    }

    def draw(figure: Any) -> None:
        for column, (title, measure) in enumerate(panels.items()):
            axes = figure.add_axes((0.045 + 0.333 * column, 0.2, 0.275, 0.62))
            axes.set_title(title, loc="left", x=-0.1, fontsize=9, color=INK, fontweight="bold")
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(SOFT)
            axes.tick_params(colors=SOFT, length=0, labelsize=7.5)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_xlabel("layer", color=SOFT, fontsize=7.5)
            for colour, place in zip(COLOURS, analysis.places, strict=False):
                layers = analysis.at(place)
                values = [measure(heads) for heads in layers]
                numbers = range(1, len(layers) + 1)
                axes.plot(numbers, values, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=PLACES[place])
                if title.startswith("Entropy"):  # every head by itself
                    spread = [(n, e) for n, heads in zip(numbers, layers, strict=True) for e in heads.entropy]
                    axes.scatter(*zip(*spread, strict=True), s=5, color=colour, alpha=0.35, linewidths=0)
            axes.set_xticks(range(1, 1 + max(len(analysis.at(place)) for place in analysis.places)))
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, -0.02) if "cosine" in title else -0.03, max(1.03, high))
            if not column and len(analysis.places) > 1:
                axes.legend(frameon=False, fontsize=7, loc="best", handlelength=1.2)

    return _sized(svg_figure("Heads by layer", (10.5, 2.2), draw), 10.5)


def _matrices(title: str, layers: list[Heads]) -> str:
    """Two rows of (H, H) squares, a column a layer: maps, outputs."""
    side = min(1.25, 9.6 / len(layers))
    width, height = 0.75 + side * len(layers), 0.3 + 2 * side

    def draw(figure: Any) -> None:
        for row, (name, colours, low) in enumerate((("similarity", "Blues", 0), ("outputs", "RdBu", -1))):
            for column, heads in enumerate(layers):
                left, bottom = 0.7 + side * column, side * (1 - row)
                axes = figure.add_axes((left / width, bottom / height, 0.92 * side / width, 0.92 * side / height))
                axes.imshow(getattr(heads, name), cmap=colours, vmin=low, vmax=1, interpolation="none")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_color(GRID)
                if row == 0:
                    axes.set_title(f"layer {heads.layer + 1}", fontsize=7.5, color=SOFT, pad=3)
                if column == 0:
                    label = {"similarity": "maps\n0 to 1", "outputs": "outputs\n−1 to 1"}[name]
                    axes.set_ylabel(label, fontsize=7.5, color=SOFT, rotation=0, ha="right", va="center")

    return _sized(svg_figure(title, (width, height), draw), width)


def _maps(title: str, layers: list[Heads]) -> str:
    """Every head's map in one picture, a row a layer: darker is more, by the square root of the weight."""
    count = len(layers[0].maps)
    tiles = [[tile[:MOST_TOKENS, :MOST_TOKENS] for tile in heads.maps] for heads in layers]
    queries, keys = tiles[0][0].shape
    gap = max(1, round(0.06 * max(queries, keys)))
    picture = np.full((len(layers) * (queries + gap), count * (keys + gap)), np.nan)
    for row, line in enumerate(tiles):
        for column, tile in enumerate(line):
            top, left = row * (queries + gap), column * (keys + gap)
            picture[top : top + queries, left : left + keys] = np.sqrt(tile)
    across = min(1.2, 9.9 / count) * count
    down = across * picture.shape[0] / picture.shape[1]
    width, height = across + 0.6, down + 0.3

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.6 / width, 0, across / width, down / height))
        axes.imshow(picture, cmap="Blues", vmin=0, vmax=1, interpolation="none", aspect="auto")
        axes.set_facecolor("none")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=7, colors=SOFT, top=True, labeltop=True, bottom=False, labelbottom=False)
        middles = [column * (keys + gap) + keys / 2 - 0.5 for column in range(count)]
        axes.set_xticks(middles, [f"head {i + 1}" if count <= 12 else str(i + 1) for i in range(count)])
        middles = [row * (queries + gap) + queries / 2 - 0.5 for row in range(len(layers))]
        axes.set_yticks(middles, [f"layer {heads.layer + 1}" for heads in layers])

    return _sized(svg_figure(title, (width, height), draw), width)


def _sized(svg: str, inches: float) -> str:
    """As wide as drawn (96 pixels an inch), or as the page where that is less."""
    return svg.replace("<svg", f'<svg style="width:min(100%,{96 * inches:.0f}px);height:auto"', 1)
