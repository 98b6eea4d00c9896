"""Sampling parameters of the methods: the same decoding with other numbers of paths and budgets."""

from __future__ import annotations

from polythink.engine.params import SamplingParams

ROOM_AT_A_JOIN = 256  # tokens for tags and a forced prefix of the summary


def with_fixed_path_temperature(params: SamplingParams) -> SamplingParams:
    """Set the temperature of paths to that of several paths, so that it does not depend on their number."""
    several = params.model_copy(update={"paths": max(2, params.paths)})
    return params.model_copy(update={"path_temperature": several.temperature_of("path")})


def with_paths(params: SamplingParams, paths: int, path_tokens: int | None = None) -> SamplingParams:
    """The same decoding with `paths` paths of `path_tokens` each; the trace's budget grows where they need more.

    A path_position_stride stays as it is, since the model was trained with it, unless the paths would overlap.
    """
    tokens = path_tokens or params.max_path_tokens
    block = paths * (tokens + 2) + params.max_summary_tokens + ROOM_AT_A_JOIN
    whole = params.max_main_tokens + max(1, params.max_blocks) * block
    changes = {"paths": paths, "max_path_tokens": tokens, "max_trace_tokens": max(params.max_trace_tokens, whole)}
    stride = max(params.stride, tokens + 2) if params.stride else 0
    return params.model_copy(update=changes | {"path_position_stride": stride})


def in_sequence(params: SamplingParams, tokens: int) -> SamplingParams:
    """One ordinary response of at most `tokens` tokens, at the temperature of paths."""
    temperature = params.temperature_of("path")
    changes = {"mode": "sequential", "temperature": temperature, "max_main_tokens": tokens, "max_trace_tokens": tokens}
    return params.model_copy(update=changes)


def sequential_budget(params: SamplingParams, sequential_tokens: int | None = None, paths: int = 1) -> int:
    """Tokens of a sequential response that may be as long as `paths` paths, a summary and main text.

    `sequential_tokens` is given for one path, or None.
    """
    once = params.max_path_tokens + params.max_summary_tokens + params.max_main_tokens
    return (sequential_tokens or once) + (paths - 1) * params.max_path_tokens
