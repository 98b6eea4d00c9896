"""JSON over HTTP to a server that may stall, break off or talk nonsense: every failure has a name (`CallError`).

    timeout      no byte for `silence` seconds, or not whole after `time_limit` seconds
    connection   refused, reset, broken off in the middle, or not made within `CONNECT` seconds
    malformed    status 200, but the body is not JSON
    http_N       status N; for 408, 409, 425, 429 and 5xx another try may succeed, all others are permanent

A wrong address or key (401, 403, 404, 405, 410, a redirect) and an account that cannot pay (402, and other statuses
that say so) are a `UserError` at once, in the server's own words.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from polythink.errors import UserError
from polythink.run.address import open_client, read_address
from polythink.run.retry import CONNECTION, CallError
from polythink.run.server_words import no_credit, retry_after, words_of

if TYPE_CHECKING:
    import httpx

CONNECT = 30.0  # seconds for making a connection: a server that needs longer is not there
RETRIED_4XX = (408, 409, 425, 429)
HINTS = {
    401: "the key was not accepted; name the environment variable that holds the right one",
    403: "the key has no access to this model",
    404: "there is no such address or model; the address usually ends in /v1",
    405: "the address is not that of a {what}; it usually ends in /v1",
    407: "the proxy wants a name and a password: http://name:password@host:port",
    410: "the address or model is there no longer",
}


class Connection:
    """A server at a base address such as http://localhost:8000/v1. Thread-safe; close it when done.

    `path` is that of its endpoint below the base address, `what` its name in messages, `model` the model that is asked
    for. The key is in the environment variable `key_env`, and sent as a bearer token or in the header `key_header`.
    All calls run in one event loop in a thread of its own: there a total time limit can end a call wherever it hangs,
    in a header that drips as well.
    """

    def __init__(
        self,
        url: str,
        path: str,
        what: str,
        model: str = "",
        *,
        key_env: str | None = None,
        key_header: str | None = None,
        silence: float = 600.0,
        time_limit: float = 3600.0,
        connections: int = 64,
    ) -> None:
        import httpx

        self.address, self._path, self.what, self.model = read_address(url, path), path, what, model
        self.silence, self.time_limit = silence, time_limit
        key, user = _key(key_env), self.address.user
        if key and user:
            raise UserError("the address holds a user and a password, and key_env names a key: give one of them")
        self._secrets = _secrets(key, user, url)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # no timeout on waiting for a free connection: that is our own queue, not the server's silence
        timeout = httpx.Timeout(silence, pool=None, connect=min(silence, CONNECT))
        headers = _key_header(key, key_header)
        self._client, proxy = open_client(self.address.url, timeout=timeout, limits=limits, headers=headers, auth=user)
        self.where = f"{self.address.shown} through the proxy {proxy}" if proxy else self.address.shown
        self._lock, self._open = threading.Lock(), True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._open, was_open = False, self._open
        if was_open:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        """Calls under way end with an error: nobody waits for them for ever."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.aclose()

    def _begin(self, call: Callable[[], Coroutine[Any, Any, httpx.Response]]) -> Future[httpx.Response]:
        with self._lock:  # whatever begins is among what `_end` finds
            if not self._open:
                raise self._closed()
            return asyncio.run_coroutine_threadsafe(call(), self._loop)

    def _closed(self) -> CallError:
        return CallError("closed", f"{self.where}: this connection was closed", permanent=True)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The whole response, whatever its status. `CallError` where none comes."""
        import httpx

        async def call() -> httpx.Response:
            async with asyncio.timeout(self.time_limit):
                return await self._client.request(method, url, json=body)

        try:
            return self._begin(call).result()
        except CancelledError:
            raise self._closed() from None
        except TimeoutError:
            raise CallError("timeout", f"not whole after {self.time_limit:g} seconds") from None
        except httpx.ConnectTimeout:
            limit = min(self.silence, CONNECT)
            raise CallError(CONNECTION, f"{self.where}: no connection within {limit:g} seconds") from None
        except httpx.TimeoutException:
            raise CallError("timeout", f"no byte for {self.silence:g} seconds") from None
        except httpx.TransportError as error:
            raise CallError(CONNECTION, f"{self.where}: {self._words(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallError("malformed", self._words(error)) from None

    def at(self, path: str, root: bool = False) -> str:
        """The address of another endpoint beside this one, or (`root`) where there is no /v1 before it."""
        before, _, query = self.address.url.partition("?")
        base = before.removesuffix(self._path)
        base = base.removesuffix("/v1") if root else base
        return f"{base}{path}" + (f"{'&' if '?' in path else '?'}{query}" if query else "")

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        """The response of the endpoint, whose status is 200. `CallError` or `UserError` for any other."""
        response = self.send("POST", self.address.url, body)
        if response.status_code != 200:
            self.refused(response.status_code, response.text, response.headers)
        return response

    def json(self, body: Mapping[str, Any], method: str = "POST", url: str | None = None) -> Any:
        """The JSON of the endpoint's answer, or of another address of the server; errors as in `post`."""
        response = self.send(method, url or self.address.url, body)
        if response.status_code != 200:
            self.refused(response.status_code, response.text, response.headers)
        try:
            return response.json()
        except (ValueError, RecursionError):
            raise CallError("malformed", self.public(words_of(response.text))) from None

    def refused(self, status: int, body: str, headers: httpx.Headers | dict[str, str]) -> NoReturn:
        """Raise what an answer that is an error means."""
        words = self.public(words_of(body))
        flagged = status == 403 and re.search("moderation|flagged", words, re.IGNORECASE)  # this prompt, not the model
        broke = status == 402 or (status >= 400 and no_credit(body))
        if broke or (status in HINTS and not flagged) or 300 <= status < 400:
            hint = HINTS.get(status, "it has moved; give the final address").format(what=self.what)
            hint = "the account cannot pay for more requests" if broke else hint
            says = f" (the server says: {words})" if words else ""
            raise UserError(f"{self.where} answers {status} for model {self.model!r}: {hint}{says}")
        permanent = 400 <= status < 500 and status not in RETRIED_4XX
        wait = retry_after(headers.get("Retry-After"))
        raise CallError(f"http_{status}", words, permanent=permanent, refused=permanent, retry_after=wait)

    def _words(self, error: Exception) -> str:
        return self.public(_reason(error) or str(error) or type(error).__name__)

    def public(self, text: str) -> str:
        """A message without our key or password."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _reason(error: BaseException) -> str:
    """What the system said, where it did: the event loop's own words leave it out."""
    while inner := error.__cause__ or error.__context__:
        error = inner.exceptions[0] if isinstance(inner, ExceptionGroup) else inner  # one for each of its addresses
    errno = getattr(error, "errno", None) or 0
    return f"[Errno {errno}] {os.strerror(errno)}" if errno > 0 else ""


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name} should hold the endpoint's key, but it is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {name} holds characters that no key has")
    return key


def _key_header(key: str | None, name: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if name:
        return {name: key}
    return {"Authorization": key if key.startswith(("Basic ", "Bearer ")) else f"Bearer {key}"}


def _secrets(key: str | None, user: tuple[str, str] | None, url: str) -> list[str]:
    """What a server's message is searched for, the longest first: key and password, in the forms they are sent in."""
    found = [key, key.partition(" ")[2] if key else None]
    if user:
        name, password = user
        found += [f"{name}:{password}", base64.b64encode(f"{name}:{password}".encode()).decode(), password or name]
        found += [quote(password), url.rpartition("@")[0].partition("://")[2].partition(":")[2]]
    return sorted({secret for secret in found if secret}, key=len, reverse=True)
