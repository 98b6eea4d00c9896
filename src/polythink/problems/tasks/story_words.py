"""What a family of word problems is, and the words that its tellings draw.

A family has numbers, tellings, and two ways to work it out. In a telling and in a way, words in braces are drawn for
each problem:

    {A} {B} {C}              people; {he} {He} {his} {His} {him}: the first of them
    {thing} {things}         what is counted
    {box} {boxes}            what it is kept in
    {color} {hue}            two colors
    {day} {next} {month}     a day of the week, the day after it, a month
    {kin}                    a younger relative

Other braces hold numbers of the problem or sums of them: `{a}`, `{a-b}`. Brackets hold one step of arithmetic, which is
written out: `[a*b]` becomes `6 * 4 = 24`, and `[(a*b)-c]` becomes `24 - 5 = 19`. What stands after `|` is what the
answer counts, `{unit}` in the ways; without it that is `{things}`.

`train` has the tellings of a family, `heldout` others. The two ways are different orders of computing, each whole in
itself, and each in several wordings. A telling of `heldout` that was held out once never moves to `train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """Problems of one structure. Numbers are drawn evenly from their ranges, ends included, until `where` holds."""

    name: str
    numbers: Mapping[str, tuple[int, int]]
    answer: str
    tellings: tuple[str, ...]
    heldout: tuple[str, ...]  # further tellings, which `train` never has
    ways: tuple[tuple[str, ...], tuple[str, ...]]  # wordings of the one way to work it out, and of the other
    where: str = "1"
    derived: Mapping[str, str] = field(default_factory=dict)  # further numbers, from those that are drawn


GIRLS = ("Anna", "Maria", "Emma", "Sarah", "Lily", "Nina", "Julia", "Grace", "Ella", "Sofia", "Lucy", "Kate")
BOYS = ("Tom", "Ben", "Jack", "Leo", "Adam", "Max", "Paul", "Sam", "Daniel", "Peter", "David", "Luke")
HELDOUT_GIRLS = ("Olivia", "Hannah", "Priya", "Rosa", "Mia", "Zoe")
HELDOUT_BOYS = ("Noah", "Omar", "Victor", "Felix", "Ivan", "Hugo")

THINGS = (
    "marble marbles", "sticker stickers", "shell shells", "bead beads", "stamp stamps", "button buttons",
    "card cards", "pencil pencils", "crayon crayons", "balloon balloons", "apple apples", "cookie cookies",
    "plum plums", "walnut walnuts", "lemon lemons", "muffin muffins", "candle candles", "postcard postcards",
    "badge badges", "magnet magnets", "peach peaches", "cherry cherries", "carrot carrots", "ribbon ribbons",
    "spoon spoons", "toy toys", "brush brushes", "berry berries", "eraser erasers", "stone stones",
)  # fmt: skip
BOXES = ("box boxes", "bag bags", "basket baskets", "crate crates", "bucket buckets", "sack sacks", "tin tins")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "purple", "brown")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("March", "April", "May", "June", "July")
KIN = ("sister", "brother", "cousin", "nephew", "niece")
