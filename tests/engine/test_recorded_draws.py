"""The draws of earlier versions: same model, seed and request, same tokens. They change only on purpose."""

from __future__ import annotations

import pytest

from helpers.tiny import requests, thinker, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams

BUDGETS = {"max_main_tokens": 8, "max_path_tokens": 6, "max_summary_tokens": 4, "max_trace_tokens": 48}
# (model, parameters, request, its segments: kind, tokens), as they were drawn when each was written down
RECORDED = [
    (
        tiny,
        {"mode": "structured", "paths": 2, "max_blocks": 2},
        3,
        "main: 0 6 | path: 8 2 8 2 11 11 6 9 | path: 8 1 9 | summary: 7 10 5 2 9 4 11 | main: 10 0 2 3 1",
    ),
    (
        tiny,
        {"mode": "structured", "paths": 2, "max_blocks": 2},
        9,
        "main: 6 | path: 8 2 10 0 2 0 2 9 | path: 8 11 8 10 8 5 3 9 | summary: 7 10 5 5 7 4 11 | main: 6 | pa"
        "th: 8 6 0 2 2 4 5 9 | path: 8 6 6 5 4 8 10 9 | summary: 7 10 6 6 10 1 11 | main: ",
    ),
    (
        tiny,
        {"mode": "structured", "paths": 3, "join_when": "first", "temperature": 0.9},
        3,
        "main: 0 6 | path: 8 2 8 2 9 | path: 8 2 10 0 9 | path: 8 5 2 9 | summary: 7 10 10 0 2 3 11 | main: 6"
        " | path: 8 10 11 9 | path: 8 7 9 | path: 8 2 2 9 | summary: 7 10 10 3 4 4 11 | main: 5 3 7 9 7 8",
    ),
    (
        tiny,
        {"mode": "structured", "paths": 3, "join_when": "first", "temperature": 0.9},
        14,
        "main: 5 6 | path: 8 7 9 | path: 8 9 | path: 8 1 9 | summary: 7 10 2 5 6 8 11 | main: 10 6 | path: 8 "
        "11 9 | path: 8 9 | path: 8 8 9 | summary: 7 10 0 11 | main: 8 4 4 0 4 1",
    ),
    (tiny, {"mode": "sequential"}, 0, "main: 0 3 0 1"),
    (tiny, {"mode": "sequential"}, 1, "main: 9 11 1"),
    (
        thinker,
        {"mode": "structured", "paths": 3, "labels": "random"},
        0,
        "path 15: 34 0 2 0 35 | path 14: 32 33 | path 10: 24 5 2 24 25 | summary: 38 39 | main: 2 0 1",
    ),
    (
        thinker,
        {"mode": "structured", "paths": 3, "labels": "random"},
        1,
        "path 15: 34 35 | path 9: 22 0 23 | path 7: 18 19 | summary: 38 39 | main: 5 4 5 1",
    ),
    (
        thinker,
        {"mode": "sequential"},
        8,
        "main:  | path 5: 14 2 39 0 7 2 9 15 4 9 3 | path 3: 10 4 5 7 4 2 9 11 4 9 9 | path 3: 10 9 5 2 0 7 9 11 3 1",
    ),
]


@pytest.mark.parametrize(("model", "params", "number", "recorded"), RECORDED)
def test_draws_are_those_that_were_recorded(model, params, number, recorded):
    lm = model(seed=3 if model is thinker else 2)
    rollouts = Engine(lm, max_num_seqs=4).generate(requests(lm, 24), SamplingParams(**{**BUDGETS, **params}), seed=11)
    shown = (
        f"{s.kind}{f' {s.label}' * bool(s.label)}: {' '.join(map(str, s.tokens))}" for s in rollouts[number].segments
    )
    assert " | ".join(shown) == recorded
