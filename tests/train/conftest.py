"""Fixtures of the training tests."""

from __future__ import annotations

import pytest
from training import make_lm

from polythink.models.lm import LanguageModel
from polythink.problems.tasks.countdown import problems


@pytest.fixture
def lm() -> LanguageModel:
    return make_lm()


@pytest.fixture(scope="session")
def mini():
    """All training problems of two numbers."""
    return problems("mini", "train")
