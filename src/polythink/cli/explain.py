"""`polythink explain`: what a key, reward, stage, metric, dialect, mode, problem set or prompt is."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated

from polythink.cli.options import argument
from polythink.cli.topics import TOPICS, Topic, every_topic
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.run.other_names import key_hint


def short_names(topics: Iterable[Topic]) -> list[str]:
    """The last parts of the names, which are enough to ask for: `lr` for `stages.NAME.lr`."""
    return sorted({topic.name.rpartition(".")[2] for topic in topics})


def explain(
    name: Annotated[
        str | None,
        argument(
            "NAME",
            "Such as lr, rl.lr, decoding.paths, tiered, grpo, mean@8, parallel_r1.",
            lambda: short_names(every_topic()),
        ),
    ] = None,
) -> None:
    """Explain a recipe key, a reward, a stage, a metric, a dialect, a mode, a problem set or a prompt.

    Without NAME all are listed; the name of a list explains all that is in it.

    Example: polythink explain decoding.paths

    Example: polythink explain modes
    """
    if name is None:
        for title, make in TOPICS.items():
            print(f"{title}:")
            listed = short_names(make()) if title == "keys" else [topic.name for topic in make()]
            width = shutil.get_terminal_size((100, 24)).columns
            print(textwrap.fill(", ".join(listed), width, initial_indent="  ", subsequent_indent="  ",
                                break_long_words=False, break_on_hyphens=False))  # fmt: skip
        return
    topics = every_topic()
    found = find(name, topics) or (list(TOPICS[name]()) if name in TOPICS else [])
    if not found:
        names = [*short_names(topics), *(topic.name for topic in topics)]
        hint = key_hint(name, names, {"decoding": SamplingParams.model_fields})
        rest = hint if "did you mean" in hint else "; `polythink explain` lists everything that can be explained"
        raise UserError(f"nothing is named {name!r}{rest}")
    print("\n\n".join(entries(found)))


def find(name: str, topics: Sequence[Topic]) -> list[Topic]:
    """The topics meant: of that very name, or keys whose last parts are those of a dotted name.

    A stage's name is the user's own, so of `rl.lr` only `lr` counts where no key's place has an `rl`.
    """
    name = re.sub(r"(?<=@)\d+$|(?<=^best_of_)\d+$", "k", name)
    exact = [topic for topic in topics if topic.name == name]
    if exact and not exact[0].kind.startswith("key"):
        return exact
    parts = name.split(".")
    for start in range(len(parts)):
        suffix = "." + ".".join(parts[start:])
        if found := [topic for topic in topics if f".{topic.name}".endswith(suffix)]:
            return found
    return []


def entries(found: Sequence[Topic]) -> list[str]:
    """What is printed of the topics. A key that several stages have alike is one entry that names their kinds."""
    groups: dict[Topic, list[str]] = {}
    for topic in found:
        places, facts = (topic.facts[:1], topic.facts[1:]) if topic.kind.startswith("key") else ((), topic.facts)
        groups.setdefault(topic._replace(facts=facts), []).extend(places)
    shown = []
    for topic, places in groups.items():
        kinds = [place.partition(" (kind: ")[2].rstrip(")") for place in places]
        where = f", kind {', '.join(filter(None, kinds))}" if any(kinds) else ""
        lines = "".join(f"\n    {line}" for line in (*topic.text.splitlines(), *topic.facts))
        shown.append(f"{topic.name}: {topic.kind}{where}{lines}")
    return shown
