"""Fixtures of the training tests."""

from helpers.flex import flex_on_cpu  # noqa: F401
from helpers.training import lm, mini  # noqa: F401
