"""What of a stage's plan determines its outcome, as plain data: its digest is made of it. Imports without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polythink.run.folder import read_json
from polythink.train import config

# keys of a stage that its plan holds resolved, and keys that change how it runs but not what comes out of it
RESOLVED = ("mode", "prompt", "decoding", "seed")
NO_EFFECT = (*config.NO_EFFECT, "concurrency", "sample_problems")
NEWER = ("dtype", "pass_rate")  # keys that there have not always been: without them a stage is what it was
ABOUT = ("digest", "planned_inputs")  # keys of a plan that say which one it is
UNREAD = {"coldstart": ("model", "mode", "chat", "decoding")}  # keys of a plan that a kind of stage has no use for


def counted(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a plan (`model_dump`) without what changes how its stage runs, but not what comes out of it."""
    unread = UNREAD.get(plan["stage"].get("kind"), ())
    content = {key: value for key, value in plan.items() if key not in (*ABOUT, *unread)}
    stage = {key: value for key, value in plan["stage"].items() if key not in RESOLVED + NO_EFFECT}
    stage = config.with_effect(stage)
    stage = {key: value for key, value in stage.items() if key not in NEWER or value is not None}
    if not _draws_dropout(plan):  # otherwise every forward draws its own
        stage.pop("micro_batch", None)
    teacher = stage.get("teacher") or {}
    if teacher.get("kind") == "endpoint":  # as what it says of itself (`Endpoint.about`)
        stage["teacher"] = _only(teacher, "kind", "model", "temperature", "max_tokens", "extra")
    content["stage"] = stage
    if "model" in content:
        content["model"] = {key: value for key, value in plan["model"].items() if key != "gradient_checkpointing"}
    return content


def _only(given: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: given[key] for key in keys if key in given}


def _draws_dropout(plan: Mapping[str, Any]) -> bool:
    """Whether training draws dropout. A model on the hub is taken to have none: its files are not read for a plan."""
    stage, model = plan["stage"], plan["model"]
    if stage.get("kind") == "grpo":  # trains without
        return False
    file = Path(model.get("path") or "") / "config.json"
    there = read_json(file) if model.get("path") and file.is_file() else {}
    shapes = (stage.get("lora") or {}, model, model.get("options") or {}, there if isinstance(there, dict) else {})
    # transformers' configurations have many names for it: attention_dropout, attn_pdrop, hidden_dropout_prob, ..
    return any("drop" in key and value for shape in shapes for key, value in shape.items())
