"""Fork/join decoding."""

from polythink.engine.params import Decoding, Event, Request
from polythink.engine.engine import Engine
from polythink.engine.reference import reference_generate

__all__ = ["Decoding", "Engine", "Event", "Request", "reference_generate"]
