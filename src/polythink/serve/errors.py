"""Errors as OpenAI's API shapes them: `{"error": {"message", "type", "param", "code"}}`, the message one sentence."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from polythink.errors import UserError, did_you_mean
from polythink.serve.generation import Busy, Interrupted

log = logging.getLogger(__name__)
LONGEST = 900  # characters of a message
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """What a client is told: a status, one sentence, the field that it is about (if any) and a short code."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON object of an error. A message stays one line, and of a bearable length whatever it quotes."""
    message = " ".join(message.split())
    message = message if len(message) <= LONGEST else f"{message[: LONGEST - 4]} ..."
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    body = error_body(error.status, error.message, error.param, error.code)
    return JSONResponse(body, error.status, headers=error.headers)


def unexpected(error: BaseException) -> ApiError:
    """A fault of ours: logged with an id, by which whoever runs the server finds it; the client sees the id alone."""
    id = uuid.uuid4().hex[:12]
    log.error("error %s", id, exc_info=error)
    return ApiError(500, f"the server failed on this request; its log has the reason under error {id}", code=id)


def as_api_error(error: BaseException) -> ApiError:
    """Any exception as what the client is told about it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    if isinstance(error, Busy):
        code = "rate_limit_exceeded" if error.status == 429 else "unavailable"
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return ApiError(error.status, str(error), code=code, headers=wait)
    if isinstance(error, Interrupted):
        return ApiError(error.status, str(error), code=error.code)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    return unexpected(error)


def install(app: FastAPI, paths: Collection[str]) -> None:
    """The answers to what is not routed (`paths`: what is). All other exceptions of routes reach `guard.Guard`."""

    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        asked = request.scope["path"][:200]
        found, path = as_api_error(error), json.dumps(asked)
        if error.status_code == 404 and error.detail == "Not Found":
            found.message = f"there is no {path} here{did_you_mean(asked, paths)}"
            found.code = "unknown_url"
        elif error.status_code == 405:
            allowed = {name.lower(): value for name, value in found.headers.items()}.get("allow", "another method")
            found.message = f"{request.method[:20]} {path} is not allowed; use {allowed}"
        return error_response(found)

    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return error_response(ApiError(400, f"{param}: {first['msg']}", param))

    app.add_exception_handler(HTTPException, not_routed)
    app.add_exception_handler(RequestValidationError, not_valid)
