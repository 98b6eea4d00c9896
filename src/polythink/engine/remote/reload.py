"""New weights for a server that draws rollouts, by the endpoints that its documentation names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from polythink.engine.remote.servers import SERVERS, Server, Step
from polythink.errors import UserError
from polythink.run.http import Connection
from polythink.run.retry import CallError
from polythink.run.server_words import words_of


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
    for number, step in enumerate(steps):
        try:
            call(partial(_send, connection, step))
        except (CallError, UserError) as error:
            if number and number < len(steps) - 1:
                with suppress(CallError):  # it may have ended: vLLM does where weights cannot be loaded
                    connection.send("POST", connection.at(steps[-1].path, root=True))
            raise UserError(
                f"{server.name} did not take the weights of {folder}: {step.path.partition('?')[0]}: {error}"
            ) from None


def version_of(connection: Connection, server: Server) -> str | None:
    """The version of the weights that the server says it has; None where it does not say. Errors as in `json`."""
    answer = connection.send("GET", connection.at(server.version_at, root=True))
    if answer.status_code == 404:  # older than that
        return None
    if answer.status_code != 200:
        connection.refused(answer.status_code, answer.text, answer.headers)
    try:
        return str(answer.json()["weight_version"])
    except (ValueError, LookupError, TypeError):
        raise CallError("malformed", connection.public(words_of(answer.text))) from None


def _send(connection: Connection, step: Step) -> None:
    where = connection.at(step.path, root=True)
    if step.newer:
        answer = connection.send("POST", where, step.body)
        if answer.status_code not in (200, 404):
            connection.refused(answer.status_code, answer.text, answer.headers)
        return
    answer = connection.json(step.body or {}, "POST", where)
    if isinstance(answer, dict) and answer.get("success") is False:
        raise CallError("refused", str(answer.get("message") or answer), permanent=True)
