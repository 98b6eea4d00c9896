"""Flex attention on a CPU, where torch has a backward of it and refuses it: in compiled layers that are only traced."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch.nn.attention import flex_attention

from polythink.models import blocks, compiled, logprobs
from polythink.models.forward import heeds_masks

ALLOWED = (
    (compiled, "BACKEND", "eager"),
    (flex_attention, "_validate_device", lambda *args: None),
    (blocks, "_why_not", lambda model: "" if heeds_masks(model) else "does not heed masks"),  # found out before
    (logprobs, "check_attention", lambda model, device: None),
)


def allow_flex() -> None:
    """For the rest of this process."""
    for where, name, value in ALLOWED:
        patch.object(where, name, value).start()


@pytest.fixture
def flex_on_cpu(monkeypatch):
    """Compiled layers, flex attention among them, are traced and run as they are."""
    torch._dynamo.reset()
    for where, name, value in ALLOWED:
        monkeypatch.setattr(where, name, value)
    yield
    torch._dynamo.reset()
