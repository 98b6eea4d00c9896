"""Reading a block's plan while the model writes it: where the block forks, and what its paths are about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polythink.engine.tag_ids import TagIds

# What a token is to the plan: text, one of its tags, a tag that would declare too much, or the end where paths begin.
Read = Literal["", "plan", "bound", "fork"]


@dataclass(slots=True)
class Planning:
    """A block that the model has opened and that has not forked yet.

    `opened`: its plan has begun. A plan that declares nothing, where the dialect counts paths by outlines, does not
    fork: `over` is set, and the text goes on.
    """

    tags: TagIds
    opened: bool
    outlines: list[str] = field(default_factory=list)
    outline: list[int] | None = None  # the tokens of the one that is open
    over: bool = False

    def read(self, token: int, most: int) -> Read:
        """Take the next token. `most`: how many outlines may be declared."""
        plan, counted = self.tags.plan, self.tags.dialect.declares_paths
        if not self.opened:
            self.opened = token == plan.open
            return "plan" if self.opened else ""
        if token == plan.item_open:
            if counted and len(self.outlines) == most:
                return "bound"
            self.outline = []
            return "plan"
        if self.outline is not None and token == plan.item_close:
            self.outlines.append(self.tags.decode(self.outline))
            self.outline = None
            return "plan"
        if token == plan.close:
            self.over = counted and not self.outlines
            return "plan" if self.over else "fork"
        if self.outline is not None:
            self.outline.append(token)
        return ""
