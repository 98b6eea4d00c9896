"""A mode: how paths are drawn, what the join reads, and what is trained. Data: no code compares a mode's name.

| mode               | paths are drawn                   | the join reads                  | trained on             |
| ------------------ | --------------------------------- | ------------------------------- | ---------------------- |
| `structured`       | at once, none sees another        | the paths' own keys and values  | the same               |
| `reread`           | at once, none sees another        | their flat text, read again     | the same               |
| `sequential`       | one after another, in one text    | that text                       | the same               |
| `seen_published`   | at once, none sees another        | their flat text, read again     | one flat text          |
| `unseen_published` | at once, none sees another        | their flat text, read again     | the structured layout  |

In the first three, what is drawn is what is trained. The published two are those of Parallel-R1 (arXiv 2509.07980, its
variants *Seen* and *Unseen*): offered for reproduction, with their gap measured at every step (`logprob_gap`).
"""

from __future__ import annotations

from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Mode:
    """The rules of one mode.

    With `isolated` the runtime forks: it opens the paths at once, none sees another, and it writes the tags that the
    dialect gives to it. Without, the model writes everything as one flat text. With `rereads` the join reads a flat
    copy of the paths; without, their own keys and values, at the position after the longest.
    """

    name: str
    isolated: bool
    rereads: bool = False
    trained_as: str = ""  # the mode in whose layout training sees the trace; "": this one
    about: str = ""

    @property
    def exact(self) -> bool:
        """What is drawn is what is trained: the log-probabilities of both agree."""
        return not self.trained_as

    @property
    def trained(self) -> Mode:
        """The mode in whose layout training sees the trace."""
        return MODES[self.trained_as] if self.trained_as else self

    @property
    def joins_caches(self) -> bool:
        """Drawing or training in it reads the keys and values of several paths at once, each at its own positions."""
        return any(m.isolated and not m.rereads for m in (self, self.trained))


STRUCTURED = Mode(
    "structured", isolated=True, about="the runtime forks isolated paths and joins them; the join reads all of them"
)
SEQUENTIAL = Mode("sequential", isolated=False, about="one flat text, tags sampled; every path sees the earlier ones")
MODES = {
    mode.name: mode
    for mode in (
        STRUCTURED,
        Mode(
            "reread",
            isolated=True,
            rereads=True,
            about="the runtime forks isolated paths; the join reads them again as flat text",
        ),
        SEQUENTIAL,
        Mode(
            "seen_published",
            isolated=True,
            rereads=True,
            trained_as=SEQUENTIAL.name,
            about="drawn as reread, trained as one flat text (Parallel-R1 Seen); not exact",
        ),
        Mode(
            "unseen_published",
            isolated=True,
            rereads=True,
            trained_as=STRUCTURED.name,
            about="drawn as reread, trained as structured (Parallel-R1 Unseen); not exact",
        ),
    )
}


def get_mode(name: str) -> Mode:
    """The mode of that name; `UserError` for an unknown one, with the nearest name."""
    if name not in MODES:
        raise UserError(f"no mode {name!r}{did_you_mean(name, MODES)}")
    return MODES[name]
