"""The figure of attention heads, from a file and without torch."""

from __future__ import annotations

import math

import numpy as np

from polythink.evaluate.head_file import HeadAnalysis, Heads, save
from polythink.report.heads import heads_section, others


def analysis(heads: int) -> HeadAnalysis:
    alike, even = np.full((heads, heads), 0.5), np.full(heads, 0.25)
    attentions = [Heads(place, layer, alike, alike, even) for place in ("encoder", "decoder") for layer in (0, 1)]
    return HeadAnalysis(tuple(attentions), 2)


def test_a_report_shows_the_measures_of_every_place_in_one_figure(tmp_path) -> None:
    save(analysis(4), tmp_path / "heads.npz")
    section = heads_section(tmp_path / "heads.npz", "Heads, final")
    assert "Heads, final" in section
    assert "From 2 texts" in section
    assert section.count("<svg") == 1
    assert heads_section(tmp_path / "none.npz", "Heads") == ""


def test_one_head_has_no_other_to_be_like(tmp_path) -> None:
    assert math.isnan(others(np.ones((1, 1))))
    save(analysis(1), tmp_path / "heads.npz")
    assert heads_section(tmp_path / "heads.npz", "Heads").count("<svg") == 1
