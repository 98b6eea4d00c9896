"""The settings of the text wing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polythink.errors import UserError
from polythink.pipeline.text import TextStageConfig
from polythink.run.config import parse_config

BY_EXAMPLES, BY_TOKENS = {"batch": 64}, {"batch_tokens": 4096}


def stage(**given) -> TextStageConfig:
    return parse_config(TextStageConfig, {"kind": "text", "data": "copy:train", "steps": 2} | given, "train")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (BY_EXAMPLES | {"accumulate": 4}, r"accumulate: 4 counts forwards .* batch: 64 .* set batch: 256 for larger"),
        (BY_TOKENS | {"micro_batch": 8}, r"micro_batch: 8 divides a batch .* batch_tokens: 4096 .* leave micro_batch"),
        (BY_EXAMPLES | {"block": 32, "max_tokens": 99}, r"max_tokens: 99 drops long pairs.* blocks of 32 tokens"),
        (BY_EXAMPLES | {"average_every": 5}, r"average_every: 5 spaces .* average: 1 .* set average to 2 or more"),
        (BY_EXAMPLES | {"valid_limit": 9}, r"valid_limit: 9 is about the validation loss.*; set valid, or leave"),
        (BY_EXAMPLES | {"validate_every": 9}, r"validate_every: 9 is about the validation loss.*; set valid, or"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        stage(**given)


@pytest.mark.parametrize(
    "given",
    [
        BY_EXAMPLES | {"micro_batch": 8, "max_tokens": 99},
        BY_TOKENS | {"accumulate": 4, "average": 2, "average_every": 5},
        BY_EXAMPLES | {"block": 32, "valid": "copy:valid", "valid_limit": 9, "validate_every": 9},
        BY_EXAMPLES | {"valid": None, "valid_limit": 9},  # switched off in a recipe that extends another
    ],
)
def test_a_key_that_does_something_is_taken(given):
    """Also from the recipe in a run's folder, in which every key has its value."""
    taken = stage(**given)
    assert stage(**taken.model_dump()) == taken


def test_settings_and_sets_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import polythink.text.config, polythink.text.data.sets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
