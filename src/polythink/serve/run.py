"""Serve an application on a socket until a signal: what runs is finished first, and slow clients are dropped."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from polythink.errors import UserError
from polythink.serve.config import ServeConfig

if TYPE_CHECKING:
    from polythink.serve.service import Service

log = logging.getLogger(__name__)
MOST_HEADERS = 32 * 1024  # bytes of a request's head
SEND_BUFFER = 128 * 1024  # bytes that the system keeps for a client that does not read
CLOSING_S = 5  # seconds that connections get to close after the last response


def bind(config: ServeConfig) -> socket.socket:
    """A socket bound to the host and port, not listening yet; `UserError` where that cannot be had.

    Before the model is loaded: a port that is taken is known at once.
    """
    host, port = config.host, config.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        try:
            for level, option, value in _options(config.read_timeout_s):
                found.setsockopt(level, option, value)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except socket.gaierror as error:
        raise UserError(f"host={host} is no address of this machine: {error.strerror}") from None
    except OSError as error:
        raise UserError(_cannot_bind(error, host, port)) from None
    found.set_inheritable(False)
    return found


def _options(read_timeout_s: float) -> list[tuple[int, int, int]]:
    """Socket options, which each connection inherits: what waits for a client that does not read stays small, and is
    given up after a while, as is a client that is gone without a word."""
    found = [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),  # connections of the last server may linger
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        found.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(read_timeout_s * 1000)))
    return found


def _cannot_bind(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; take another with --port, or --port 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs the rights of root; take one above 1023 with --port"
    return f"cannot listen on {host}, port {port}: {error.strerror}"


def run(
    app: ASGIApp, service: Service, config: ServeConfig, listener: socket.socket, say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT. Then nothing new is taken, what runs has `drain_s` seconds to finish, and the
    call returns; a second signal ends the process at once. `say` is told the address once clients can connect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one for each connection
    gc.collect()
    gc.freeze()  # what is there for good is not looked through again, and what requests leave is collected sooner
    asyncio.run(_run(app, service, config, listener, say))


async def _run(
    app: ASGIApp, service: Service, config: ServeConfig, listener: socket.socket, say: Callable[[str], None]
) -> None:
    settings = uvicorn.Config(
        app,
        http=_protocol(config.read_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=config.read_timeout_s,
        timeout_graceful_shutdown=CLOSING_S,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )
    await service.start()
    try:
        await Server(settings, service, config.drain_s, say).serve(sockets=[listener])
    except OSError as error:  # another process has begun to listen since `bind`
        raise UserError(_cannot_bind(error, config.host, config.port)) from None
    finally:
        await service.stop(0)


class Server(uvicorn.Server):
    """uvicorn's server, which drains the service between a signal and its own end."""

    def __init__(self, settings: uvicorn.Config, service: Service, drain_s: float, say: Callable[[str], None]) -> None:
        super().__init__(settings)
        self.service, self.drain_s, self.say = service, drain_s, say
        self.draining: asyncio.Future | None = None
        self.signalled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        host, port = sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.say(f"polythink serving {self.service.name} on http://{shown}:{port} (page at /, API at /v1)")
        if self.signalled:
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handlers that `serve` installs."""
        if self.signalled:
            os.write(2, b"polythink: ended at once\n")
            os._exit(128 + sig)
        self.signalled = True
        if self.started:
            self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Clients are still answered: /health says 503, and new requests are refused in words."""
        self.draining = asyncio.ensure_future(self.service.stop(self.drain_s))
        self.draining.add_done_callback(self._drained)

    def _drained(self, draining: asyncio.Future) -> None:
        if not draining.cancelled() and (error := draining.exception()):
            log.error("the server could not be drained", exc_info=error)
        self.should_exit = True


def _protocol(read_timeout_s: float) -> type[H11Protocol]:
    """HTTP/1.1 as uvicorn speaks it, for clients that send the head of a request within `read_timeout_s` seconds.

    uvicorn itself waits for ever for the first byte of a connection and for the rest of a head.
    """

    class Connection(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, "abort": transport.abort}  # for `sse.EventStream`
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget()
            super().connection_lost(error)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()  # a request is being answered: how long its body may take is up to its reader
            elif self.deadline is None:
                self.deadline = self.loop.call_later(read_timeout_s, self._too_slow)

        def _forget(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _too_slow(self) -> None:
            self.deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Connection
