"""What the tests of commands share: a command in this process, and the shape and recipe of their tiny models."""

from __future__ import annotations

from typing import Any

from typer import Typer
from typer.testing import CliRunner

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48,
}  # fmt: skip
HEAD = """
name: small
prompt: countdown_parallel
decoding: {paths: 2, max_main_tokens: 16, max_path_tokens: 8, max_summary_tokens: 4, max_trace_tokens: 60}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, head_dim: 16, intermediate_size: 64}
stages:
"""  # of a recipe whose stages follow


def invoke(app: Typer, *arguments: object, **options) -> Any:
    """The result of a command; a `UserError` passes through, for `main` to print."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result
