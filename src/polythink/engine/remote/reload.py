"""New weights for a server that draws rollouts, by the endpoints that its documentation names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from polythink.engine.remote.servers import SERVERS, Server
from polythink.errors import UserError
from polythink.run.http import Connection
from polythink.run.retry import CallError


def reload_weights(
    connection: Connection,
    server: Server,
    folder: str | Path,
    version: str,
    call: Callable[[Callable[[], None]], None],
) -> None:
    """Go through the steps of the server's kind. `UserError` where one is refused.

    `call` sends a step, and repeats it where that may help. After a step that fails the last one is still sent: it lets
    the server go on.
    """
    if server.reload is None:
        known = ", ".join(each.name for each in SERVERS.values() if each.reload)
        raise UserError(f"{connection.where} has no documented way to take new weights; {known} have one")
    steps = server.reload(str(Path(folder).expanduser().absolute()), version)
    for number, (method, path, body) in enumerate(steps):
        try:
            call(partial(_send, connection, method, path, body))
        except (CallError, UserError) as error:
            if number and number < len(steps) - 1:
                last_method, last_path, _ = steps[-1]
                connection.send(last_method, connection.at(last_path, root=True))
            raise UserError(
                f"{server.name} did not take the weights of {folder}: {path.partition('?')[0]}: {error}"
            ) from None


def _send(connection: Connection, method: str, path: str, body: dict[str, Any] | None) -> None:
    answer = connection.json(body or {}, method, connection.at(path, root=True))
    if isinstance(answer, dict) and answer.get("success") is False:
        raise CallError("refused", str(answer.get("message", "")), permanent=True)
