"""Rollouts: their pieces, their layouts, and the length of their critical path."""

from __future__ import annotations

from dataclasses import replace

from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.layout import lay_out
from polythink.trace.parse import parse
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.tokens import pieces_of

TEXT = "ab<Parallel><Path>c</Path><Path>long</Path></Parallel><Summary>s</Summary>end"
PROMPT = (112, 113, 114)


def encode(text: str) -> list[int]:
    """One number per character, one per tag."""
    for i, tag in enumerate(PARALLEL_R1.tags):
        text = text.replace(tag, chr(1000 + i))
    return [ord(c) for c in text]


PIECES = pieces_of(PROMPT, parse(TEXT), PARALLEL_R1, encode, "structured")


def drawn(**changes) -> Rollout:
    segments = [
        Segment(p.kind, p.block, p.path, list(p.tokens), list(p.sampled), [0.0] * len(p.tokens)) for p in PIECES[1:]
    ]
    return Rollout("problem", 0, "structured", PROMPT, segments, **changes)


def test_a_rollout_has_the_pieces_and_the_layout_of_its_text():
    rollout = drawn()
    rollout.segments.append(
        Segment("main", -1, 0, finish_reason="trace_length")
    )  # cut before its first token: no piece
    assert rollout.pieces() == PIECES
    assert rollout.layout().position.tolist() == lay_out(PIECES, "structured").position.tolist()
    assert rollout.layout("sequential").position[-1] + 1 == len(PROMPT) + rollout.tokens
    assert (rollout.finish_reason, rollout.truncated) == ("trace_length", 1)


def test_the_critical_path_counts_the_steps_of_the_response():
    main, longest, summary, rest = 3, 6, 5, 3  # a tag is one token, and so is the gap before <Summary>
    assert drawn().critical_path == main + longest + summary + rest
    assert drawn().critical_path == drawn().layout().position.max() + 1 - len(PROMPT)
    assert replace(drawn(), mode="sequential").critical_path == drawn().tokens
    assert Rollout("problem", 0, "structured", PROMPT, []).critical_path == 0


def test_the_critical_path_counts_steps_and_not_positions():
    apart = drawn(path_position_stride=100)
    assert apart.layout().position.max() > 100
    assert apart.critical_path == drawn().critical_path


def test_a_layout_is_kept_until_the_rollout_grows():
    rollout = drawn()
    known = rollout.layout()
    assert rollout.layout() is known
    assert rollout.layout("sequential") is not known
    rollout.segments[-1].tokens.append(1)
    rollout.segments[-1].sampled.append(True)
    assert len(rollout.layout()) == len(known) + 1
    assert replace(rollout, segments=rollout.segments[:1]).layout().tokens.tolist() == [*PROMPT, 97, 98, 1000]
