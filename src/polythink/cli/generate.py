"""`polythink generate`: responses to prompts; a single one is shown on a terminal while it grows."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from polythink.cli.console import note
from polythink.cli.model import Decoding, Model, ModelChoice, find_model, open_engine, settle, with_model_options
from polythink.cli.options import argument
from polythink.errors import UserError, did_you_mean
from polythink.problems.sets import QUESTION_COLUMNS
from polythink.report.terminal import LiveTrace, live_view
from polythink.run.config import read_text
from polythink.run.jsonl import read_rows
from polythink.run.plain import LARGEST

if TYPE_CHECKING:
    from polythink.engine.engine import Engine
    from polythink.engine.params import Request, SamplingParams
    from polythink.engine.protocol import RolloutBackend
    from polythink.trace.rollout import Rollout


@with_model_options
def generate(
    model: Model,
    problem: Annotated[
        str | None,
        argument("PROMPT", "The problem; the model's prompt goes around it. - reads one per line from stdin."),
    ] = None,
    overrides: Decoding = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Prompts: .txt, one per line; .jsonl, .parquet: a column.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Its column; question, problem or prompt if left out.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Responses to each prompt.")] = 1,
    paths: Annotated[int | None, typer.Option(min=1, help="Paths in each block.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy, but several paths are still sampled (path_temperature).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST, help="Another seed samples another response.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per response and line.")] = False,
    choice: ModelChoice = ModelChoice(),
) -> None:
    """Answer prompts, paths side by side.

    On a terminal a single response is shown while it grows; elsewhere the plain trace is printed. A response depends
    on prompt, seed and sample number alone, not on the other prompts.

    Example: polythink generate runs/smoke "9 8 5 -> 5" --paths 3

    Example: polythink generate runs/smoke --file problems.txt -n 4 --json > responses.jsonl
    """
    keys = list(overrides or [])
    if file is not None and problem is not None:  # with --file the first free argument is a KEY=VALUE like the others
        problem, keys = None, [problem, *keys]
    if file is None and problem not in (None, "-"):
        check_prompt([problem, *keys])
    texts = [text for text in read_prompts(problem, file, column) for _ in range(samples)]
    place = find_model(model)
    for key, value in (("paths", paths), ("temperature", temperature)):
        if value is not None and any(text.partition("=")[0] == key for text in keys):
            raise UserError(f"--{key} and {key}=... are the same setting; give one of them")
        keys += [] if value is None else [f"{key}={value}"]
    params, choice = settle(place, choice, keys)
    engine = open_engine(place, choice)

    from polythink.engine.params import Request
    from polythink.evaluate.study import prompt_of

    around = prompt_of(engine.lm.settings)
    requests = [
        Request(engine.encode_prompt(around.fill(text), around.text), sample=i % samples)
        for i, text in enumerate(texts)
    ]
    if sys.stdout.isatty() and len(requests) == 1 and not as_json:
        say_truncated([watch(engine, requests[0], params, seed)], params, engine)
        return
    rollouts = engine.generate(requests, params, seed, label="generating")
    say_truncated(rollouts, params, engine)
    for i, rollout in enumerate(rollouts):
        if as_json:
            print(json.dumps(to_json(texts[i], rollout, seed), ensure_ascii=False))
            continue
        if len(texts) > 1:
            print(f"# prompt {i // samples + 1}, sample {rollout.sample + 1}: {texts[i]}")
        print(rollout.text)


def check_prompt(given: Sequence[str]) -> None:
    """`UserError` for arguments after MODEL that begin with a change, or among which a prompt lies in pieces."""
    from polythink.engine.params import SamplingParams

    changes = [text for text in given if "=" in text and text.partition("=")[0] in SamplingParams.model_fields]
    words = [text for text in given if text not in changes]
    whole = shlex.quote(" ".join(words))
    if not words:
        raise UserError(
            f"{given[0]} is a change, and there is no prompt; give the prompt first, or - to read standard input"
        )
    if given[0] in changes:
        raise UserError(f"the prompt stands before {given[0]} and other changes: polythink generate MODEL {whole} ...")
    if any("=" not in text for text in given[1:]):
        raise UserError(f"put the prompt in quotes: polythink generate MODEL {whole}{' ...' * bool(changes)}")


def say_truncated(rollouts: Sequence[Rollout], params: SamplingParams, engine: Engine) -> None:
    """Name the budgets that truncated responses, on stderr; `UserError` where they left nothing to be sampled."""
    from polythink.engine.budgets import check_sampled, what_truncated

    facts = (rollouts, params, engine.lm.dialect, engine.lm.context)
    check_sampled(*facts)
    if found := what_truncated(*facts):
        note(found)


def to_json(prompt: str, rollout: Rollout, seed: int) -> dict[str, Any]:
    """A response as `--json` prints it."""

    def fields(of: object, *names: str) -> dict[str, Any]:
        return {name: getattr(of, name) for name in names}

    segments = [
        {**fields(segment, "kind", "block", "path", "label", "text", "finish_reason"), "tokens": len(segment.tokens)}
        for segment in rollout.segments
    ]
    counts = fields(rollout, "tokens", "critical_path", "truncated", "finish_reason") | rollout.stopped
    return {"prompt": prompt, **fields(rollout, "sample", "text"), "segments": segments, **counts, "seed": seed}


def watch(
    engine: RolloutBackend,
    request: Request,
    params: SamplingParams,
    seed: int,
    console: Console | None = None,
) -> Rollout:
    """Generate one response and show it while it grows, within the terminal's height; at the end print it whole."""
    view = LiveTrace(engine.decode)
    with live_view(view, console) as screen:
        (rollout,) = engine.generate([request], params, seed, on_event=view.on_event)
    screen.print(view)
    stopped = {reason: n for reason, n in rollout.stopped.items() if n}
    cut = rollout.truncated - sum(stopped.values())
    truncated = f", {cut} truncated segments" if cut else ""
    truncated += "".join(f", {n} paths {reason}" for reason, n in stopped.items())
    again = sum(len(segment.tokens) for segment in rollout.segments if segment.kind == "copy")
    said = f" ({again} of them read again)" if again else ""
    end = f"{rollout.tokens} tokens{said}, {rollout.critical_path} on the critical path{truncated}, seed {seed}"
    screen.print(end, highlight=False)
    return rollout


# ---- prompts ----


def read_prompts(prompt: str | None, file: Path | None, column: str | None) -> list[str]:
    """The prompts in their order. `-` stands for standard input; `UserError` for an empty prompt, and for none."""
    if prompt is None and file is None:
        raise UserError("give a prompt, or --file FILE, or - for one prompt per line of standard input")
    if prompt is not None and prompt != "-":
        if not prompt.strip():
            raise UserError("the prompt is empty; give the problem that the model is to answer")
        return [_utf8(os.fsencode(prompt), "the prompt")]
    if file is None or file == Path("-"):
        buffer = getattr(sys.stdin, "buffer", None)  # bytes: the locale may be another than that of the text
        text = _utf8(buffer.read(), "standard input") if buffer else sys.stdin.read()
        found, where = _lines(text), "standard input"
    else:
        found, where = (_lines(read_text(file)) if file.suffix == ".txt" else _column(file, column)), str(file)
    if not found:
        raise UserError(f"{where} holds no prompts; give one per line")
    return found


def _utf8(given: bytes, what: str) -> str:
    try:
        return given.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text: byte {error.start + 1} is {given[error.start]:#04x}") from None


def _lines(text: str) -> list[str]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))  # other breaks, as U+2028, stand inside of a text
    return [line for line in lines if line.strip()]


def _column(file: Path, column: str | None) -> list[str]:
    """The texts in a column of a .jsonl or .parquet file: the named one, else the first that problem sets use."""
    found = []
    for number, row in enumerate(read_rows(file)):
        name = column or next((key for key in QUESTION_COLUMNS if key in row), None)
        if name is None or name not in row:
            asked = f"no column {name!r}{did_you_mean(name, row)}" if name else f"none of {', '.join(QUESTION_COLUMNS)}"
            raise UserError(f"row {number} of {file} has {asked}; name the column with --column: {', '.join(row)}")
        if not isinstance(row[name], str) or not row[name].strip():
            raise UserError(f"row {number} of {file}: {name} is not a prompt but {row[name]!r}")
        found.append(row[name])
    return found
