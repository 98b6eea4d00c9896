"""What `polythink bench decode` is asked for, checked without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polythink.bench.cases import Case
from polythink.errors import UserError, did_you_mean

PEERS = ("generate", "continuous", "llama.cpp", "llama.cpp exact", "vllm")


@dataclass(frozen=True)
class DecodeOptions:
    """`model`: a shape's name, or what `load` takes. `dtype` None: float32 for a shape, as saved for a folder."""

    model: str
    cases: Sequence[Case]
    backends: Sequence[str] = ("auto",)
    peers: Sequence[str] = PEERS
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    steps: int = 32
    rounds: int = 5
    profile: bool = False


def parse_names(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names in a list with commas, `all` or `none`; `UserError` for one that is not known."""
    if text in ("all", "none"):
        return tuple(known) if text == "all" else ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UserError(f"no {what} {name!r}{did_you_mean(name, [*known, 'all', 'none'])}")
    return names
