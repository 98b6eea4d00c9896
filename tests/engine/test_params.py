"""Sampling parameters: described, light, and refused where they contradict each other."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from polythink.engine.params import SamplingParams


def test_every_key_has_a_description_of_one_line():
    for name, field in SamplingParams.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name


def test_parameters_and_protocol_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import polythink.engine.params, polythink.engine.protocol"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_paths_that_would_overlap_are_refused():
    with pytest.raises(ValidationError, match=r"path_position_stride=5 lets paths of 9 tokens .* at least 11"):
        SamplingParams(max_path_tokens=9, path_position_stride=5)
    assert SamplingParams(max_path_tokens=9, path_position_stride="auto").stride == 11
    assert SamplingParams(max_path_tokens=9, path_position_stride="auto", mode="sequential").stride == 0


def test_the_temperature_of_paths():
    assert SamplingParams(temperature=0).temperature_of("path") == 1.0  # isolated greedy paths would be copies
    assert SamplingParams(temperature=0, paths=1).temperature_of("path") == 0
    assert SamplingParams(temperature=0, path_temperature=0.5).temperature_of("path") == 0.5
    assert SamplingParams(temperature=0.3, path_temperature=0.5).temperature_of("summary") == 0.3
    assert SamplingParams(temperature=0, path_temperature=0.5, mode="sequential").temperature_of("path") == 0
