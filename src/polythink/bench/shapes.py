"""Shapes of models that are made at random for a benchmark. Without torch."""

from __future__ import annotations

from polythink.errors import UserError

# Qwen3; `vocabulary` counts the tags too. The sizes of 0.6b and 4b are those of Qwen3-0.6B and Qwen3-4B.
SHAPES: dict[str, dict] = {
    "tiny": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 192, "vocabulary": 512,
    },
    "29m": {
        "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
        "intermediate_size": 1536, "vocabulary": 8192,
    },
    "0.6b": {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 3072, "vocabulary": 151936,
    },
    "4b": {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 9728, "vocabulary": 151936,
    },
}  # fmt: skip
CONTEXT = 40960
DTYPES = ("float32", "bfloat16")


def check_dtype(dtype: str | None) -> None:
    if dtype not in (None, *DTYPES):
        raise UserError(f"no dtype {dtype!r}; use one of {', '.join(DTYPES)}")
