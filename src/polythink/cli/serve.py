"""`polythink serve`: an OpenAI-compatible server over the engine, and a page that shows the paths."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polythink.cli import console
from polythink.cli.model import (
    Decoding,
    Model,
    ModelChoice,
    find_model,
    open_engine,
    settle,
    with_model_options,
)
from polythink.engine.kinds import OF_GGUF
from polythink.errors import UserError, install_extra
from polythink.run.config import parse_config, read_text
from polythink.serve.config import MOST_TOKENS, ServeConfig

if TYPE_CHECKING:
    from polythink.engine.params import SamplingParams

KEY_VARIABLE = "POLYTHINK_API_KEY"


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Server", **more)


@with_model_options
def serve(
    model: Model,
    overrides: Decoding = None,
    host: Annotated[
        str, _option("Address to listen on; one that other machines reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, _option("Port; 0 takes any free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        _option(f"Key that clients must send. Others see it in ps: better set {KEY_VARIABLE}, or --api-key-file."),
    ] = None,
    api_key_file: Annotated[Path | None, _option("File with one key per line; clients may send any of them.")] = None,
    served_model_name: Annotated[
        str | None, _option("What /v1/models calls the model; the name of its folder if left out.")
    ] = None,
    max_queue: Annotated[int | None, _option("Traces that may wait; beyond them 429. 256 if left out.", min=0)] = None,
    max_tokens: Annotated[
        int | None,
        _option(
            f"Most tokens of one response, all paths together; {MOST_TOKENS} if left out, or max_trace_tokens of the "
            "decoding where that is more.",
            min=1,
        ),
    ] = None,
    max_requests_per_key: Annotated[int | None, _option("Requests of one API key at once.", min=1)] = None,
    max_step_branches: Annotated[
        int | None, _option("Branches that run in one step: beyond them the paths of wide traces take turns.", min=1)
    ] = None,
    timeout_s: Annotated[float | None, _option("Seconds that a request may take; 600 if left out.")] = None,
    drain_s: Annotated[float | None, _option("Seconds to finish what runs after SIGTERM; 30 if left out.")] = None,
    cors_origin: Annotated[
        list[str] | None, _option("Origin whose pages may call from a browser; may be repeated. None by default.")
    ] = None,
    weights_folder: Annotated[
        Path | None, _option("Folder from below which clients may load other weights of the model, as trainers do.")
    ] = None,
    choice: ModelChoice = ModelChoice(),
) -> None:
    """Serve a model to OpenAI clients, and to a browser.

    KEY=VALUE changes the decoding that holds where a request says nothing.

    Ctrl-C and SIGTERM finish what runs; a second one ends at once.

    Example: polythink serve runs/smoke --port 8000

    Example: POLYTHINK_API_KEY=... polythink serve runs/smoke --host 0.0.0.0 paths=4
    """
    given = {
        "host": host, "port": port, "api_keys": read_keys(api_key, api_key_file), "max_queue": max_queue,
        "max_tokens": max_tokens, "max_requests_per_key": max_requests_per_key, "timeout_s": timeout_s,
        "max_step_branches": max_step_branches, "drain_s": drain_s, "cors_origins": tuple(cors_origin or ()),
        "max_num_seqs": choice.max_num_seqs, "kv_cache_memory_bytes": choice.kv_cache_memory_bytes,
        "weights_folder": None if weights_folder is None else str(weights_folder.absolute()),
    }  # fmt: skip
    config = parse_config(ServeConfig, {key: value for key, value in given.items() if value is not None}, "serve")
    if choice.backend in OF_GGUF:
        raise UserError(
            f"--backend {choice.backend} answers in generate, chat and eval; polythink serve runs models in torch: "
            "leave the option out (a .gguf file is de-quantised then)"
        )
    place = find_model(model)
    params, choice = settle(place, choice, overrides or [])
    if max_tokens is not None and max_tokens < params.max_trace_tokens:
        console.note(
            f"--max-tokens {max_tokens} bounds every response, where the decoding alone would allow "
            f"max_trace_tokens={params.max_trace_tokens}"
        )
    serve_model(place, choice, params, config, served_model_name or name_of(model, place))


def serve_model(place: str, choice: ModelChoice, params: SamplingParams, config: ServeConfig, name: str) -> None:
    """Serve until a signal. `params` are what holds where a request says nothing."""
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise UserError(f"the server needs {', '.join(missing)}; {install_extra('serve')} installs it")

    from polythink.serve.run import bind, run

    with bind(config) as listener:  # before the model is loaded: a port that is taken is known at once
        engine = open_engine(place, choice, max_step_branches=config.max_step_branches)

        from polythink.serve.app import build_app
        from polythink.serve.service import Service

        decoding = params.model_dump(exclude={"mode"}, exclude_unset=True)
        engine.lm.settings = replace(engine.lm.settings, mode=params.mode, decoding=decoding)
        service = Service(engine, config, name)
        run(build_app(service, config), service, config, listener, partial(print, flush=True))


def read_keys(key: str | None, file: Path | None) -> tuple[str, ...]:
    """The keys of the option, of the environment, or of the file; `UserError` for two of them, or an empty file."""
    sources = {"--api-key": key, KEY_VARIABLE: os.environ.get(KEY_VARIABLE) or None, "--api-key-file": file}
    used = [name for name, value in sources.items() if value is not None]
    if len(used) > 1:
        raise UserError(f"{' and '.join(used)} both give API keys; use one of them")
    if file is None:
        found = key if key is not None else sources[KEY_VARIABLE]
        return () if found is None else (found.strip(),)
    keys = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
    if not keys:
        raise UserError(f"{file} holds no API key; write one per line")
    return keys


def name_of(given: str, place: str) -> str:
    """The model's name: what its folder, stage or run is called, or its name on the hub."""
    here = Path(given).expanduser()
    if here.is_dir():
        return here.resolve().name or "model"
    return here.stem if here.is_file() else place
