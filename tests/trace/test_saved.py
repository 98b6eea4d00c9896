"""A rollout as JSON and back: everything but the prompt, unknown log-probabilities, and rows of earlier versions."""

from __future__ import annotations

import json
import math

from polythink.trace.rollout import Rollout, Segment
from polythink.trace.saved import from_json, to_json

ROLLOUT = Rollout(
    "p",
    3,
    "reread",
    (7, 8),
    [
        Segment("main", -1, 0, [1, 2], [True, False], [-0.25, 0.0], 0.7, "fork", text="a b"),
        Segment("path", 0, 1, [3], [True], [math.nan], finish_reason="tag", label=4, misplaced_tags=1, bounded=True),
    ],
    stop="length",
    weight_version="12",
)


def test_it_is_the_same_afterwards():
    found = from_json(json.loads(json.dumps(to_json(ROLLOUT, logprobs=True), allow_nan=False)), (7, 8))
    assert math.isnan(found.segments[1].logprobs[0])
    found.segments[1].logprobs = ROLLOUT.segments[1].logprobs
    assert found == ROLLOUT


def test_log_probabilities_may_be_left_out():
    found = from_json(to_json(ROLLOUT, logprobs=False), (7, 8))
    assert [segment.logprobs for segment in found.segments] == [[], []]
    assert [segment.tokens for segment in found.segments] == [[1, 2], [3]]


def test_a_row_of_an_earlier_version_is_read():
    saved = to_json(ROLLOUT, logprobs=True)
    del saved["weight_version"], saved["segments"][1]["bounded"]
    found = from_json(saved, (7, 8))
    assert (found.weight_version, found.segments[1].bounded) == ("", False)
