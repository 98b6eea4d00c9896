"""Fork/join decoding."""

from polythink.engine.engine import Engine
from polythink.engine.params import Event, Request, SamplingParams
from polythink.engine.reference import reference_generate

__all__ = ["Engine", "Event", "Request", "SamplingParams", "reference_generate"]
