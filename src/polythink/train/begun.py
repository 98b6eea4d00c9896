"""What a training is, kept beside its checkpoint: a folder that holds another one is refused, not gone on with.

Shapes and numbers of steps do not tell two trainings apart. The file, checkpoint/training.json, is written before the
first step: the configuration, but for what changes only how the training runs or how long (`config.with_effect`), the
data, and the weights that it begins with. Folders of earlier versions have none, and are gone on with as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.journal import refuse_another
from polythink.evaluate.provenance import weights_hash
from polythink.models.lm import LanguageModel
from polythink.problems.prompts import Prompt
from polythink.rewards.functions import code_of, written
from polythink.run.folder import read_json, to_jsonable, write_json
from polythink.trace.dialect import dialect_facts
from polythink.train import distributed
from polythink.train.config import GRPOConfig, SFTConfig, with_effect
from polythink.train.optimiser import depends_on_steps

log = logging.getLogger(__name__)
FILE = "training.json"
LENGTH = ("steps", "epochs")

_trained: WeakKeyDictionary[nn.Module, set[Path]] = WeakKeyDictionary()  # the folders of this process's trainings


@dataclass(frozen=True)
class Training:
    """What tells it from others (`facts`), and the model that it was given, whose weights are now `weights`."""

    facts: Mapping[str, Any]
    defaults: Mapping[str, Any]  # of keys of the configuration, which an older file may lack
    model: nn.Module
    weights: str
    steps: int
    compares: bool  # with the model that it began with, of which a copy is kept (kl_coef)

    @classmethod
    def of(
        cls, lm: LanguageModel, config: SFTConfig | GRPOConfig, data: str, prompt: Prompt, params: SamplingParams,
        seed: int, steps: int,
    ) -> Training:  # fmt: skip
        """Before anything is added to the model. `data` is a hash of what is trained on."""
        kind = GRPOConfig if isinstance(config, GRPOConfig) else SFTConfig  # a recipe's stage has further keys
        keys = with_effect(config.model_dump(mode="json", include=set(kind.model_fields)))
        reward = config.reward.called() if isinstance(config, GRPOConfig) else ()
        facts = {
            "kind": "grpo" if kind is GRPOConfig else "sft",
            **{key: value for key, value in keys.items() if key not in (*LENGTH, "micro_batch")},
            **({"steps": steps} if depends_on_steps(config) else {}),
            "data": data, "seed": seed, "chat": lm.settings.chat,
            "prompt": {"name": prompt.name, "hash": prompt.hash[:16]},
            "decoding": params.model_dump(mode="json"), **dialect_facts(lm.dialect),
            "functions": _codes((*reward, *params.functions())),
        }  # fmt: skip
        defaults = {key: field.get_default(call_default_factory=True) for key, field in kind.model_fields.items()}
        compares = bool(getattr(config, "kl_coef", 0)) and config.lora is None
        return cls(to_jsonable(facts), to_jsonable(defaults), lm.model, weights_hash(lm.model), steps, compares)

    def enter(self, folder: Path, done: int) -> None:
        """Begin in the folder of checkpoints, or go on after `done` steps; `UserError` where it holds another one."""
        file = folder / FILE
        found = _read(file)
        if done and found:
            self._refuse_another(folder.parent, found["training"])
            self._refuse_model(folder.parent, found["weights"], done)
        elif not done:
            if found and found["weights"] != self.weights and self._was_here(folder):
                log.warning(
                    "an earlier attempt in %s left no checkpoint but changed this model: the training begins with the "
                    "weights that it has now", folder.parent,
                )  # fmt: skip
            write_json(file, {"training": self.facts, "weights": self.weights})
        _trained.setdefault(self.model, set()).add(folder.resolve())

    def _refuse_another(self, folder: Path, before: Mapping[str, Any]) -> None:
        was, now = {key: before.get(key, self.defaults.get(key, own)) for key, own in self.facts.items()}, self.facts
        if was["kind"] != now["kind"]:
            was, now = {"kind": was["kind"]}, {"kind": now["kind"]}
        else:  # code that one of both could not read is not compared
            both = was["functions"].keys() & now["functions"].keys()
            was, now = ({**x, "functions": {name: x["functions"][name] for name in sorted(both)}} for x in (was, now))
        instead = f"give another folder, or delete this one (or checkpoint/{FILE} in it alone, to go on all the same)"
        refuse_another(folder, was, now, "holds another training", instead)

    def _refuse_model(self, folder: Path, before: str, done: int) -> None:
        """A model that this training has changed itself gets its checkpoint's weights all the same."""
        if before == self.weights:
            return
        if self.compares and done < self.steps:
            raise UserError(
                f"{folder} holds a training that compares with the model that it began with (kl_coef), and this one "
                "has other weights; load that model again, or give another folder"
            )
        if not self._was_here(folder / "checkpoint"):
            raise UserError(
                f"{folder} holds a training that began with another model: the weights of this one differ; give the "
                "model that it began with, or another folder"
            )

    def _was_here(self, folder: Path) -> bool:
        return folder.resolve() in _trained.get(self.model, ())


def _read(file: Path) -> dict[str, Any] | None:
    """The content of the file; None where there is none, `UserError` where it is damaged."""
    found = read_json(file) if file.is_file() else None
    if found is None or (isinstance(found, dict) and isinstance(found.get("training"), dict) and "weights" in found):
        return found
    raise UserError(f"{file} is damaged: it should say which training this is; delete it to go on without it")


def _codes(functions: Iterable[Any]) -> dict[str, str]:
    """What can be read of the code of functions of one's own, by their names."""
    found = {written(function): code_of(function) for function in functions}
    return {name: code for name, code in found.items() if code}


def begun(make: Callable[[], Training]) -> Training | None:
    """What the first process makes, which alone has to do with the folder; None in the others."""
    return distributed.shared(lambda: make() if distributed.is_main() else None)
