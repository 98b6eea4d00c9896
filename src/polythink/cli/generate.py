"""`polythink generate`: responses to prompts; a single one is shown on a terminal while it grows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli.model import ModelChoice, find_model, given_prompt, load_model, params_for, prompt_of, settings_of
from polythink.cli.options import Chat, DecodingOverrides, Device, DialectName, Dtype, MaxNumSeqs, Mode, Model, Prompt
from polythink.cli.prompts import read_prompts, split_arguments
from polythink.errors import UserError

if TYPE_CHECKING:
    from polythink.trace.rollout import Rollout


PromptText = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT", help="The problem; the model's prompt goes around it. - reads one per line from stdin.",
        show_default=False,
    ),
]  # fmt: skip
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Prompts: .txt, one per line; .jsonl, .parquet: a column.", show_default=False),
]
Column = Annotated[
    str | None, typer.Option(help="Its column; question, problem or prompt if left out.", show_default=False)
]
Paths = Annotated[int | None, typer.Option(min=1, help="Paths in each block.", show_default=False)]
Temperature = Annotated[float | None, typer.Option(min=0, help="0 is greedy.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per response and line.")]


def generate(
    model: Model,
    problem: PromptText = None,
    overrides: DecodingOverrides = None,
    file: File = None,
    column: Column = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Responses to each prompt.")] = 1,
    paths: Paths = None,
    temperature: Temperature = None,
    seed: Annotated[int, typer.Option(help="Another seed samples another response.")] = 0,
    as_json: AsJson = False,
    prompt: Prompt = None,
    dialect: DialectName = None,
    mode: Mode = None,
    chat: Chat = None,
    device: Device = None,
    dtype: Dtype = None,
    max_num_seqs: MaxNumSeqs = None,
) -> None:
    """Answer prompts, paths side by side.

    On a terminal a single response is shown while it grows; elsewhere the plain trace is printed. A response depends
    on prompt, seed and sample number alone, not on the other prompts.

    Example: polythink generate runs/smoke "9 8 5 -> 5" --paths 3

    Example: polythink generate runs/smoke --file problems.txt -n 4 --json > responses.jsonl
    """
    problem, keys = split_arguments(problem, overrides or [], file)
    problems = read_prompts(problem, file, column)
    choice = ModelChoice(dialect, mode, chat, device, dtype)
    place = find_model(model)
    params = params_for(settings_of(place, choice), [*keys, *_as_keys(keys, paths=paths, temperature=temperature)])
    around = given_prompt(prompt)
    lm = load_model(place, choice)

    from polythink.engine.engine import Engine
    from polythink.engine.params import Request

    around = around or prompt_of(lm)
    texts = [text for text in problems for _ in range(samples)]
    requests = [Request(tuple(lm.encode_prompt(around.fill(text))), sample=i % samples) for i, text in enumerate(texts)]
    engine = Engine(lm, max_num_seqs=max_num_seqs or 64)
    if sys.stdout.isatty() and len(requests) == 1 and not as_json:
        from polythink.cli.watch import watch

        watch(engine, lm.tag_ids.values(), requests[0], params, seed)
        return
    for i, rollout in enumerate(engine.generate(requests, params, seed, label="generating")):
        if as_json:
            print(json.dumps(to_json(texts[i], rollout, seed), ensure_ascii=False))
            continue
        if len(texts) > 1:
            print(f"# prompt {i // samples + 1}, sample {rollout.sample + 1}: {texts[i]}")
        print(rollout.text)


def _as_keys(keys: Sequence[str], **given: float | None) -> list[str]:
    """Options as KEY=VALUE; `UserError` where a key says the same thing."""
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if any(text.partition("=")[0] == key for text in keys):
            raise UserError(f"--{key} and {key}=... are the same setting; give one of them")
    return [f"{key}={value}" for key, value in given.items()]


def to_json(prompt: str, rollout: Rollout, seed: int) -> dict:
    """A response as `--json` prints it."""
    segments = [
        {
            **{key: getattr(segment, key) for key in ("kind", "block", "path", "label", "text", "finish_reason")},
            "tokens": len(segment.tokens),
        }
        for segment in rollout.segments
    ]
    return {
        "prompt": prompt,
        "sample": rollout.sample,
        "text": rollout.text,
        "segments": segments,
        "tokens": rollout.tokens,
        "critical_path": rollout.critical_path,
        "truncated": rollout.truncated,
        "finish_reason": rollout.finish_reason,
        "seed": seed,
    }
