"""The families of word problems by number of steps: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks import (
    story_one_groups,
    story_one_sums,
    story_three_groups,
    story_three_sums,
    story_two_groups,
    story_two_sums,
)
from polythink.problems.tasks.story_words import Family

LEVELS: dict[str, tuple[Family, ...]] = {
    "one": (*story_one_sums.SUMS, *story_one_groups.GROUPS),
    "two": (*story_two_sums.SUMS, *story_two_groups.GROUPS),
    "three": (*story_three_sums.SUMS, *story_three_groups.GROUPS),
}
