"""`polythink show`: the traces of a finished run in the browser."""

from __future__ import annotations

import socket
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Annotated

import typer

from polythink.errors import UserError


def show(
    run_or_file: Annotated[Path, typer.Argument(help="A run folder, or a samples.jsonl file.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Show the traces of a run in the browser: choose a line, see it whole or as it was drawn. Ctrl-C ends it.

    Example: polythink show runs/smoke
    """
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise UserError(f"the page needs {', '.join(missing)}: pip install 'polythink[serve]'")
    import uvicorn

    from polythink.serve.show import build_show, sample_files

    files = sample_files(run_or_file)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        raise UserError(
            f"port {port} of 127.0.0.1 cannot be listened on ({error.strerror}); give another --port"
        ) from None
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    print(f"{len(files)} file{'s' * (len(files) > 1)} of {run_or_file}: {address} (Ctrl-C ends it)", flush=True)
    if browser:
        Timer(0.5, webbrowser.open, [address]).start()
    app = build_show(files, run_or_file.resolve())
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
