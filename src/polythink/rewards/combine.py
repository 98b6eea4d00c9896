"""A reward as data: ordered cases, weighted terms on top, and a schedule over steps. Every published one is a preset.

    reward: accuracy                                        # the name of a preset
    reward: {preset: tiered, rule: strict}                  # a preset with some keys replaced
    reward: lengths:short                                   # a Python function, short in lengths.py
    reward:                                                 # cases: the first one whose conditions all hold
      cases:
        - {when: [right, parallel, well_formed], value: 1.2}
        - {when: [right, no_block], value: 1.0}
      otherwise: -1
      add: [{term: self_bleu, weight: -0.3}]                # weighted terms, added to the case's value
      add: [{term: tokens, between: [16384, 20480], weight: -1}]   # 0 up to 16,384 tokens, -1 from 20,480, linear
    reward: {cycle: [{steps: 8, reward: accuracy}, {steps: 2, reward: tiered}]}       # over and over
    reward: {switch: [{steps: 200, reward: alternating}, {reward: accuracy}]}         # once, then for good

Steps count from 1 and are the same number at every depth: a schedule inside a schedule does not start afresh.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from polythink.errors import UserError, did_you_mean
from polythink.rewards.functions import Function, TermName, call, name_of
from polythink.rewards.terms import CONDITIONS, RewardInput
from polythink.run.config import Config, Seed, parse_config
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.rollout import Rollout
from polythink.trace.validity import RULES

Condition = Literal[*CONDITIONS]


class Case(Config):
    """`value` is the reward where all of `when` hold and no earlier case did."""

    when: tuple[Condition, ...]
    """Conditions that must all hold."""
    value: float
    """The reward in this case."""


class WeightedTerm(Config):
    """`weight` x term, added where all of `when` hold."""

    term: TermName = "one"
    """A term's name, a Python function, or "module:function"."""
    weight: float
    """Factor on the term."""
    when: tuple[Condition, ...] = ()
    """Conditions that must all hold; otherwise the term adds 0."""
    decay: PositiveFloat | None = None
    """Multiply the weight by exp(-step / decay); none: constant."""
    most: float | None = None
    """Count no more of the term than this; none: all of it."""
    between: tuple[float, float] | None = None
    """Count the term as 0 up to the first number, as 1 from the second, linear between them; none: as it is."""

    @model_validator(mode="after")
    def _bounds(self) -> WeightedTerm:
        if self.between and (self.between[0] >= self.between[1] or self.most is not None):
            raise ValueError("between takes two rising numbers, and no `most` beside them")
        return self

    def count(self, value: float) -> float:
        """What counts of the term's value."""
        if self.between:
            low, high = self.between
            return min(max((value - low) / (high - low), 0.0), 1.0)
        return value if self.most is None else min(value, self.most)

    def weight_at(self, step: int) -> float:
        """The weight at a step, counted from 1."""
        return self.weight * (math.exp(-step / self.decay) if self.decay else 1.0)


class Phase(Config):
    """A reward for a number of steps; the last phase of a `switch` has no number and stays."""

    reward: RewardConfig
    """The reward of this phase."""
    steps: PositiveInt | None = None
    """Length of the phase in steps; none only in the last phase of a switch."""


class RewardConfig(Config):
    """One of three forms: cases or a function with added terms, a `cycle` of phases, a `switch` between phases."""

    name: str = ""
    """Name of the preset; logged as reward_name."""
    rule: Literal[RULES] | None = None
    """What well-formed means, also for everything inside; none: strict (presets: reference, as published)."""
    cases: tuple[Case, ...] = ()
    """The first case whose conditions all hold gives the reward."""
    otherwise: float = 0.0
    """The reward where no case holds."""
    function: Function | None = None
    """A Python function instead of cases: it takes a `RewardInput` and returns a number; or "module:function"."""
    add: tuple[WeightedTerm, ...] = ()
    """Weighted terms that are added."""
    cycle: tuple[Phase, ...] = ()
    """Phases that repeat."""
    shuffle: Seed | None = None
    """Seed of a random order of the cycle's steps, another one each time round; none: in order."""
    switch: tuple[Phase, ...] = ()
    """Phases one after another; the last one stays."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if callable(data) or (isinstance(data, str) and ":" in data):
            return {"function": data}
        if isinstance(data, str):
            return preset(data)
        if isinstance(data, dict) and isinstance(data.get("preset"), str):
            return {**preset(data["preset"]), **{key: value for key, value in data.items() if key != "preset"}}
        return data

    @model_validator(mode="after")
    def _one_form(self) -> RewardConfig:
        forms = [bool(self.cases or self.add or self.function), bool(self.cycle), bool(self.switch)]
        if sum(forms) != 1 or (self.cases and self.function):
            raise ValueError("a reward is one of: cases or a function (with add), a cycle, a switch")
        if any(phase.steps is None for phase in self.cycle + self.switch[:-1]):
            raise ValueError("each phase of a cycle, and each but the last of a switch, must say for how many steps")
        if self.switch and self.switch[-1].steps is not None:
            raise ValueError("the last phase of a switch stays for good: leave out its steps")
        if self.shuffle is not None and not self.cycle:
            raise ValueError("shuffle puts the steps of a cycle in a random order; this reward has no cycle")
        return self

    def at(self, step: int) -> RewardConfig:
        """The cases that hold at `step` (from 1), under the rule of the outermost schedule that gives one."""
        assert step >= 1, "steps count from 1"
        phases = self.cycle or self.switch
        if not phases:
            return self
        left = step - 1
        if self.cycle:
            turn, left = divmod(left, sum(phase.steps for phase in self.cycle))
            if self.shuffle is not None:
                order = list(range(sum(phase.steps for phase in self.cycle)))
                random.Random(f"{self.shuffle}/{turn}").shuffle(order)
                left = order[left]
        for phase in phases:
            if phase.steps is None or left < phase.steps:
                found = phase.reward.at(step)
                return found.model_copy(update={"rule": self.rule}) if self.rule else found
            left -= phase.steps
        raise AssertionError("a schedule covers every step")

    def least(self) -> float:
        """The least value of its cases, in any phase; added terms and functions are not counted."""
        own = [case.value for case in self.cases] + ([] if self.function else [self.otherwise])
        phases = [phase.reward.least() for phase in self.cycle + self.switch]
        return min(phases or own, default=0.0)

    def functions(self) -> Iterator[str]:
        """Every "module:function" in it."""
        return (function for function in self.called() if isinstance(function, str))

    def called(self) -> Iterator[str | Callable]:
        """Every function of one's own in it, itself or "module:function"."""
        for function in (self.function, *(added.term for added in self.add)):
            if callable(function) or (isinstance(function, str) and ":" in function):
                yield function
        for phase in self.cycle + self.switch:
            yield from phase.reward.called()


@dataclass(frozen=True)
class Reward:
    """A reward as a function of a rollout, its grade and the step."""

    config: RewardConfig
    dialect: Dialect = PARALLEL_R1

    def __call__(self, rollout: Rollout, right: bool, step: int, **grade: Any) -> float:
        """The reward of a rollout; arguments as in `terms`."""
        return sum(self.terms(rollout, right, step, **grade).values())

    def terms(self, rollout: Rollout, right: bool, step: int, **grade: Any) -> dict[str, float]:
        """The parts that add up to the reward: `case` (or the function's name), and each added term under its name.

        `grade` holds further fields of `RewardInput`: answered, extracted, question, answer.
        """
        now = self.config.at(step)
        given = RewardInput(rollout, right, step=step, rule=now.rule or "strict", dialect=self.dialect, **grade)
        if now.function:
            parts = {name_of(now.function): call(now.function, given)}
        else:
            parts = {"case": next((case.value for case in now.cases if _all_hold(case.when, given)), now.otherwise)}
        for added in now.add:
            holds, name = _all_hold(added.when, given), name_of(added.term)
            part = added.weight_at(step) * added.count(call(added.term, given)) if holds else 0.0
            parts[name] = parts.get(name, 0.0) + part
        return parts

    def active(self, step: int) -> str:
        """The name of the reward that holds at `step`: its preset or function, otherwise `custom`."""
        now = self.config.at(step)
        return now.name or (name_of(now.function) if now.function else "custom")


def build_reward(config: Any, dialect: Dialect = PARALLEL_R1) -> Reward:
    """A reward from a `RewardConfig` or what stands for one: a preset's name, plain data, a function or its name.

    Raises `UserError` with the first mistake in it.
    """
    if not isinstance(config, RewardConfig):
        config = parse_config(RewardConfig, config, "reward")
    return Reward(config, dialect)


def _all_hold(conditions: tuple[str, ...], given: RewardInput) -> bool:
    return all(CONDITIONS[condition](given) for condition in conditions)


# ---- presets ----


def preset(name: str) -> dict:
    """The plain data of a preset, under its own name or the published key."""
    own = PUBLISHED.get(name, name)
    if own not in PRESETS:
        raise UserError(f"no reward {name!r}{did_you_mean(name, [*PRESETS, *PUBLISHED])}")
    return {"name": own, "rule": "reference", **PRESETS[own]}


_GOOD_BLOCKS = ["right", "parallel", "well_formed"]
_ACCURACY = {"cases": [{"when": ["right"], "value": 1}], "otherwise": -1}
_PARALLEL = {"cases": [{"when": _GOOD_BLOCKS, "value": 1}], "otherwise": -1}
_WELL_FORMED = {
    "cases": [{"when": ["right", "no_block"], "value": 1}, {"when": ["right", "well_formed"], "value": 1}],
    "otherwise": -1,
}
_TIERED = {
    "cases": [{"when": _GOOD_BLOCKS, "value": 1.2}, {"when": ["right", "no_block"], "value": 1.0}],
    "otherwise": -1,
}
_DIVERSE = {**_TIERED, "add": [{"term": "self_bleu", "weight": -0.2, "when": _GOOD_BLOCKS}]}
_DISTINCT = {**_TIERED, "add": [{"term": "distinct_beginnings", "weight": 0.1, "when": _GOOD_BLOCKS}]}
_BLOCK_BONUS = {"weight": 0.5, "when": ["parallel", "well_formed"]}
_ALIKE = {"term": "self_bleu", "weight": -0.3}

PRESETS: dict[str, dict] = {
    "accuracy": _ACCURACY,
    "parallel": _PARALLEL,
    "well_formed": _WELL_FORMED,
    "tiered": _TIERED,
    "tiered_enhanced": {**_TIERED, "cases": [{"when": _GOOD_BLOCKS, "value": 2.0}, _TIERED["cases"][1]]},
    "tiered_diverse": _DIVERSE,
    "alternating": {"cycle": [{"steps": 8, "reward": "accuracy"}, {"steps": 2, "reward": "tiered"}]},
    "scaffold": {"switch": [{"steps": 200, "reward": "alternating"}, {"reward": "accuracy"}]},
    # the control of `alternating`: as many steps of each, two of every ten, but at random places
    "alternating_shuffled": {
        "cycle": [{"steps": 8, "reward": "accuracy"}, {"steps": 2, "reward": "tiered"}],
        "shuffle": 0,
    },
    # P-GRPO of ThreadWeaver (arXiv 2512.07843) as the text of its code has it, with objective keys of their own: no
    # deviation in the advantage (scale_rewards: false). The code itself bounds 1 - L_crit / L_total, term saved_steps.
    "p_grpo": {
        **_ACCURACY,
        "otherwise": 0,
        "add": [{"term": "acceleration", "weight": 0.5, "most": 0.2, "when": ["right"]}],
    },
    # right x (1 + 1 - L_crit / L_total): recommended by the survey of the BAIR blog, 2026-04-30
    "accuracy_times_saved": {
        **_ACCURACY,
        "otherwise": 0,
        "add": [{"term": "saved_steps", "weight": 1, "when": ["right"]}],
    },
    # DPT (github.com/JiaruQian/DPT): the tiers and the schedule of Parallel-R1, with a bonus for paths that part early
    "tiered_distinct": _DISTINCT,
    "alternating_distinct": {"cycle": [{"steps": 8, "reward": "accuracy"}, {"steps": 2, "reward": "tiered_distinct"}]},
    "accuracy_plus_parallel": {**_ACCURACY, "add": [_BLOCK_BONUS]},
    "accuracy_plus_blocks": {**_ACCURACY, "add": [{"term": "sqrt_blocks", "weight": 1}]},
    "accuracy_diverse": {**_ACCURACY, "add": [_ALIKE]},
    "accuracy_plus_parallel_diverse": {**_ACCURACY, "add": [{"term": "parallel", "weight": 1}, _ALIKE]},
    "efficient": {
        **_ACCURACY,
        "add": [
            {"term": "efficiency", "weight": 0.4, "when": ["right"]},
            {"term": "efficiency", "weight": 0.1, "when": ["wrong"]},
        ],
    },
    "efficient_decay": {
        **_ACCURACY,
        "add": [
            {"term": "efficiency", "weight": 0.4, "when": ["right"], "decay": 50},
            {"term": "efficiency", "weight": 0.1, "when": ["wrong"], "decay": 50},
        ],
    },
    "gsm8k_accuracy": {**_ACCURACY, "otherwise": 0},
    "gsm8k_parallel": {**_PARALLEL, "otherwise": 0},
    "gsm8k_accuracy_plus_parallel": {
        **_ACCURACY,
        "otherwise": 0,
        "add": [{**_BLOCK_BONUS, "when": ["answered", "parallel", "well_formed"]}],
    },
    "gsm8k_well_formed": {**_WELL_FORMED, "otherwise": 0},
    "gsm8k_tiered": {**_TIERED, "otherwise": 0},
    "gsm8k_tiered_diverse": {**_DIVERSE, "otherwise": 0},
}

# The 21 keys of the published code (github.com/zhengkid/Parallel-R1) -> our names. There the same key means another
# reward on rows of GSM8K (seven keys); here those have the prefix gsm8k_.
PUBLISHED: dict[str, str] = {
    "accuracy_reward": "accuracy",
    "accuracy_times_parallel_reward": "parallel",
    "format_times_accuracy_times_parallel_reward": "parallel",
    "emphase_acc": "well_formed",
    "emphase_parallel": "tiered",
    "emphase_parallel_enhance": "tiered_enhanced",
    "emphase_parallel_add_diversity": "tiered_diverse",
    "accuracy_parallel_interv_reward": "alternating",
    "accuracy_add_parallel_reward": "accuracy_plus_parallel",
    "accuracy_parallel_reward": "accuracy_plus_blocks",
    "accuracy_add_diversity_reward": "accuracy_diverse",
    "accuracy_add_parallel_add_diversity_reward": "accuracy_plus_parallel_diverse",
    "accuracy_add_efficiency_reward": "efficient",
    "accuracy_add_efficiency_reward_decay": "efficient_decay",
    "gsm8k_accuracy_reward": "gsm8k_accuracy",
    "gsm8k_accuracy_times_special_token_reward": "gsm8k_parallel",
    "gsm8k_format_times_accuracy_times_parallel_reward": "gsm8k_parallel",
    "gsm8k_accuracy_add_parallel_reward": "gsm8k_accuracy_plus_parallel",
    "gsm8k_emphase_acc": "gsm8k_well_formed",
    "gsm8k_emphase_parallel": "gsm8k_tiered",
    "gsm8k_emphase_parallel_add_diversity": "gsm8k_tiered_diverse",
}

Phase.model_rebuild()
