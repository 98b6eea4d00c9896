"""A loop trains the caller's own model: after an error or Ctrl-C that is an ordinary model again, which can be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polythink.models.lm import LanguageModel
from polythink.train.adapters import drop_adapters
from polythink.train.optimiser import freezing


@contextmanager
def left_usable(lm: LanguageModel) -> Iterator[None]:
    """While it is entered a loop may freeze the model and put adapters into it; an error takes all of that back.

    What was trained of its own weights stays. What adapters have learnt goes: the checkpoint holds it. A gradient that
    is half summed goes too: the next training would add its own to it.
    """
    with freezing(lm.model):
        try:
            yield
        except BaseException:
            drop_adapters(lm.model)
            lm.model.zero_grad(set_to_none=True)
            lm.model.eval()
            raise
