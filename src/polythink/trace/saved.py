"""A rollout as JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from polythink.trace.rollout import Rollout, Segment

_ROLLOUT = [f.name for f in fields(Rollout) if f.init and f.name not in ("prompt", "segments")]
_SEGMENT = [f.name for f in fields(Segment) if f.name not in ("sampled", "logprobs")]


def to_json(rollout: Rollout, logprobs: bool) -> dict[str, Any]:
    """All of a rollout but its prompt. Log-probabilities that are not known (NaN) become null.

    Without `logprobs` they are left out: evaluations do not read them, and they are most of the bytes.
    """
    segments = [_segment(segment, logprobs) for segment in rollout.segments]
    return {**{name: getattr(rollout, name) for name in _ROLLOUT}, "segments": segments}


def _segment(segment: Segment, logprobs: bool) -> dict[str, Any]:
    found = {name: getattr(segment, name) for name in _SEGMENT}
    found["sampled"] = "".join("01"[x] for x in segment.sampled)
    if logprobs:
        found["logprobs"] = [None if math.isnan(x) else x for x in segment.logprobs]
    return found


def from_json(saved: Mapping[str, Any], prompt: tuple[int, ...]) -> Rollout:
    """The rollout. A field that an earlier version did not write has its default."""
    segments = [_read(segment) for segment in saved["segments"]]
    return Rollout(**{**saved, "prompt": prompt, "segments": segments})


def _read(saved: Mapping[str, Any]) -> Segment:
    found = {**saved, "sampled": [x == "1" for x in saved["sampled"]]}
    if "logprobs" in found:
        found["logprobs"] = [math.nan if x is None else x for x in found["logprobs"]]
    return Segment(**found)
