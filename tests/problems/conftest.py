"""A grader with time to think."""

from helpers.grading import grader  # noqa: F401
