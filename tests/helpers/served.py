"""An application on a real socket of loopback, in a thread of this process; and an engine that steps when it may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from polythink.engine.engine import Engine
from polythink.serve.config import ServeConfig
from polythink.serve.run import bind


class Gate:
    """Lets an engine make so many steps and no more: what a reader sees then does not depend on the machine's speed."""

    def __init__(self, engine: Engine) -> None:
        self.left, self.changed = float("inf"), threading.Condition()
        step = engine.step

        def gated():
            with self.changed:
                self.changed.wait_for(lambda: self.left > 0)
                self.left -= 1
            return step()

        engine.step = gated

    def let(self, steps: float) -> None:
        """Allow so many steps from here on, those that were allowed and not made included."""
        with self.changed:
            self.left = steps
            self.changed.notify_all()

    def open(self) -> None:
        self.let(float("inf"))


@contextmanager
def served(app, service=None) -> Iterator[str]:
    """The address of the application, whose service is started and stopped with it."""
    listener = bind(ServeConfig(port=0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1)
    )
    failed: list[BaseException] = []

    async def run() -> None:
        if service is not None:
            await service.start()
        await server.serve(sockets=[listener])
        if service is not None:
            await service.stop(0)

    def running() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=running, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not failed, failed
