"""One tiny model for all tests of a file."""

from __future__ import annotations

import pytest

from helpers.flex import flex_on_cpu  # noqa: F401
from helpers.layouts import sharp_model


@pytest.fixture(scope="module")
def model():
    return sharp_model()
