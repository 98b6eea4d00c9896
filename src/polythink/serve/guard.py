"""What stands before every route: API keys, the Host header on loopback, counted answers, unexpected errors."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polythink.serve.config import ServeConfig, is_loopback
from polythink.serve.errors import ApiError, as_api_error, error_response
from polythink.serve.sse import ClientGone

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
OPEN, FILES = ("/", "/health"), "/page/"  # what needs no key: the page, which asks for it, its files, whether we live


class Guard:
    """ASGI middleware. `answers` counts responses by method, route and status, for the metrics."""

    def __init__(self, app: ASGIApp, config: ServeConfig, answers: Counter[tuple[str, str, int]]) -> None:
        self.app, self.config, self.answers = app, config, answers
        self.keys = [_digest(key.encode()) for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no WebSockets here
            await self.app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            request = Request(scope)
            self._check_host(request)
            self._check_key(request)
            await self.app(scope, receive, watched)
        except ClientGone:
            status = status or 499  # as nginx counts a client that left before its answer
        except Exception as error:
            found = as_api_error(error)
            if status:  # too late to answer: the server closes the connection
                raise
            await error_response(found)(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"  # a client may write any word there
            self.answers[method, route, status] += 1

    def _check_key(self, request: Request) -> None:
        path = request.scope["path"]  # what is routed; `request.url` is made of the Host header too
        if not self.keys or path in OPEN or path.startswith(FILES):
            return
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return  # a browser asks without a key what it may ask
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise _unauthorized("no API key was sent; send Authorization: Bearer KEY")
        digest, known = _digest(given.strip().encode("latin-1")), False
        for key in self.keys:  # all of them, so that the time says nothing about which
            known |= hmac.compare_digest(digest, key)
        if not known:
            raise _unauthorized("the API key is not one of this server's")
        request.state.key = digest.hex()[:16]

    def _check_host(self, request: Request) -> None:
        """A page of another site could reach a server without keys through a name of its own that means 127.0.0.1."""
        if self.keys or not self.config.loopback:
            return
        host = request.headers.get("host", "localhost").rsplit("]", 1)
        name = f"{host[0]}]" if len(host) == 2 else host[0].partition(":")[0]
        if not is_loopback(name) and name != self.config.host:
            raise ApiError(403, f"this server answers to localhost and 127.0.0.1, not to the host {name[:100]!r}")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
