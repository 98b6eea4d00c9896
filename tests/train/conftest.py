"""Fixtures of the training tests."""

from helpers.training import lm, mini  # noqa: F401
