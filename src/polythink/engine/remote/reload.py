"""New weights for a server that draws rollouts, by the endpoints that its documentation names."""

from __future__ import annotations

from pathlib import Path

from polythink.engine.remote.servers import SERVERS, Server
from polythink.errors import UserError
from polythink.run.http import Connection
from polythink.run.retry import CallError


def reload_weights(connection: Connection, server: Server, folder: str | Path, version: str) -> str:
    """Go through the steps of the server's kind; the version after `version`. `UserError` where one is refused.

    After a step that fails the last one is still sent: it lets the server go on.
    """
    if server.reload is None:
        known = ", ".join(each.name for each in SERVERS.values() if each.reload)
        raise UserError(f"{connection.where} has no documented way to take new weights; {known} have one")
    new = str(int(version or 0) + 1)
    steps = server.reload(str(Path(folder).expanduser().absolute()), new)
    for number, (method, path, body) in enumerate(steps):
        try:
            answer = connection.json(body or {}, method, connection.at(path, root=True))
            if isinstance(answer, dict) and answer.get("success") is False:
                raise CallError("refused", str(answer.get("message", "")))
        except (CallError, UserError) as error:
            if number and number < len(steps) - 1:
                last_method, last_path, _ = steps[-1]
                connection.send(last_method, connection.at(last_path, root=True))
            raise UserError(
                f"{server.name} did not take the weights of {folder}: {path.partition('?')[0]}: {error}"
            ) from None
    return new
