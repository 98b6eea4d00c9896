"""The HTTP application: its routers, its errors, who may ask. `run.py` serves it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from polythink.serve import chat, completions, errors, page, responses, status, weights
from polythink.serve.config import ServeConfig
from polythink.serve.guard import Guard

if TYPE_CHECKING:
    from polythink.serve.service import Service

ROUTERS = (completions.router, weights.router, chat.router, responses.router, page.router)


def build_app(service: Service, config: ServeConfig) -> FastAPI:
    """The application over a service, which whoever serves it starts and stops (`run.py`)."""
    # no generated pages: they would load their scripts from another site
    app = FastAPI(title="polythink", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.service, app.state.config, app.state.answers = service, config, Counter()
    routers = [status.router(service, app.state.answers), *(make(service) for make in ROUTERS)]
    for router in routers:
        app.include_router(router)
    app.state.paths = [route.path for router in routers for route in router.routes if hasattr(route, "path")]
    errors.install(app, app.state.paths)
    app.add_middleware(Guard, config=config, answers=app.state.answers)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(config.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app
