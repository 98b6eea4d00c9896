"""Fixtures of the training tests."""

from helpers.charts import sketched  # noqa: F401
from helpers.training import lm, mini  # noqa: F401
