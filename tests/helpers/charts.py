"""Charts in words instead of drawn ones: drawing them takes half of the time of a tiny run.

The tests of the report draw (tests/report), and so does a file that says `DRAWN = True`, such as the one that runs the
whole smoke recipe. All others have the sketches by the fixture `sketched`, also in processes that they fork.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

import pytest

from polythink.report import findings, plots
from polythink.report.plots import Line, Panel


def sketch(lines: Sequence[Line], panel: Panel, shaded: Sequence[tuple[float, float]] = ()) -> str:
    """The words of a chart; what could not be drawn fails here too."""
    for line in lines:
        assert len(line.steps) == len(line.values), line
        assert not line.low or len(line.low) == len(line.high) == len(line.values), line
        assert not any(map(math.isinf, line.values)), line
    words = (panel.title, panel.along, *(line.label for line in lines))
    texts = "".join(f"<text>{escape(word)}</text>" for word in words)
    return f'<svg role="img" aria-label="{escape(panel.title)}">{texts}</svg>'


@pytest.fixture(autouse=True, scope="module")
def sketched(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            for module in (plots, findings):
                patch.setattr(module, "chart", sketch)
        yield
