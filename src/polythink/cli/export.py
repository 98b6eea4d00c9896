"""`polythink export`: a model as a GGUF file, which llama.cpp runs."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from polythink.cli import console
from polythink.cli.model import Model, check_hub, check_llama_cpp, find_model
from polythink.errors import UserError, install_extra
from polythink.models.place import GGUF
from polythink.run.output import check_out
from polythink.trace.dialect import DIALECTS


def export(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to write.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Type of the weights, such as q8_0 or q4_k_m; as they are if left out. Needs llama-cpp-python.",
        ),
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="Dialect of its tags; its own if left out.", autocompletion=lambda: [*DIALECTS])
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a model as a GGUF file, with its tokenizer and settings in it.

    `--backend llama_cpp` runs it in llama.cpp. A model from elsewhere, a .gguf file too, gets rows for the tags that it
    lacks; they are untrained.

    Example: polythink export runs/smoke smoke.gguf

    Example: polythink export runs/smoke smoke-q8.gguf --quantize q8_0
    """
    place = find_model(model)
    target = check_out(file, place, overwrite=overwrite, suffix=GGUF, named="FILE.gguf")
    if find_spec("gguf") is None:
        raise UserError(f"writing a GGUF file needs the package gguf; {install_extra('gguf')} installs it")
    if quantize is not None:
        _check_type(quantize)
    check_hub(place)
    console.announce(f"loading {place} ...")
    from polythink.models.lm import load
    from polythink.models.to_gguf import write_lm

    if quantize is None:
        write_lm(load(place, dialect=dialect, device="cpu"), target)
    else:
        _quantised(place, dialect, target, quantize)
    print(target)


def _check_type(kind: str) -> None:
    from polythink.engine.llama.native import check_type

    check_type(kind)
    check_llama_cpp(f"--quantize {kind}")


def _quantised(place: str, dialect: str | None, target: Path, kind: str) -> None:
    from polythink.engine.llama.native import quantise
    from polythink.models.lm import load
    from polythink.models.to_gguf import write_lm
    from polythink.run.folder import atomic_write

    with tempfile.TemporaryDirectory(prefix="polythink-", dir=target.absolute().parent) as folder:
        whole = Path(folder) / "whole.gguf"
        write_lm(load(place, dialect=dialect, device="cpu", dtype="float32"), whole)
        with atomic_write(target) as temporary:
            quantise(whole, temporary, kind)
