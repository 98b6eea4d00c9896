"""The device of the tests of models and engine: POLYTHINK_TEST_DEVICE, the CPU where it is not set."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from polythink.models import batch
from polythink.trace.layout import Layout

DEVICE = torch.device(os.environ.get("POLYTHINK_TEST_DEVICE", "cpu"))
FAST = "graphed" if DEVICE.type == "cuda" else "lean"  # what an engine takes for a model of the Llama family
OTHER = "captured" if DEVICE.type == "cuda" else "flat"  # and for one of another family


def collate(layouts: Sequence[Layout], pad_id: int = 0) -> batch.Batch:
    return batch.collate(layouts, pad_id).to(DEVICE)


def tensor(values, **how) -> torch.Tensor:
    return torch.tensor(values, device=DEVICE, **how)
