"""Several end tokens: each of them ends a trace, in every way of drawing, and is an action like any other token."""

from __future__ import annotations

import pytest

from helpers.sweep import sweep
from helpers.tiny import drawn, gaps, lean_towards, requests, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.reference import reference_generate
from polythink.models.lm import with_settings

PARAMS = {"max_blocks": 2, "max_main_tokens": 16, "max_path_tokens": 9, "max_summary_tokens": 6}


def two_ends(other: str, mode: str):
    """A model that also ends its responses with `other`, one of its words."""
    lm = lean_towards(tiny(seed=3), {"<Parallel>": 1.0, "</Path>": 1.0} if mode == "structured" else {})
    lm.model.generation_config.eos_token_id = [lm.eos, lm.tokenizer.convert_tokens_to_ids(other)]
    return with_settings(lm)


@pytest.mark.parametrize(
    ("mode", "other"),
    sweep(
        [(mode, other) for mode in ("structured", "sequential") for other in ("<|pad|>", "b")],
        [("structured", "b"), ("sequential", "<|pad|>")],
    ),
)
def test_every_end_token_ends_a_trace_in_all_backends(mode, other):
    lm, params = two_ends(other, mode), SamplingParams(mode=mode, **PARAMS)
    ends = set(lm.ends)
    assert len(ends) == 2
    wanted = requests(lm, 12)
    flat = Engine(lm, max_num_seqs=5).generate(wanted, params, seed=1)
    padded = Engine(lm, max_num_seqs=5, backend="padded").generate(wanted, params, seed=1)
    slow = reference_generate(lm, wanted, params, seed=1)
    assert [drawn(r) for r in flat] == [drawn(r) for r in padded] == [drawn(r) for r in slow]
    last = [r.segments[-1].tokens[-1] for r in flat if r.finish_reason == "eos"]
    assert set(last) == ends
    for rollout in flat:
        for segment in rollout.segments:  # an end token is the last that is drawn in its segment
            drawn_ones = [t for t, own in zip(segment.tokens, segment.sampled, strict=True) if own]
            assert not ends & set(drawn_ones[:-1])
        assert all(segment.sampled[-1] for segment in rollout.segments if segment.tokens[-1] in ends)
    assert max(gaps(lm, flat)) < 1e-4
