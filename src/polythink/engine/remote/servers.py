"""What the servers that draw rollouts are told, each in its own words: one entry a kind.

All are asked for `/completions` with token ids as the prompt, and for token ids and log-probabilities back. Sources:
the documentation of vLLM (its server, sleep mode, weight transfer; 0.33), of SGLang (protocol of its OpenAI
API, 0.5.23), and of llama.cpp's llama-server (tools/server/README). vLLM 0.32 has been run: what is said of it here is
what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One request of those with which a server takes weights."""

    path: str  # from the server's root
    body: dict[str, Any] | None = None
    newer: bool = False  # older servers of this kind do not know the path, and do without


NO_PENALTIES = {"presence_penalty": 0, "frequency_penalty": 0}


@dataclass(frozen=True)
class Server:
    """One kind of server. `owner` is what its /v1/models says under `owned_by`."""

    owner: str
    name: str  # for messages
    fields: dict[str, Any] = field(default_factory=dict)  # of every completion: its own defaults may be a model's
    no_top_k: int = -1  # the top_k that sets no limit
    token_ids: bool = True  # it knows `return_token_ids`
    names_streams: bool = False  # the random stream of a request can be named: the same tokens as in this process
    reload: Callable[[str, str], tuple[Step, ...]] | None = None  # from a folder and the new version
    tells_version: bool = False  # completions come with the version of the weights that drew them
    version_at: str = ""  # where it says, asked with GET, the version of the weights it has: {"weight_version": ...}


def _reload_vllm(folder: str, version: str) -> tuple[Step, ...]:
    """Wait for what runs, load the weights in place, forget keys and values of the old ones, name the new, go on.

    These endpoints are there where the server runs with VLLM_SERVER_DEV_MODE=1. A server that was started again says
    that it has the version "default".
    """
    return (
        Step("/pause?mode=wait"),
        Step("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}}),
        Step("/reset_prefix_cache"),
        Step("/update_weight_version", {"new_version": version}, newer=True),
        Step("/resume"),
    )


def _reload_sglang(folder: str, version: str) -> tuple[Step, ...]:
    body = {"model_path": folder, "weight_version": version, "flush_cache": True}
    return (Step("/update_weights_from_disk", body),)


def _reload_polythink(folder: str, version: str) -> tuple[Step, ...]:
    return (Step("/v1/weights", {"folder": folder, "version": version}),)


SERVERS = {
    server.owner: server
    for server in (
        Server("polythink", "polythink serve", {}, no_top_k=0, names_streams=True, reload=_reload_polythink,
               tells_version=True),
        Server(
            "vllm",
            "vLLM",
            {"min_p": 0, "repetition_penalty": 1, **NO_PENALTIES, "skip_special_tokens": False,
             "include_stop_str_in_output": True,
             "return_tokens_as_token_ids": True},  # else tokens of the same text are one entry of top_logprobs
            reload=_reload_vllm,
            version_at="/weight_info",
        ),
        Server(
            "sglang",
            "SGLang",
            {"min_p": 0, "repetition_penalty": 1, **NO_PENALTIES, "skip_special_tokens": False, "no_stop_trim": True},
            reload=_reload_sglang,
            tells_version=True,
        ),
        Server(
            "llamacpp",
            "llama.cpp",
            {"min_p": 0, "repeat_penalty": 1, **NO_PENALTIES, "samplers": ["top_k", "top_p", "temperature"],
             "cache_prompt": True},
            no_top_k=0,
            token_ids=False,
        ),
    )
}  # fmt: skip
OTHER = Server("", "the server")
