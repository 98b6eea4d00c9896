"""The objectives that a recipe can name: how each reads the probability ratio, and the defaults of its keys.

    objective: dapo            # the keys below as its paper has them; a recipe may set any of them differently

What each does to a token stands in `loss.py` as a pure function: `RATIOS` by level, `BOUNDS` by bound. The terms on
top (`kl_coef`, `dual_clip`, `negative_scale`, `entropy_coef`) belong to none of them and keep their own defaults.
Without an objective the keys hold as they stand, with the ratio of each token and PPO's clip. Imports without torch.

r: probability of the token now / when it was drawn; A: advantage; R: reward; G rollouts answer a problem; o: a rollout
of |o| sampled tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Objective:
    """One objective. `source` is the paper; `text` what it is, in its own notation."""

    name: str
    source: str
    text: str
    level: Literal["token", "sequence"] = "token"  # of the ratio: `loss.RATIOS`
    bound: Literal["clip", "truncate", "mask"] = "clip"  # what keeps the policy close: `loss.BOUNDS`
    defaults: Mapping[str, Any] = field(default_factory=dict)  # keys of `PolicyConfig` and `GRPOConfig`

    def refuse(self, keys: Mapping[str, Any]) -> str | None:
        """Why these values of its configuration contradict it, as a sentence; None where they do not."""
        if self.bound != "clip" and keys["dual_clip"] is not None:
            return (
                f"dual_clip bounds what PPO's clip leaves open, and objective: {self.name} does not clip so; leave "
                "dual_clip out, or take an objective that clips"
            )
        if self.bound == "mask" and keys["old_logprobs"] != "engine":
            return (
                f"objective: {self.name} bounds the distance from the policy that drew the tokens; set old_logprobs: "
                f"engine (given {keys['old_logprobs']})"
            )
        return None


def _table(*objectives: Objective) -> dict[str, Objective]:
    return {objective.name: objective for objective in objectives}


PLAIN = Objective("", "PPO, arXiv 1707.06347, eq. 7", "the keys as they stand: min(r A, clip(r, 1 - low, 1 + high) A)")

OBJECTIVES: dict[str, Objective] = _table(
    Objective(
        "grpo",
        "DeepSeekMath, arXiv 2402.03300, eq. 3",
        "A = (R - mean) / std; min(r A, clip(r) A), the mean of each rollout's tokens, then of rollouts. The paper's "
        "KL term is kl_coef: 0.04.",
        defaults={
            "scale_rewards": True, "loss_type": "sequence-mean", "clip_low": 0.2, "clip_high": 0.2,
            "drop_zero_spread": False,
        },
    ),
    Objective(
        "dr_grpo",
        "Dr. GRPO, arXiv 2503.20783, section 3",
        "A = R - mean; min(r A, clip(r) A), summed over each rollout's tokens and divided by one number for all, so "
        "that neither a rollout's length nor its group's spread weighs it.",
        defaults={
            "scale_rewards": False, "loss_type": "sequence-sum", "clip_low": 0.2, "clip_high": 0.2,
            "drop_zero_spread": False,
        },
    ),
    Objective(
        "dapo",
        "DAPO, arXiv 2503.14476, eq. 8 and 11",
        "A = (R - mean) / std; min(r A, clip(r, 0.8, 1.28) A), the mean over all tokens; groups without spread are "
        "drawn anew. Its soft punishment of long responses (eq. 13) is a term of the reward: "
        "{term: tokens, between: [16384, 20480], weight: -1}.",
        defaults={
            "scale_rewards": True, "loss_type": "token-mean", "clip_low": 0.2, "clip_high": 0.28,
            "drop_zero_spread": True, "max_num_gen_batches": 10,
        },
    ),
    Objective(
        "gspo",
        "GSPO, arXiv 2507.18071, eq. 5 to 7; with credit: path its variant GSPO-token, eq. 13",
        "as grpo with one ratio for a rollout, s = (product of r)^(1/|o|), clipped to 1 - 3e-4 .. 1 + 4e-4.",
        level="sequence",
        defaults={
            "scale_rewards": True, "loss_type": "sequence-mean", "clip_low": 3e-4, "clip_high": 4e-4,
            "drop_zero_spread": False,
        },
    ),
    Objective(
        "cispo",
        "CISPO of MiniMax-M1, arXiv 2506.13585, eq. 4 and 5; upper bound 5 as in ScaleRL, arXiv 2510.13786",
        "min(r, 1 + high) A log p with the weight held fixed, the mean over all tokens: every token keeps a gradient. "
        "There is no lower bound unless clip_low is below 1.",
        bound="truncate",
        defaults={
            "scale_rewards": True, "loss_type": "token-mean", "clip_low": 1.0, "clip_high": 4.0,
            "drop_zero_spread": True,
        },
    ),
    Objective(
        "dppo",
        "DPPO with binary total variation, arXiv 2602.04879; bounds of its published scripts",
        "r A without a clip, the mean over all tokens; a token has no gradient where its probability has already moved "
        "by more than clip_high upwards (A > 0) or clip_low downwards (A < 0), compared with the policy that drew it.",
        bound="mask",
        defaults={
            "scale_rewards": True, "loss_type": "token-mean", "clip_low": 0.15, "clip_high": 0.15,
            "drop_zero_spread": True, "old_logprobs": "engine",
        },
    ),
    Objective(
        "max_rl",
        "MaxRL, arXiv 2602.02710",
        "A = (R - mean) / mean, for rewards from 0 up (1 right, 0 wrong): the gradient of the log of the pass rate, "
        "which weighs hard problems more. Clip and mean over tokens as in dapo without its other parts.",
        defaults={
            "scale_rewards": "mean", "loss_type": "token-mean", "clip_low": 0.2, "clip_high": 0.2,
            "drop_zero_spread": True,
        },
    ),
)  # fmt: skip


def objective_of(name: str | None) -> Objective:
    """The objective of that name; None: the keys as they stand."""
    return PLAIN if name is None else OBJECTIVES[name]
