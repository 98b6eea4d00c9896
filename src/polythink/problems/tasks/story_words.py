"""The families of word problems that `stories` tells: their numbers, their tellings, and two ways to work each out.

In a telling and in a way, words in braces are drawn for each problem: `{A}`, `{B}`, `{C}` are people, `{he}`, `{his}`,
`{him}` the first of them, `{thing}` and `{things}` what is counted, `{box}` and `{boxes}` what it is kept in. Other
braces hold numbers of the problem or sums of them: `{a}`, `{a-b}`. Brackets hold one step of arithmetic, which is
written out: `[a*b]` becomes `6 * 4 = 24`, and `[(a*b)-c]` becomes `24 - 5 = 19`. A word after `|` is what the answer
counts, `{unit}` in the ways; without one it is `{things}`.

The last telling of every family is held out. The two ways are different orders of computing, each whole in itself.
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
    ways: tuple[str, str]
    where: str = "1"
    derived: Mapping[str, str] = field(default_factory=dict)  # further numbers, from those that are drawn


GIRLS = ("Anna", "Maria", "Emma", "Sarah", "Lily", "Nina", "Julia", "Grace", "Ella", "Sofia", "Lucy", "Kate")
BOYS = ("Tom", "Ben", "Jack", "Leo", "Adam", "Max", "Paul", "Sam", "Daniel", "Peter", "David", "Luke")
HELDOUT_GIRLS = ("Olivia", "Hannah", "Priya", "Rosa", "Mia", "Zoe")
HELDOUT_BOYS = ("Noah", "Omar", "Victor", "Felix", "Ivan", "Hugo")

THINGS = (
    "marble marbles", "sticker stickers", "shell shells", "bead beads", "stamp stamps", "button buttons",
    "card cards", "pencil pencils", "crayon crayons", "balloon balloons", "apple apples", "cookie cookies",
    "plum plums", "walnut walnuts", "lemon lemons", "muffin muffins",
)  # fmt: skip
BOXES = ("box boxes", "bag bags", "basket baskets")

ONE = (
    Family(
        "more", {"a": (12, 68), "b": (11, 39)}, "a+b", where="b%10",
        tellings=(
            "{A} has {a} {things}. {B} gives {him} {b} more. How many {things} does {A} have now?",
            "{A} collected {a} {things} on Saturday and {b} {things} on Sunday. How many {things} did {A} collect in "
            "all?",
            "There are {a} {things} on the table. {A} puts {b} more {things} next to them. How many {things} are on "
            "the table now?",
            "Before {his} birthday {A} owned {a} {things}. As presents {he} got {b} {things}. How many {things} does "
            "{he} own after {his} birthday?",
        ),
        ways=(
            "Add the two numbers: [a+b].",
            "Add the tens first, [a+(b-b%10)], and then the ones, [(a+b-b%10)+(b%10)].",
        ),
    ),
    Family(
        "less", {"a": (35, 95), "b": (11, 29)}, "a-b", where="b%10",
        tellings=(
            "{A} has {a} {things} and gives {b} of them to {B}. How many {things} does {A} have left?",
            "A shop had {a} {things} in the morning and sold {b} of them during the day. How many {things} were left "
            "in the evening?",
            "There were {a} {things} in a {box}. {A} took {b} of them out. How many {things} are still in the {box}?",
            "{A} brought {a} {things} to school and handed out {b} of them. How many {things} did {he} take back home?",
        ),
        ways=(
            "Take {b} from {a}: [a-b].",
            "Take away the tens first, [a-(b-b%10)], and then the ones, [(a-(b-b%10))-(b%10)].",
        ),
    ),
    Family(
        "groups", {"a": (3, 9), "b": (4, 12)}, "a*b",
        tellings=(
            "{A} has {a} {boxes} with {b} {things} in each of them. How many {things} does {A} have?",
            "A shop sells {things} in {boxes} of {b}. {A} buys {a} {boxes}. How many {things} does {A} get?",
            "Every day {A} collects {b} {things}. How many {things} does {he} collect in {a} days?",
            "{a} children come to a party, and each of them brings {b} {things}. How many {things} do they bring "
            "together?",
        ),
        ways=(
            "There are {a} groups of {b}: [a*b].",
            "Count all but one first, [(a-1)*b], and then the last {b}: [((a-1)*b)+b].",
        ),
    ),
    Family(
        "shares", {"n": (2, 9), "q": (3, 12)}, "q", derived={"t": "n*q"},
        tellings=(
            "{A} shares {t} {things} equally among {n} friends. How many {things} does each friend get?",
            "{t} {things} are packed into {n} {boxes}, the same number into each. How many {things} are in one {box}?",
            "A teacher hands out {t} {things} to {n} groups of children, and every group gets equally many. How many "
            "{things} does each group get?",
            "{A} sorts {t} {things} into {n} equal piles. How many {things} are in every pile?",
        ),
        ways=(
            "Divide {t} by {n}: [t/n].",
            "Which number taken {n} times gives {t}? [n*q], so it is {q}.",
        ),
    ),
    Family(
        "difference", {"a": (25, 85), "b": (8, 60)}, "a-b", where="a-b>4",
        tellings=(
            "{A} has {a} {things} and {B} has {b} {things}. How many more {things} does {A} have than {B}?",
            "{A} read {a} pages today and {b} pages yesterday. How many more pages did {he} read today than yesterday?"
            " | pages",
            "A red {box} holds {a} {things}, and a blue {box} holds {b} {things}. How many fewer {things} are in the "
            "blue {box}?",
            "In a game {A} scored {a} points and {B} scored {b} points. By how many points did {A} win? | points",
        ),
        ways=(
            "The difference is [a-b].",
            "Count up from {b} to {a}: [b+(a-b)], so the difference is {a-b}.",
        ),
    ),
    Family(
        "times", {"a": (4, 15), "k": (3, 6)}, "a*k",
        tellings=(
            "{A} has {a} {things}. {B} has {k} times as many. How many {things} does {B} have?",
            "A book costs {a} dollars, and a school bag costs {k} times as much. How many dollars does the school bag "
            "cost? | dollars",
            "A small {box} holds {a} {things}. A large {box} holds {k} times as many. How many {things} fit into the "
            "large {box}?",
            "Last month {A} ran {a} miles. This month {he} ran {k} times as far. How many miles did {he} run this "
            "month? | miles",
        ),
        ways=(
            "{k} times {a} is [k*a].",
            "{k-1} times {a} is [(k-1)*a], and once more makes [((k-1)*a)+a].",
        ),
    ),
    Family(
        "price", {"p": (3, 15), "n": (3, 9)}, "n*p",
        tellings=(
            "One {thing} costs {p} dollars. How many dollars do {n} {things} cost? | dollars",
            "{A} earns {p} dollars an hour. How many dollars does {he} earn in {n} hours? | dollars",
            "Tickets for the zoo cost {p} dollars each. How many dollars does {A} pay for {n} tickets? | dollars",
            "{A} saves {p} dollars every week. How many dollars does {he} save in {n} weeks? | dollars",
        ),
        ways=(
            "{n} times {p} dollars is [n*p] dollars.",
            "For all but one it is [(n-1)*p] dollars, and with the last one [((n-1)*p)+p] dollars.",
        ),
    ),
    Family(
        "change", {"t": (40, 99), "c": (11, 35)}, "t-c", where="c%10",
        tellings=(
            "{A} has {t} dollars and buys a game for {c} dollars. How many dollars does {he} have left? | dollars",
            "A coat costs {t} dollars. With a coupon {A} pays {c} dollars less. How many dollars does {A} pay for the "
            "coat? | dollars",
            "{A} wants to save {t} dollars and has saved {c} dollars so far. How many dollars are still missing? "
            "| dollars",
            "A train ride is {t} miles long. After {c} miles {A} falls asleep. How many miles of the ride are left? "
            "| miles",
        ),
        ways=(
            "What is left is [t-c] {unit}.",
            "In two steps: [t-(c-c%10)], and then [(t-(c-c%10))-(c%10)] {unit}.",
        ),
    ),
)  # fmt: skip
