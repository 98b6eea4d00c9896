"""`polythink explain`: what a key, reward, stage, metric, dialect, problem set or prompt is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from polythink.cli.console import print_definitions
from polythink.cli.topics import TOPICS, Topic
from polythink.errors import UserError, did_you_mean


def complete_topic(incomplete: str) -> list[str]:
    names = {topic.name.rpartition(".")[2] for make in TOPICS.values() for topic in make()}
    return [name for name in sorted(names) if name.startswith(incomplete)]


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Such as lr, rl.lr, decoding.paths, tiered, grpo, mean@8, parallel_r1.",
            show_default=False, autocompletion=complete_topic,
        ),
    ] = None,
) -> None:  # fmt: skip
    """Explain a recipe key, a reward, a stage, a metric, a dialect, a problem set or a prompt; list them without NAME.

    Example: polythink explain decoding.paths
    """
    topics = [topic for make in TOPICS.values() for topic in make()]
    if name is None:
        _print_all()
        return
    found = find(name, topics)
    if not found:
        known = {topic.name for topic in topics} | {topic.name.rpartition(".")[2] for topic in topics}
        raise UserError(f"nothing is named {name!r}{_nearest(name, known)}")
    for i, entry in enumerate(entries(found)):
        print(f"{chr(10) if i else ''}{entry}")


def find(name: str, topics: Sequence[Topic]) -> list[Topic]:
    """The topics meant: of that very name, or keys whose last parts are those of a dotted name.

    A stage's name is the user's own, so of `rl.lr` only `lr` counts where no key's place has an `rl`.
    """
    name = re.sub(r"(?<=@)\d+$|(?<=^best_of_)\d+$", "k", name)
    exact = [topic for topic in topics if topic.name == name]
    if exact and not exact[0].kind.startswith("key"):
        return exact
    parts = name.split(".")
    while parts:
        suffix = "." + ".".join(parts)
        if found := [topic for topic in topics if f".{topic.name}".endswith(suffix)]:
            return found
        parts = parts[1:]
    return []


def entries(found: Sequence[Topic]) -> list[str]:
    """What is printed of the topics. A key that several stages have alike is one entry that names their kinds."""
    groups: dict[tuple, list[str]] = {}
    for topic in found:
        places, facts = (topic.facts[:1], topic.facts[1:]) if topic.kind.startswith("key") else ((), topic.facts)
        groups.setdefault((topic.kind, topic.name, topic.text, facts), []).extend(places)
    shown = []
    for (kind, name, text, facts), places in groups.items():
        kinds = [place.partition(" (kind: ")[2].rstrip(")") for place in places]
        where = f", kind {', '.join(filter(None, kinds))}" if any(kinds) else ""
        lines = "".join(f"\n    {line}" for line in (*text.splitlines(), *facts))
        shown.append(f"{name}: {kind}{where}{lines}")
    return shown


def _nearest(name: str, known: set[str]) -> str:
    hint = did_you_mean(name, known)
    return hint if "did you mean" in hint else "; `polythink explain` lists everything that can be explained"


def _print_all() -> None:
    for title, make in TOPICS.items():
        names = dict.fromkeys(topic.name.rpartition(".")[2] if title == "keys" else topic.name for topic in make())
        print(f"{title}:")
        print_definitions({"": ", ".join(sorted(names) if title == "keys" else names)})
