"""Reward terms on blocks with plans, against numbers counted by hand."""

from __future__ import annotations

import pytest

from helpers.productions import PUBLISHED
from polythink.rewards.terms import RewardInput, _blocks, efficiency
from polythink.trace.dialect import get_dialect
from polythink.trace.rollout import Rollout, Segment

TEXTS = {
    "multiverse": "<Parallel><Goal>g h<Outline>o p</Outline><Outline>q</Outline></Goal><Path>a b c</Path><Path>d</Path>"
    "<Conclusion>s t</Conclusion></Parallel>",
    "npr": "<guideline>g h<plan>o p</plan><plan>q</plan></guideline><step>a b c</step><step>d</step>"
    "<takeaway>s t</takeaway>",
    "threadweaver": "<Parallel><Outlines>g h<Outline>o p</Outline><Outline>q</Outline></Outlines>"
    "<Thread>a b c</Thread><Thread>d</Thread></Parallel>s t",
}


@pytest.mark.parametrize("name", TEXTS)
def test_only_the_shorter_path_is_saved(name: str):
    text = f"x y {TEXTS[name]} z"
    rollout = Rollout("p", 0, "structured", (), [Segment("main", -1, 0, [1], [True], [0.0], text=text)])
    given = RewardInput(rollout, True, dialect=get_dialect(name))
    assert [paths for paths, _ in _blocks(given)] == [["a b c", "d"]]
    assert efficiency(given) == pytest.approx(1 / (2 + 5 + 4 + 2 + 1))
    assert {dialect.name for dialect in PUBLISHED} >= set(TEXTS)
