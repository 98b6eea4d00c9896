"""One response on a terminal while it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live

from polythink.report.terminal import draw
from polythink.trace.tree import Block, Trace

if TYPE_CHECKING:
    from polythink.engine.engine import Engine
    from polythink.engine.params import Event, Request, SamplingParams
    from polythink.models.lm import LanguageModel
    from polythink.trace.rollout import Rollout


def watch(
    engine: Engine, request: Request, params: SamplingParams, seed: int, console: Console | None = None
) -> Rollout:
    """Generate one response and show it while it grows, within the terminal's height; at the end print it whole."""
    view = View(engine.lm)
    with Live(view, console=console, refresh_per_second=10, vertical_overflow="crop", transient=True) as live:
        (rollout,) = engine.generate([request], params, seed, on_event=view.see)
    live.console.print(view)
    truncated = f", {rollout.truncated} segments truncated" if rollout.truncated else ""
    live.console.print(
        f"{rollout.tokens} tokens, critical path {rollout.critical_path} tokens{truncated}", highlight=False
    )
    return rollout


class View:
    """The response as far as it has been generated, for the terminal."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.tags = lm, frozenset(lm.tag_ids.values())
        self.segments: dict[int, tuple[int, int, int, list[int]]] = {}  # segment -> block, path, its number, tokens

    def see(self, event: Event) -> None:
        if event.kind == "done":
            return
        *_, tokens = self.segments.setdefault(event.segment, (event.block, event.path, event.label, []))
        if event.kind == "token" and event.token not in self.tags:
            tokens.append(event.token)

    def trace(self) -> Trace:
        """The segments as a tree, tags left out. A block whose summary has not begun has an empty one."""
        parts: list[str | Block] = []
        open_block = -1
        for block, path, label, tokens in list(self.segments.values()):  # a thread of its own refreshes the view
            text = self.lm.decode(list(tokens))
            if block < 0:
                parts += [text] if text.strip() else []
                continue
            if block != open_block:
                open_block = block
                parts.append(Block((), Trace(())))
            before = parts[-1]
            if path:
                labels = (*before.labels, label) if label else ()
                parts[-1] = Block((*before.paths, Trace((text,))), before.summary, labels)
            else:
                parts[-1] = Block(before.paths, Trace((text,)), before.labels)
        return Trace(tuple(parts))

    def __rich__(self) -> RenderableType:
        return draw(self.trace())
