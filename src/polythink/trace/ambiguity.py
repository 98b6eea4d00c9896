"""What is refused when a dialect is declared: productions that cannot be read, drawn or told apart without doubt."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING

from polythink.errors import UserError
from polythink.trace.elements import ID, MOST_NUMBERS, NAMES, NUMBER, PathTags, Tag

if TYPE_CHECKING:
    from polythink.trace.production import Dialect

CHOICES = {"by": ("model", "runtime"), "counted": ("request", "outlines"), "misplaced_tags": ("keep", "replace")}


def check_production(dialect: Dialect) -> None:
    """`UserError` for a production that a parser or the engine could not follow without doubt."""
    for wrong in (_wrong_order, _wrong_value, _wrong_writer, _wrong_gap, _wrong_numbers, _wrong_tags, _confused,
                  _overlapping, _wrong_rule):  # fmt: skip
        if reason := wrong(dialect):
            raise UserError(f"dialect {dialect.name!r}: {reason}")


def _wrong_order(d: Dialect) -> str:
    order = [NAMES[type(e)] for e in d.block]
    count = Counter(order)
    if count["path"] != 1:
        return f"a block has one element for its paths, and this one has {count['path']}"
    if count["plan"] > 1 or count["summary"] > 1:
        return "a block has at most one plan and one summary"
    before, after = order[: order.index("path")], order[order.index("path") + 1 :]
    if "summary" in before:
        return "its summary comes before its paths; a summary comes after them"
    if "plan" in after:
        return "its plan comes after its paths; a plan comes before them"
    if before not in ([], ["tag"], ["plan"], ["tag", "plan"]):
        return f"before its paths a block has a tag, a plan, or a tag and then a plan, not {', '.join(before)}"
    if not after:
        return "nothing follows its paths: a summary, or a tag that the runtime writes, says that they are joined"
    return ""


def _wrong_value(d: Dialect) -> str:
    for each in (d, *d.block):
        for field, allowed in CHOICES.items():
            if (value := getattr(each, field, allowed[0])) not in allowed:
                return f"{field} is one of {', '.join(allowed)}, not {value!r}"
    return ""


def _wrong_writer(d: Dialect) -> str:
    if any(tag.by != "runtime" for tag in d.joining):
        return "a tag between its paths and its summary (or after the paths, without one) is written by the runtime: "\
               "the paths end at once, and none of them can write it"  # fmt: skip
    if [tag.by for tag in d.closing] != sorted((tag.by for tag in d.closing), reverse=True):
        return "of the tags after its summary, those that the runtime writes come before those that the model writes"
    if d.opening and d.opening.by == "runtime" and d.plan:
        return "the model writes the plan, so it also writes the tag before it"
    if d.declares_paths and not (d.plan and d.plan.item[0]):
        return "its paths are counted by outlines, so it needs a plan with tags for each outline"
    return ""


def _wrong_gap(d: Dialect) -> str:
    for element in d.block:
        if element.gap.strip():
            return f"a gap is white space before a tag, not {element.gap!r}"
    first = d.block[0]
    if isinstance(first, Tag | PathTags) and first.gap:
        return "the element that a block begins with has no gap: white space before a block belongs to the text there"
    return ""


def _wrong_numbers(d: Dialect) -> str:
    p, texts = d.paths, [text for kind, text in d.spellings if not kind.startswith("path")]
    if (NUMBER in p.open) != bool(p.inventory) or (NUMBER in p.close and not p.inventory):
        return f"paths with an inventory of numbers hold {NUMBER} in their opening tag, and only they do"
    if not 0 <= p.inventory <= MOST_NUMBERS:
        return f"an inventory is a number of paths from 0 to {MOST_NUMBERS}, not {p.inventory}"
    if p.least < 1:
        return f"a block has at least one path, not {p.least}"
    if 0 < p.inventory < p.least:
        return f"a block has at least {p.least} paths, more than the {p.inventory} numbers of its inventory"
    if any(NUMBER in text for text in texts):
        return f"only the tags of paths hold {NUMBER}"
    for text in (p.open, p.close):
        if text.count(NUMBER) > 1 or text.startswith(NUMBER) or text.endswith(NUMBER):
            return f"the tag {text!r} holds {NUMBER} twice or at an end; write it once, between other characters"
    return ""


def _wrong_tags(d: Dialect) -> str:
    if d.plan and bool(d.plan.item[0]) != bool(d.plan.item[1]):
        return "an outline has an opening and a closing tag, or none at all"
    for _, text in d.spellings:
        if not text or text != text.strip() or re.search(r"\s{2}|[^\S ]", text):
            return (
                f"the tag {text!r} is empty, or has white space that is not one space between words; a tag is one "
                "token, such as <Path>"
            )
    return ""


def _confused(d: Dialect) -> str:
    """Tags that cannot be told apart. Elements may share a closing tag: it closes whichever is open."""
    for (kind, text), (other, same) in combinations(d.spellings, 2):
        shared = all(k.endswith("_close") and not k.startswith("block") for k in (kind, other))
        if text == same and not shared:
            return f"two of its elements cannot be told apart: both have the tag {text}"
        if text != same and (_numbered(text).fullmatch(same) or _numbered(same).fullmatch(text)):
            return f"two of its tags cannot be told apart: {text} and {same}"
    return ""


def _numbered(tag: str) -> re.Pattern[str]:
    return re.compile(re.escape(tag).replace(re.escape(NUMBER), "[0-9]+"))


def _overlapping(d: Dialect) -> str:
    """Tags of which one stands in another, or begins as another (or itself) ends: text and a tag may spell another tag.

    Numbers, whether literal or not, count as one sign each.
    """
    plain = {text: re.sub(rf"[0-9]+|{re.escape(NUMBER)}", "0", text) for _, text in d.spellings}
    for (text, one), (other, two) in product(plain.items(), repeat=2):
        if one != two and one in two:
            return f"the tag {text} is a part of the tag {other}, so they cannot be told apart in every text"
        if end := next((one[-n:] for n in range(1, min(len(one), len(two))) if one[-n:] == two[:n]), ""):
            return f"the tag {other} begins with {end!r}, as {text} ends, so they cannot be told apart in every text"
    return ""


def _wrong_rule(d: Dialect) -> str:
    if d.nests and d.misplaced_tags == "replace":
        return "misplaced tags are replaced where blocks do not nest; set nests: false, or misplaced_tags: keep"
    heading = d.paths.heading.replace(ID, "1")
    if d.spelled.pattern.search(heading):
        return f"the heading {d.paths.heading!r} of a path holds a tag"
    if d.published_check and not (d.pair and d.summary):
        return "the published checker reads blocks with an opening and a closing tag and a summary"
    return ""
