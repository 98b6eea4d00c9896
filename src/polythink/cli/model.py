"""What the commands that use a model have in common: their options, where the model is, and how it is decoded.

Everything here but `open_engine` works without torch, so that a mistake is found before it is imported.
"""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit
from urllib.request import getproxies

import typer

from polythink.cli import console
from polythink.cli.options import argument, complete_prompt
from polythink.engine.kinds import BACKENDS, OF_GGUF
from polythink.errors import UserError, did_you_mean
from polythink.models.gguf_header import settings_in
from polythink.models.place import GGUF, check_packages, check_path, gguf_files, model_folder, model_folders, place_of
from polythink.models.settings import SETTINGS_FILE, ModelSettings, read_settings, with_dialect
from polythink.problems.prompts import get_prompt
from polythink.run.config import apply_overrides, parse_config
from polythink.trace.dialect import DIALECTS

if TYPE_CHECKING:
    from polythink.engine.engine import Engine
    from polythink.engine.params import SamplingParams
    from polythink.engine.protocol import RolloutBackend
    from polythink.engine.remote.config import RemoteConfig

DTYPES = ("float32", "bfloat16", "float16")

Model = Annotated[
    str,
    argument("MODEL", "Folder of a model, a stage or a run (its last model), a .gguf file, or a name on the hub."),
]
Decoding = Annotated[
    list[str] | None, argument("KEY=VALUE", "Changes to its decoding, such as paths=4 or temperature=0.6.")
]


def _option(help: str, complete: Callable[[], list[str]] | None = None, **more: Any) -> Any:
    return typer.Option(help=help, autocompletion=complete, rich_help_panel="Model", **more)


class ModelChoice(NamedTuple):
    """The options about the model; None: what the model's own polythink.json says."""

    prompt: Annotated[str | None, _option("Its name or file; the model's if left out.", complete_prompt)] = None
    dialect: Annotated[str | None, _option("Of its tags; its own if left out.", lambda: [*DIALECTS])] = None
    mode: Annotated[str | None, _option("Its own if left out.")] = None
    chat: Annotated[bool | None, _option("Wrap prompts in the tokenizer's chat template.")] = None
    chat_template_kwargs: Annotated[
        list[str] | None,
        _option("What the chat template is told, such as enable_thinking=false; may be repeated.", metavar="KEY=VALUE"),
    ] = None
    device: Annotated[str | None, _option("cpu, cuda, cuda:1, mps; a GPU if there is one.")] = None
    dtype: Annotated[str | None, _option("float32, bfloat16 or float16; as saved if left out (.gguf: float32).")] = None
    backend: Annotated[str | None, _option("Such as llama_cpp, for a .gguf file.", lambda: [*BACKENDS])] = None
    max_num_seqs: Annotated[int | None, _option("Responses that are generated at once; 64 if left out.", min=1)] = None
    kv_cache_memory_bytes: Annotated[
        int | None,
        _option("Bytes of keys and values; no bound if left out.", min=1),
    ] = None


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `ModelChoice`, which it takes together as its parameter `choice`."""

    def wrapped(**given: Any) -> None:
        choice = ModelChoice(*(given.pop(name) for name in ModelChoice._fields))
        command(**given, choice=choice)

    hints = {**get_type_hints(command, include_extras=True), **get_type_hints(ModelChoice, include_extras=True)}
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "choice"]
    shared = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ModelChoice._fields]
    signature = inspect.Signature([each.replace(annotation=hints[each.name]) for each in (*own, *shared)])
    wrapped.__signature__, wrapped.__annotations__, wrapped.__doc__ = signature, hints, command.__doc__
    return wrapped


def find_model(given: str) -> str:
    """The folder meant by a model folder, a stage folder or a run folder (its last stage with a model), a .gguf file,
    or a name on the hub.

    `UserError` for a folder that holds no model, and for what can be none of these. The hub is not asked.
    """
    path = Path(given).expanduser()
    if not path.is_dir():
        if not path.exists() and path == Path(path.name) and path.suffix.lower() != GGUF:
            hint = did_you_mean(given, model_folders(Path()))
            hint = hint if "did you mean" in hint else ", and a name on the hub is of the form owner/name"
            raise UserError(f"no model folder {given!r}{hint}")
        check_path(str(path))
        check_packages(str(path))
        return str(path)
    folder = model_folder(path)
    if (folder / "config.json").is_file():
        return str(folder)
    runs = [path.parent, *sorted(file.parent for file in path.glob("*/stages.json"))]
    with_model = [run for run in runs if (model_folder(run) / "config.json").is_file()]
    hint = "give a folder with config.json, a folder of a run, or a .gguf file"
    if found := gguf_files(path):
        hint = f"it holds {found[0]}: give that file"
    elif with_model:
        hint = f"{with_model[0]} does"
    raise UserError(f"{given} holds no model; {hint}")


def params_for(model: str, choice: ModelChoice, overrides: Sequence[str]) -> SamplingParams:
    """How the model's settings and the choice say it is to be decoded, with the overrides applied.

    `UserError` for what can be seen to be wrong with the choice without torch.
    """
    from polythink.engine.budgets import check_block_fits
    from polythink.engine.params import SamplingParams, check_fork_at

    settings = settings_of(model)
    _, dialect = with_dialect(replace(settings, dialect=choice.dialect or settings.dialect))
    if choice.prompt:
        get_prompt(choice.prompt)
    if choice.dtype not in (None, *DTYPES):
        raise UserError(f"no dtype {choice.dtype!r}{did_you_mean(choice.dtype, DTYPES)}")
    if choice.device and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", choice.device):
        raise UserError(f"no device {choice.device!r}; known: cpu, cuda, cuda:N, mps")
    if choice.backend not in (None, *BACKENDS):
        raise UserError(f"no backend {choice.backend!r}{did_you_mean(choice.backend, BACKENDS)}")
    if choice.backend in OF_GGUF:
        check_of_gguf(model, choice)
    template_kwargs(choice)
    named = {override.partition("=")[0].strip() for override in overrides}
    if choice.mode and "mode" in named:
        raise UserError("--mode and mode=... are the same setting; give one of them")
    data = {**settings.decoding, "mode": choice.mode or settings.mode}
    params = parse_config(SamplingParams, apply_overrides(data, overrides), "decoding")
    if "paths" in named:
        check_block_fits(params, dialect)
    if "fork_at" in named:
        check_fork_at(params)
    return params


def check_of_gguf(model: str, choice: ModelChoice) -> None:
    """`UserError` for what llama.cpp cannot run, or cannot be told."""
    if place_of(model).file is None:
        raise UserError(
            f"--backend {choice.backend} runs a .gguf file; `polythink export {model} FILE.gguf` writes one, or leave "
            "the option out"
        )
    for name in ("device", "dtype"):
        if getattr(choice, name) is not None:
            raise UserError(f"--{name} is of a model in torch, and --backend {choice.backend} runs it in llama.cpp")
    check_llama_cpp(f"--backend {choice.backend}")


def check_llama_cpp(option: str) -> None:
    """`UserError` where an option that needs llama.cpp is given and it is not installed."""
    if find_spec("llama_cpp") is None:
        raise UserError(
            f"{option} needs llama-cpp-python, which is not installed: pip install llama-cpp-python; or leave the "
            "option out"
        )


def settings_of(model: str) -> ModelSettings:
    """What the model's folder or .gguf file says of its use, as far as it is on this machine."""
    place, file = place_of(model), Path(model) / SETTINGS_FILE
    if place.file and place.local:
        return settings_in(Path(model)) or ModelSettings()
    return read_settings(file) if file.is_file() else ModelSettings()


def template_kwargs(choice: ModelChoice) -> dict[str, Any] | None:
    """What the chat template is told, None where nothing is said. `UserError` for what is no KEY=VALUE."""
    return apply_overrides({}, choice.chat_template_kwargs) if choice.chat_template_kwargs else None


def settle(model: str, choice: ModelChoice, overrides: Sequence[str]) -> tuple[SamplingParams, ModelChoice]:
    """What `params_for` says, and the choice with the mode in which the model is loaded for it."""
    params = params_for(model, choice, overrides)
    return params, choice._replace(mode=params.mode)


def check_hub(model: str) -> None:
    """`UserError` for a model that is not here, nor in the hub's cache, while the hub cannot be found; before torch is
    imported.

    Only the hub's address is looked up: libraries would do so again and again before they give up.
    """
    place = place_of(model)
    if place.local:
        return
    from huggingface_hub import constants, try_to_load_from_cache

    host = urlsplit(constants.ENDPOINT).hostname
    if isinstance(try_to_load_from_cache(place.folder, place.file or "config.json"), str) or getproxies():
        return
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"no model folder {model!r}, it is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask for it"
        )
    console.announce(f"looking for {place.folder} at {host} ...")
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise UserError(
            f"no model folder {model!r}, and the hub cannot be asked for a model of that name: {host} is not found "
            f"({error.strerror})"
        ) from None


def open_engine(
    model: str,
    choice: ModelChoice,
    max_num_seqs: int = 64,
    kv_cache_memory_bytes: int | None = None,
    max_step_branches: int | None = None,
) -> Engine:
    """An engine for the model as chosen; `max_num_seqs` and the bytes hold where the choice names none."""
    check_hub(model)
    console.announce(f"loading {model} ...")
    from polythink.engine.engine import Engine
    from polythink.models.lm import load, load_vocabulary

    chosen = {**choice._asdict(), "prompt": get_prompt(choice.prompt) if choice.prompt else None}
    chosen["chat_template_kwargs"] = template_kwargs(choice)
    max_num_seqs = chosen.pop("max_num_seqs") or max_num_seqs
    memory = chosen.pop("kv_cache_memory_bytes") or kv_cache_memory_bytes
    backend = chosen.pop("backend") or "auto"
    limits = {"kv_cache_memory_bytes": memory, "max_step_branches": max_step_branches}
    if backend in OF_GGUF:
        del chosen["device"], chosen["dtype"]
    lm = (load_vocabulary if backend in OF_GGUF else load)(model, **chosen)
    return Engine(lm, max_num_seqs, backend=backend, **limits)


def rollouts_of(
    url: str | None, choice: ModelChoice, overrides: Sequence[str]
) -> tuple[RemoteConfig | None, list[str]]:
    """The server that --rollouts names, None without it, and the overrides that are not its own (`rollouts.KEY`).

    An evaluation reads no log-probabilities, so none are asked for unless `rollouts.logprobs` says so.
    """
    from polythink.engine.remote.config import RemoteConfig

    own = [text for text in overrides if text.partition(".")[0] == "rollouts"]
    if url is None:
        if own:
            raise UserError(f"{own[0]} belongs to --rollouts, which was not given")
        return None, list(overrides)
    here = ("device", "dtype", "backend", "max_num_seqs", "kv_cache_memory_bytes")
    if given := [name for name in here if getattr(choice, name) is not None]:
        raise UserError(f"--{given[0].replace('_', '-')} is of a model in this process, and --rollouts names a server")
    data = apply_overrides({"rollouts": {"url": url, "logprobs": "none"}}, own)["rollouts"]
    return parse_config(RemoteConfig, data, "--rollouts"), [text for text in overrides if text not in own]


@contextmanager
def backend_of(
    model: str, choice: ModelChoice, remote: RemoteConfig | None, *limits: int | None
) -> Iterator[RolloutBackend]:
    """What draws rollouts of the model as chosen: an engine here (`limits`: see `open_engine`), or a server.

    Of a server's model the folder gives the tokenizer and the settings.
    """
    if remote is None:
        yield open_engine(model, choice, *limits)
        return
    check_hub(model)
    from polythink.engine.remote.rollouts import HttpRollouts
    from polythink.models.lm import load_vocabulary

    prompt = get_prompt(choice.prompt) if choice.prompt else None
    vocabulary = load_vocabulary(
        model, dialect=choice.dialect, mode=choice.mode, prompt=prompt, chat=choice.chat,
        chat_template_kwargs=template_kwargs(choice),
    )  # fmt: skip
    with HttpRollouts(remote, vocabulary) as backend:
        console.announce(f"asking {backend.served.server.name} for {backend.served.model} ...")
        yield backend
