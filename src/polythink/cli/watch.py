"""One response on a terminal while it grows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from polythink.report.terminal import LiveTrace

if TYPE_CHECKING:
    from polythink.engine.params import Request, SamplingParams
    from polythink.engine.protocol import RolloutBackend
    from polythink.trace.rollout import Rollout


def watch(
    engine: RolloutBackend,
    tags: Collection[int],
    request: Request,
    params: SamplingParams,
    seed: int,
    console: Console | None = None,
) -> Rollout:
    """Generate one response and show it while it grows, within the terminal's height; at the end print it whole.

    `tags` are the token ids that are not shown.
    """
    view = LiveTrace(engine.decode, tags)
    with Live(view, console=console, refresh_per_second=10, vertical_overflow="crop", transient=True) as live:
        (rollout,) = engine.generate([request], params, seed, on_event=view.on_event)
    live.console.print(view)
    truncated = f", {rollout.truncated} truncated segments" if rollout.truncated else ""
    live.console.print(
        f"{rollout.tokens} tokens, {rollout.critical_path} on the critical path{truncated}, seed {seed}",
        highlight=False,
    )
    return rollout
