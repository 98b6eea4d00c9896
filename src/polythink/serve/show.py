"""A small server without a model, which shows the traces of finished runs: `polythink show`. Imports without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from polythink.errors import UserError
from polythink.serve import errors
from polythink.serve.config import ServeConfig
from polythink.serve.guard import Guard
from polythink.serve.page import HEADERS, page_router


def sample_files(given: Path) -> list[Path]:
    """The samples of a run folder or of a folder in it, those written last at the end; or the one file given."""
    given = given.resolve()
    if given.is_file():
        if given.suffix != ".jsonl":
            raise UserError(f"{given} is no .jsonl file; give a run folder, or a file with one JSON object a line")
        return [given]
    if not given.is_dir():
        raise UserError(f"no run folder and no file {given}")
    found = [file for pattern in ("samples*.jsonl", "greedy*.jsonl") for file in given.rglob(pattern) if file.is_file()]
    if not found:
        raise UserError(f"{given} holds no samples.jsonl; training (grpo) and evaluation write them: give a run folder")
    return sorted(found, key=lambda file: (file.stat().st_mtime, file))


def build_show(samples: Sequence[Path], root: Path) -> FastAPI:
    """The page with these files to choose from, named from `root` on."""
    names = [
        str(file.relative_to(root)) if file != root and file.is_relative_to(root) else file.name for file in samples
    ]
    routes = page_router({"live": False, "model": root.name, "files": names})

    @routes.get("/files/{number}")
    def rows(number: int) -> FileResponse:
        if not 0 <= number < len(samples):
            raise UserError(f"no file {number}; there are {len(samples)}, counted from 0")
        return FileResponse(samples[number], media_type="application/x-ndjson", headers=HEADERS)

    app = FastAPI(title="polythink", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.config, app.state.paths = ServeConfig(), [route.path for route in routes.routes]
    app.include_router(routes)
    errors.install(app, app.state.paths)
    app.add_middleware(Guard, config=app.state.config, answers=Counter())
    return app
