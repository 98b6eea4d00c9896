"""`polythink show`: the traces of a finished run in the browser."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Annotated

import typer

from polythink.errors import UserError, install_extra


def show(
    run_or_file: Annotated[Path, typer.Argument(help="A run folder, or a .jsonl file with one sample a line.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Show the traces of a run in the browser: any sample, whole or step by step. Ctrl-C ends it.

    Example: polythink show runs/smoke
    """
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"the page needs {', '.join(missing)}; {install_extra('serve')} installs it")
    import uvicorn

    from polythink.serve.config import ServeConfig
    from polythink.serve.run import bind
    from polythink.serve.show import build_show, sample_files

    files = sample_files(run_or_file)
    listener = bind(ServeConfig(port=port))
    app = build_show(files, run_or_file.resolve())
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    count = f"{len(files)} file{'s' * (len(files) > 1)} of samples"
    print(f"{count} in {run_or_file}: {address} (Ctrl-C ends it)", flush=True)
    if browser:
        opening = Timer(0.5, webbrowser.open, [address])  # when the server listens
        opening.daemon = True
        opening.start()
    with suppress(KeyboardInterrupt):  # uvicorn raises again the signal that has ended it
        uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off")).run(sockets=[listener])
