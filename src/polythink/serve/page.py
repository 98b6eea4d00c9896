"""The live page: its files, what it must know of the model, and rows of samples.jsonl as events. Without torch."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from polythink.serve.body import read_json
from polythink.serve.replay import format_of, replay
from polythink.trace.modes import MODES

if TYPE_CHECKING:
    from polythink.serve.service import Service

MOST_ROW_BYTES = 2**20
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
ASSETS = ("index.html", "page.css", "page.js", "trace.js", "shapes.js", "live.js", "replay.js", "icon.svg")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@cache
def _asset(name: str) -> bytes:
    return files("polythink.serve").joinpath("page", name).read_bytes()


def router(service: Service) -> APIRouter:
    """The page of a model that is served."""
    return page_router(about(service))


def page_router(known: dict[str, Any]) -> APIRouter:
    """The page: `/`, its files under `/page/`, what it must know, and `/replay`, which turns a row into events."""
    routes = APIRouter()

    def serve(path: str, name: str) -> None:
        kind = TYPES[name.rpartition(".")[2]]

        @routes.get(path, include_in_schema=False, name=name)
        def asset() -> Response:
            return Response(_asset(name), media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    for name in ASSETS:  # a table: no path is built from what is asked for
        serve("/" if name == "index.html" else f"/page/{name}", name)

    @routes.get("/page/about")
    def told() -> dict[str, Any]:
        return known

    @routes.post("/replay")
    async def row(request: Request) -> dict[str, Any]:
        """The events of a row of samples.jsonl, which is the body."""
        bounds = request.app.state.config.model_copy(update={"max_body_bytes": MOST_ROW_BYTES})
        return replay(await read_json(request, bounds))

    return routes


def about(service: Service) -> dict[str, Any]:
    """What the page must know: the model, its tags, the choices, and what holds where nothing is chosen."""
    lm, config = service.lm, service.config
    shown = ("paths", "temperature", "max_trace_tokens", "max_path_tokens")
    decoding = {name: value for name, value in lm.settings.decoding.items() if name in shown}
    return {
        "live": True,
        "model": service.name,
        "needs_key": bool(config.api_keys),
        "modes": [
            {"name": m.name, "isolated": m.isolated, "rereads": m.rereads, "about": m.about} for m in MODES.values()
        ],
        "efforts": dict(config.efforts),
        "most_paths": lm.dialect.inventory or 64,
        "decoding": {"paths": 2, "temperature": 1.0, **decoding, "mode": lm.settings.mode},
        **format_of(lm.dialect),
    }
