"""Options of the two studies, `compare` and `tunnel`, and the checks that need no model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from polythink.errors import UserError
from polythink.run.config import Config, Place
from polythink.trace.dialect import Dialect
from polythink.trace.modes import MODES, get_mode

ENGINE_KEYS = {"max_num_seqs", "kv_cache_memory_bytes"}  # speed and memory, not results
PATHS = (1, 2, 4, 8, 16)  # the numbers of paths that `compare` takes unless others are given


class CompareConfig(Config):
    """Options of `compare`. Budgets and temperatures are those of the decoding."""

    sequential_prompt: Place
    """Prompt under which the model answers in one sequential response."""
    paths: tuple[PositiveInt, ...] = ()
    """Numbers of paths to compare; empty: 1, 2, 4, 8, 16, as far as the dialect has numbers."""
    samples: int = Field(4, ge=1)
    """Parallel responses per problem, for each number of paths."""
    sequential_tokens: int | None = Field(None, ge=1)
    """Budget of one sequential response; null: main text, and a path and a summary for each block."""
    max_num_seqs: int = Field(64, ge=1)
    """Responses that the engine draws at once."""
    kv_cache_memory_bytes: int | None = Field(None, ge=1)
    """Most bytes of keys and values at a time; what does not fit waits, and null sets no bound: speed, not results."""


class TunnelConfig(Config):
    """Options of `tunnel`. Either part is left out where its list (`budgets`, `prefixes`) is empty."""

    budgets: tuple[PositiveInt, ...] = ()
    """Token budgets, each of all paths together."""
    paths: tuple[PositiveInt, ...] = (1, 4)
    """Numbers of paths that share each budget."""
    samples: int = Field(4, ge=1)
    """Responses per problem, for each budget and number of paths."""
    sequential_prompt: Place | None = None
    """Prompt of a sequential response with each budget; null: none is drawn."""
    prefixes: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Lengths of the prefixes: below 1 a share of the median length of a path, else a whole number of tokens."""
    traces: int = Field(8, ge=1)
    """Responses of one path per problem; the wrong ones give the prefixes."""
    continuations: int = Field(64, ge=1)
    """Continuations per point, at least."""
    max_num_seqs: int = Field(64, ge=1)
    """Responses that the engine draws at once."""
    kv_cache_memory_bytes: int | None = Field(None, ge=1)
    """Most bytes of keys and values at a time; what does not fit waits, and null sets no bound: speed, not results."""

    @model_validator(mode="after")
    def _something_to_draw(self) -> TunnelConfig:
        if not (self.budgets or self.prefixes):
            raise ValueError("set budgets, prefixes or both: there is nothing to draw")
        if bad := [n for n in self.prefixes if n >= 1 and n != int(n)]:
            raise ValueError(f"a prefix is a share below 1 or a whole number of tokens, not {bad[0]:g}")
        if self.budgets and min(self.paths, default=1) > min(self.budgets):
            raise ValueError(f"a budget of {min(self.budgets)} has no token for each of {min(self.paths)} paths")
        return self


def asked_of(options: Config, kind: type[Config]) -> dict[str, Any]:
    """The options that results depend on, JSON-ready: all of this kind but how many responses are drawn at once."""
    return options.model_dump(mode="json", include=kind.model_fields.keys() - ENGINE_KEYS)


def problems_of(result: Mapping[str, Any]) -> Hashable:
    """Which problems a result is of. The name of its file does not tell: two folders may each have a test.jsonl."""
    about = result.get("provenance") or {}
    named = about.get("problems") or result.get("problems"), about.get("limit")
    return result.get("problem_hash") or named, result.get("n")  # some of them may have been skipped


def numbers_of_paths(given: Sequence[int], mode: str, dialect: Dialect) -> tuple[list[int], list[str]]:
    """The numbers of paths to draw, and a note on those left out.

    They are those given, or `PATHS` as far as the dialect has numbers. `UserError` for a mode without isolated paths,
    a dialect whose model declares its paths, so that their number cannot be asked for, or more paths than the dialect
    has numbers.
    """
    if not get_mode(mode).isolated:
        able = ", ".join(name for name, other in MODES.items() if other.isolated)
        raise UserError(f"paths are compared in a mode that draws them at once ({able}); this one is {mode}")
    if dialect.declares_paths:
        raise UserError(
            f"in the dialect {dialect.name} the model says by its outlines how many paths there are, so responses of "
            "given numbers of paths cannot be drawn; take a model whose dialect leaves their number to the request"
        )
    most = dialect.inventory or max(*PATHS, *given)
    if given and max(given) > most:
        raise UserError(
            f"{max(given)} paths are more than the {most} numbers of the dialect {dialect.name}; take fewer, or train "
            f"with a larger inventory"
        )
    kept = sorted(set(given)) or [paths for paths in PATHS if paths <= most]
    left_out = [] if given else [paths for paths in PATHS if paths > most]
    note = f"{', '.join(map(str, left_out))} paths were left out: the dialect {dialect.name} has {most} numbers"
    return kept, [note] if left_out else []
