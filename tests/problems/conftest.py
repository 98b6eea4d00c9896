"""A grader with time to think."""

from helpers.charts import sketched  # noqa: F401
from helpers.grading import grader  # noqa: F401
