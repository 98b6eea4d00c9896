"""Dialects made up at random, and random traces in any dialect."""

from __future__ import annotations

import random
from dataclasses import replace

from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS
from polythink.trace.parse import TraceError, _Parser
from polythink.trace.production import Dialect, Element, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.tree import Block, Plan, Trace

# how a tag may be spelled: with spaces, regex characters, without "<", and with nothing that a tokenizer knows
SPELLINGS = ("<{0}>", "</{0}>", "[{0}+]", "({0}.)?", "<|{0}|>", "«{0}»", "<{0} of it>", "::{0};", "🧭{0}🏁", "\\{0}^")
SCRAPS = ("<", ">", "[", "::", " ", "\n", "x", "a b", "é", "</", "🧭", "Final Answer: 4", "1:", "{", "0")


def random_dialect(rng: random.Random) -> Dialect:
    """A production that `check_production` admits: any order, writers, shared closing tags, numbers and gaps."""
    while True:
        try:
            return _try(rng)
        except UserError:
            continue


def _try(rng: random.Random) -> Dialect:
    words = iter(rng.sample([a + b for a in "bcdfgk" for b in "aeiou"], 16))
    shared = rng.random() < 0.4 and rng.choice(SPELLINGS).format(next(words))

    def tag(number: str = "") -> str:
        return rng.choice(SPELLINGS).format(next(words) + number + ("_" if number else ""))

    def closing() -> str:
        return shared if shared and rng.random() < 0.7 else tag()

    def gap() -> str:
        return rng.choice(("", "", " ", "\n", "\n\n"))

    def tags(most: int, by: tuple[str, ...]) -> list[Element]:
        return [Tag(tag(), rng.choice(by), gap()) for _ in range(rng.randrange(most + 1))]

    inventory = rng.choice((0, 0, 4, 6))
    paths = PathTags(
        tag("{n}" if inventory else ""),
        tag("{n}") if inventory and rng.random() < 0.5 else closing(),
        least=rng.choice((1, 1, 2, 3)),
        inventory=inventory,
        heading=rng.choice(("", "\n{id}:")),
        gap=gap(),
    )
    block: list[Element] = [Tag(tag(), rng.choice(("model", "runtime")))] if rng.random() < 0.6 else []
    if rng.random() < 0.5:
        item = (tag(), closing()) if rng.random() < 0.8 else ("", "")
        block.append(PlanTags(tag(), closing(), item=item, gap=gap()))
        paths = replace(paths, counted=rng.choice(("request", "outlines")))
    block += [paths, *tags(2, ("runtime",))]
    if rng.random() < 0.8:
        block.append(SummaryTags(tag(), closing(), gap=gap(), answers=rng.random() < 0.3))
        block += tags(2, ("model", "runtime"))
    misplaced = rng.choice(("keep", "keep", "replace"))
    return Dialect("made_up", tuple(block), nests=rng.random() < 0.7, misplaced_tags=misplaced)


def small(dialect: Dialect) -> Dialect:
    """With few numbers, so that they often collide."""
    if not dialect.inventory:
        return dialect
    paths = replace(dialect.paths, inventory=4)
    return replace(dialect, block=tuple(paths if e is dialect.paths else e for e in dialect.block))


PUBLISHED = [small(dialect) for dialect in DIALECTS.values()]


def random_text(rng: random.Random, dialect: Dialect) -> str:
    """Never empty, never with a tag in it."""
    while True:
        text = "".join(rng.choices((*SCRAPS, *(tag[:-1] for tag in dialect.tags)), k=rng.randrange(1, 5)))
        if not any(tag in text for tag in dialect.tags) and not dialect.spelled.pattern.search(text):
            return text


def random_trace(rng: random.Random, dialect: Dialect, depth: int = 3) -> Trace:
    """Nested in paths and in summaries, empty here and there; text parts are never empty and never adjacent."""
    parts: list[str | Block] = []
    for _ in range(rng.randrange(4)):
        if depth and rng.random() < 0.4:
            parts.append(random_block(rng, dialect, depth))
        elif not (parts and isinstance(parts[-1], str)):
            parts.append(random_text(rng, dialect))
    return Trace(tuple(parts))


def random_block(rng: random.Random, dialect: Dialect, depth: int = 3) -> Block:
    paths = dialect.paths.least + rng.randrange(3)
    if dialect.inventory:
        paths = min(paths, dialect.inventory)
    inside = depth - 1 if dialect.nests else 0
    goal = random_text(rng, dialect).rstrip() if rng.random() < 0.7 else ""
    outlines = paths if dialect.declares_paths else rng.randrange(3)
    outlines *= bool(dialect.plan and dialect.plan.item[0])
    said = tuple(rng.choice(("", random_text(rng, dialect))) for _ in range(outlines))
    return Block(
        tuple(random_trace(rng, dialect, inside) for _ in range(paths)),
        random_trace(rng, dialect, inside) if dialect.summary else Trace(),
        dialect.draw_labels(paths, rng),
        Plan(goal, said) if dialect.plan else None,
    )


def mutated(rng: random.Random, text: str, dialect: Dialect, times: int = 3) -> str:
    """The text with tags put in, taken out or exchanged, and pieces cut, repeated or moved."""
    tags = (*dialect.tags, " ", "\n", "x")
    for _ in range(rng.randrange(1, times + 1)):
        i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        here = [tag for tag in dialect.tags if tag in text]
        match rng.randrange(6):
            case 0:
                text = text[:i] if rng.random() < 0.5 else text[i:]
            case 1:
                text = text[:i] + rng.choice(tags) + text[i:]
            case 2 if here:
                text = text.replace(rng.choice(here), rng.choice(("", *tags)), rng.choice((1, 1, 2)))
            case 3:
                text = text[:i] + text[j:]
            case 4:
                text = text[:i] + text[i:j] + text[i:]
            case _:
                text = text[j:] + text[:i]
    return text


def tried_everywhere(text: str, dialect: Dialect) -> int:
    """The definition: the parser tried at every opening tag, and on after each block that it reads."""
    parser, count = _Parser(text, dialect), 0
    while parser.token.kind != "end":
        start = parser.index
        if parser.token.kind == dialect.opens_block:
            try:
                parser.block()
            except TraceError:
                parser.index = start + 1
            else:
                count += 1
        else:
            parser.index += 1
    return count
