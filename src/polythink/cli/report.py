"""`polythink report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]) -> None:
    """Write the report of a run: learning curves, results, traces.

    RUN/report.html is one self-contained page. The run may still be going on.

    Example: polythink report runs/smoke
    """
    from polythink.report.report import write_report

    print(write_report(run))
