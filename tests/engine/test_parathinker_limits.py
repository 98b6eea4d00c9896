"""ParaThinker on the engine: what is refused before sampling, and how paths share the context."""

from __future__ import annotations

import pytest

from helpers.scribe import scribe
from helpers.sweep import sweep
from helpers.tiny import drawn, requests, thinker, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError
from polythink.models.lm import with_settings

BUDGETS = {"max_main_tokens": 6, "max_path_tokens": 9, "max_summary_tokens": 6, "max_trace_tokens": 250}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paths": 17}, "17 paths are more than the 16 numbers"),
        ({"paths": 17, "fork_at": 3}, "17 paths are more than the 16 numbers"),  # not when the block opens
        ({"paths": 17, "fork_at": 3, "max_blocks": 0}, None),
        ({"paths": 8, "max_trace_tokens": 25}, "max_trace_tokens 25 .* leave no room for 8 paths"),
        ({"paths": 16, "max_trace_tokens": 4000, "max_path_tokens": 4000}, None),
        ({"paths": 2, "max_blocks": 0}, "max_blocks is 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_drawing(changes, words):
    lm, events = thinker(), []
    decoding = SamplingParams(**{**BUDGETS, **changes})
    if words is None:
        assert Engine(lm).generate(requests(lm, 1), decoding)
        return
    with pytest.raises(UserError, match=words):
        Engine(lm).generate(requests(lm, 1), decoding, on_event=events.append)
    assert not events
    with pytest.raises(UserError):
        reference_generate(lm, requests(lm, 1), decoding)


@pytest.mark.filterwarnings("ignore:.*decodes slowly here")
@pytest.mark.parametrize("architecture", ["vanilla", "eit", "partialformer"])
def test_a_model_whose_queries_cannot_be_scaled_is_refused_before_drawing(architecture):
    lm = thinker(architecture=architecture, thought_embeddings=None)
    engine = Engine(with_settings(lm, trained_paths=2))
    events = []
    with pytest.raises(UserError, match=r"cannot take .*; or set length_scaling_above: 0, and the join of 3 paths"):
        engine.generate(requests(lm, 1), SamplingParams(paths=3, **BUDGETS), on_event=events.append)
    assert not events
    for changes in ({"paths": 2}, {"paths": 3, "length_scaling_above": 0}, {"paths": 3, "mode": "sequential"}):
        engine.generate(requests(lm, 1), SamplingParams(**changes, **BUDGETS))


def test_a_context_without_room_for_the_summary_is_refused():
    lm = thinker(max_position_embeddings=17)
    with pytest.raises(UserError, match="context of 17 positions, 12 of them the prompt's"):
        Engine(lm).generate([requests(lm, 3)[2]], SamplingParams(paths=10, **BUDGETS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "changes"),
    sweep(
        [
            (context, changes)
            for changes in ({"paths": 16}, {"paths": 4, "path_position_stride": "auto"}, {"paths": 3, "fork_at": 2})
            for context in (26, 30, 40)
        ],
        [
            (26, {"paths": 16}),
            (26, {"paths": 4, "path_position_stride": "auto"}),
            (40, {"paths": 4, "path_position_stride": "auto"}),
            (30, {"paths": 3, "fork_at": 2}),
        ],
    ),
)
def test_paths_share_the_positions_of_the_context(context, changes):
    """Together they may have more tokens than it has positions, and no position lies beyond it."""
    lm = thinker(seed=3, max_position_embeddings=context)
    wanted = [Request(r.prompt[:3], r.problem, r.sample) for r in requests(lm, 4)]
    longest = 5 if "path_position_stride" in changes else 30
    decoding = SamplingParams(**{**BUDGETS, "max_path_tokens": longest, **changes})
    try:
        fast = Engine(lm, max_num_seqs=4).generate(wanted, decoding, seed=5)
    except UserError:
        assert "path_position_stride" in changes  # four stretches of seven positions each
        with pytest.raises(UserError):
            reference_generate(lm, wanted, decoding, seed=5)
        return
    slow = reference_generate(lm, wanted, decoding, seed=5)
    assert [drawn(r) for r in fast] == [drawn(r) for r in slow]
    assert max(r.layout().position.max() for r in fast) < context
    if changes == {"paths": 16}:
        assert min(r.tokens for r in fast) > context


CLOSED = """
name: closed
block:
  - tag: <Fork>
  - paths: [<Try>, </Try>]
  - tag: </Fork>
    by: runtime
  - summary: [<Join>, </Join>]
  - tag: <Done>
    by: runtime
  - tag: <End>
    by: runtime
"""


@pytest.mark.parametrize("mode", ["structured", "reread"])
def test_a_summary_leaves_positions_for_the_tags_after_it(tmp_path, mode):
    (tmp_path / "closed.yaml").write_text(CLOSED)
    lm = scribe(str(tmp_path / "closed.yaml"), opens=1.5, num_hidden_layers=1, max_position_embeddings=32)
    wanted = [Request(tuple(lm.encode("a b c a b"[: 1 + 2 * (i % 5)])), f"p{i}") for i in range(10)]
    decoding = SamplingParams(mode=mode, paths=2, max_path_tokens=9, max_trace_tokens=90)
    rollouts = Engine(lm, max_num_seqs=4).generate(wanted, decoding, seed=1)
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in reference_generate(lm, wanted, decoding, seed=1)]
    assert max(r.layout().position.max() for r in rollouts) == 31
    cut = [r.layout().position.max() for r in rollouts for s in r.segments[-2:]
           if s.kind == "summary" and s.finish_reason == "context"]  # fmt: skip
    assert cut
    assert set(cut) == {31}


def test_a_block_whose_forced_beginnings_do_not_fit_any_more_ends_the_trace():
    """The model opens the block when so few tokens are left that a path would begin with more than its share."""
    lm = tiny(seed=2)
    (prompt, *_) = [r.prompt for r in requests(lm, 1)]
    wanted = [Request(prompt, f"p{i}", path_prefixes=((7,) * 6,)) for i in range(8)]
    params = SamplingParams(paths=2, fork_at=8, max_trace_tokens=30, max_path_tokens=9, max_summary_tokens=4)
    rollouts = Engine(lm, max_num_seqs=3).generate(wanted, params, seed=1)
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=1)]
    assert any(r.finish_reason == "trace_length" and len(r.segments) == 1 for r in rollouts)
    first = [s for r in rollouts for s in r.segments if s.kind == "path" and s.path == 1 and s.block == 0]
    assert all(s.tokens[1:7] == [7] * 6 and s.sampled[7] for s in first)
