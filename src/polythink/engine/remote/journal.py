"""Finished rollouts in a file, so that a killed `generate` goes on where it was.

Each line is one rollout under a digest of all that it depends on: prompt, names, dialect, parameters, seed, model, the
weights' version. So the same request finds its rollout again, in whatever call it is asked, and no other does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.run.folder import take_lock
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.trace.rollout import Rollout
from polythink.trace.saved import from_json, to_json


class RolloutJournal:
    """The file, open for appending; `UserError` where another process writes it. Use it from one thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = take_lock(self.path)
        if self._lock is None:
            raise UserError(f"another process writes {self.path}; wait until it ends, or give another file")
        self._kept = {row["key"]: row["rollout"] for row in read_jsonl(self.path)}
        self._writer = JsonlWriter(self.path)

    def get(self, key: str, prompt: tuple[int, ...]) -> Rollout | None:
        """The rollout that was finished under this key."""
        saved = self._kept.get(key)
        return None if saved is None else from_json(saved, prompt)

    def write(self, key: str, rollout: Rollout) -> None:
        """Append a finished rollout; one that is there already is not written again."""
        if key not in self._kept:
            self._kept[key] = to_json(rollout, logprobs=True)
            self._writer.write({"key": key, "rollout": self._kept[key]})

    def close(self) -> None:
        self._writer.close()
        os.close(self._lock)


def key_of(request: Request, params: SamplingParams, seed: int, about: Mapping[str, Any]) -> str:
    """The digest of what a rollout depends on; `about`: what there is besides."""
    asked = {"request": asdict(request), "params": params.model_dump(mode="json"), "seed": seed, **about}
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()
