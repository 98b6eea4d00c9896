"""Run folders as a run would leave them."""

from helpers.run_folders import arm_folders, as_rollout, run_folder  # noqa: F401
