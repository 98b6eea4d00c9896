"""`polythink generate`: one response, its paths side by side while they are drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli.model import DecodingOverrides, Model

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from polythink.engine.engine import Engine
    from polythink.engine.params import Event, Request, SamplingParams
    from polythink.models.lm import LanguageModel
    from polythink.trace.rollout import Rollout
    from polythink.trace.tree import Trace


def generate(
    model: Model,
    problem: Annotated[str, typer.Argument(metavar="PROMPT", help="The problem; the model's prompt goes around it.")],
    overrides: DecodingOverrides = None,
    paths: Annotated[int | None, typer.Option(min=1, help="Paths in each block.", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another response.")] = 0,
    prompt: Annotated[
        str | None, typer.Option(help="Name or file of a prompt; the model's own if left out.", show_default=False)
    ] = None,
) -> None:
    """Answer one problem, paths side by side.

    On a terminal they are shown while they grow; elsewhere the plain trace is printed.

    Example: polythink generate runs/smoke "9 8 5 -> 5" --paths 3
    """
    from polythink.cli.model import decoding_for, load_model, prompt_for
    from polythink.engine.engine import Engine
    from polythink.engine.params import Request

    lm = load_model(model)
    given = {"paths": paths, "temperature": temperature}
    changes = [f"{key}={value}" for key, value in given.items() if value is not None]
    decoding = decoding_for(lm, [*(overrides or []), *changes])
    request = Request(tuple(lm.encode_prompt(prompt_for(lm, prompt).fill(problem))))
    engine = Engine(lm, max_num_seqs=1)
    if sys.stdout.isatty():
        watch(engine, request, decoding, seed)
    else:
        print(engine.generate([request], decoding, seed)[0].text)


def watch(
    engine: Engine, request: Request, decoding: SamplingParams, seed: int, console: Console | None = None
) -> Rollout:
    """Draw one response and show it while it grows."""
    from rich.live import Live

    view = View(engine.lm)
    with Live(view, console=console, refresh_per_second=10, vertical_overflow="visible") as live:
        (rollout,) = engine.generate([request], decoding, seed, on_event=view.see)
    cuts = f", {rollout.truncated} cut by a budget" if rollout.truncated else ""
    live.console.print(f"{rollout.tokens} tokens, {rollout.critical_path} on the critical path{cuts}", highlight=False)
    return rollout


class View:
    """The response as far as it is drawn, for the terminal."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.tags = lm, frozenset(lm.tag_ids.values())
        self.segments: dict[int, tuple[int, int, int, list[int]]] = {}  # segment -> block, path, its number, tokens

    def see(self, event: Event) -> None:
        *_, tokens = self.segments.setdefault(event.segment, (event.block, event.path, event.label, []))
        if event.kind == "token" and event.token not in self.tags:
            tokens.append(event.token)

    def trace(self) -> Trace:
        """The segments as a tree, tags left out. A block whose summary has not begun has an empty one."""
        from polythink.trace.tree import Block, Trace

        parts: list[str | Block] = []
        open_block = -1
        for block, path, label, tokens in list(self.segments.values()):  # the view is drawn by a thread of its own
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
        from polythink.report.terminal import draw

        return draw(self.trace())
