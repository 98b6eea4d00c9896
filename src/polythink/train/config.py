"""What the training loops can be told: plain typed models that import without torch.

The loops stand in `sft.py` and `grpo.py`. A recipe adds what makes a stage of them (`pipeline.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.problems.problem import AnswerRule
from polythink.problems.prompts import Overlong
from polythink.rewards.combine import RewardConfig
from polythink.run.config import Config
from polythink.run.trackers import ReportTo
from polythink.trace.modes import MODES, get_mode
from polythink.train.lora_keys import LoraKeys
from polythink.train.objectives import OBJECTIVES, objective_of
from polythink.train.pass_rate_key import PassRateConfig
from polythink.train.rollouts_key import RolloutsConfig

# keys of a training stage that change how it runs but not what comes out of it
NO_EFFECT = (
    "checkpoint_every", "log_samples", "max_num_seqs", "kv_cache_memory_bytes", "reshard_after_forward",
    "logits_memory_bytes", "activation_offloading", "report_to",
)  # fmt: skip
OF_ROLLOUTS = ("kind", "reload_every", "max_staleness")  # not where the server is and how it is asked
LossType = Literal["token-mean", "sequence-mean", "sequence-sum"]
INEXACT = 1e-4  # nats: more than float32 rounding makes
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimiserConfig(Config):
    """AdamW, its learning rate over the steps, and when checkpoints are written."""

    lr: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "constant"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.0, ge=0)
    """Length of the linear warm-up: below 1 a share of all steps, otherwise a number of steps."""
    final_lr: float = Field(0.0, ge=0, le=1)
    """Learning rate at the end of the schedules cosine and linear, as a share of `lr`."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay rates of AdamW's running averages of the gradient and of its square."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of all parameters but those of `no_decay`."""
    no_decay: tuple[Literal["biases", "norms", "thoughts"], ...] = ("thoughts",)
    """What does not decay: biases, the weights of norms, thought embeddings."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Clip the norm of the whole gradient to this; 0 does not clip."""
    autocast: bool | Literal["auto"] = False
    """Run forwards in bfloat16 over float32 weights; in reinforcement learning the sampling too. auto: where the GPU or
    processor multiplies bfloat16 itself."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between two checkpoints; the last step always writes one."""
    report_to: ReportTo | None = None
    """Where metrics and samples also go: tensorboard, wandb, trackio, or a list of them; none: the recipe's."""


class TrainingConfig(OptimiserConfig):
    """What all training on traces shares."""

    lora: LoraKeys | None = None
    """Train adapters (and rows of new tags), not the weights; lr stays as it is: TRL's defaults for RL go with 5e-5."""
    trainable: Literal["all", "thoughts"] = "all"
    """What is trained: all weights, or the thought embeddings alone."""
    micro_batch: int = Field(32, ge=1)
    """Traces (where packed: rows) per forward and backward; bounds memory, changes no result but what dropout draws."""
    pack: Annotated[int, Field(ge=2)] | Literal["auto"] | None = "auto"
    """Several traces in rows of so many tokens; auto: of the longest trace's, with flex_attention; none: one trace."""
    attention: Literal["auto", "sdpa", "flex_attention"] = "sdpa"
    """Kernel of training forwards; flex_attention (CUDA) skips what no token sees; auto: where it runs."""
    compile: bool | Literal["auto"] = False
    """Compile layers and loss (torch.compile): some tens of seconds once, then faster; auto: on CUDA, where it runs."""
    activation_offloading: bool = False
    """Hold what forwards keep for the backward pass in the CPU's memory; on a CPU it is there, and nothing is moved."""
    logits_memory_bytes: int = Field(1 << 28, ge=1)
    """Most bytes of float32 logits at a time; more are computed in pieces, and again in the backward pass."""
    float32_head: bool = False
    """Multiply by the head's weight in float32 in training forwards, whatever the type of the weights (ScaleRL)."""
    reshard_after_forward: bool = True
    """In several processes: free a layer's weights after its forward and gather them again for its backward."""

    @model_validator(mode="after")
    def _adapters_or_thoughts(self) -> TrainingConfig:
        if self.lora and self.trainable == "thoughts":
            raise ValueError(
                "trainable: thoughts trains the thought embeddings alone, and lora adapters; leave one out"
            )
        return self


class SFTConfig(TrainingConfig):
    """Supervised fine-tuning on finished traces."""

    steps: int | None = Field(None, ge=1)
    """Optimiser steps; give steps or epochs."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the data instead of `steps`; not with demonstrations, which have no end."""
    batch: int = Field(128, ge=1)
    """Traces per step."""
    loss_on: Literal["sampled", "response"] = "sampled"
    """Train on the tokens that the model itself will write, or on every token of the response."""
    max_tokens: int = Field(4096, ge=2)
    """Drop traces with more tokens than this, prompt included, or longer than the model's context, and count them;
    a demonstration gives its place to another."""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> SFTConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


def with_effect(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a stage (`model_dump`) without what changes how it runs, but not what comes out of it."""
    found = {key: value for key, value in stage.items() if key not in NO_EFFECT}
    if server := found.get("rollouts"):
        found["rollouts"] = {key: server[key] for key in OF_ROLLOUTS if key in server}
    return found


def check_sampling(params: SamplingParams) -> None:
    """`UserError` for parameters with which reinforcement learning would not train on what was sampled.

    The recorded log-probabilities would not be those that the tokens were sampled with.
    """
    if params.top_p < 1 or params.top_k > 0:
        raise UserError(
            f"reinforcement learning samples from the whole distribution; set top_p: 1 and top_k: 0 "
            f"(given top_p={params.top_p:g}, top_k={params.top_k})"
        )
    if any(params.temperature_of(kind) == 0 for kind in ("main", "path", "summary")):
        raise UserError("reinforcement learning needs samples that differ; set temperatures above 0")


def check_credit(credit: str, mode: str) -> None:
    """`UserError` for credit by path where the runtime opens no paths: one flat text is one segment."""
    if credit == "path" and not get_mode(mode).isolated:
        raise UserError(
            f"credit: path needs paths that the runtime opens, and mode: {mode} writes one flat text; set credit: "
            "trace, or another mode"
        )


def trained_inexactly(mode: str, train_mode: str | None = None) -> str:
    """What to say where rollouts of that mode are trained in the layout of another; "" where both are the same."""
    drawn = get_mode(mode)
    trained = get_mode(train_mode) if train_mode else drawn.trained
    if (trained.isolated, trained.rereads) == (drawn.isolated, drawn.rereads):
        return ""
    return (
        f"mode {drawn.name}: rollouts are trained in the layout of mode {trained.name}, so what is sampled is not what "
        "is trained; logprob_gap and mismatch_kl say at every step how far apart they are"
    )


def sampled_inexactly(logprob_error: float, correction: ImportanceMode | None = None) -> str:
    """What to say where the engine's arithmetic (its self-check measured it, in nats) is too coarse to be exact."""
    if not logprob_error > INEXACT:
        return ""
    corrects = (
        f"importance_sampling_mode: {correction} corrects for it"
        if correction
        else "to correct for it set old_logprobs: recomputed and an importance_sampling_mode"
    )
    return (
        f"the engine's log-probabilities are off by {logprob_error:.1g} nats a token in the model's dtype; mismatch_kl "
        f"says at every step what that makes; {corrects}"
    )


class PolicyConfig(TrainingConfig):
    """The objective of a reinforcement learning step, and how the step is divided into updates."""

    objective: Literal[tuple(OBJECTIVES)] | None = None
    """A published objective: its ratio and bound, and its defaults for the keys below; none: the keys as they stand."""
    credit: Literal["trace", "path"] = "trace"
    """Whose result a path's tokens learn from: the trace's, or the path's own; other text always from the trace's."""
    mini_batches: int = Field(1, ge=1)
    """Optimiser updates per step, each on whole groups."""
    train_mode: Literal[tuple(name for name, mode in MODES.items() if mode.exact)] | None = None
    """Mode in whose layout rollouts are trained; none: the one that the sampling mode says, see explain modes."""
    old_logprobs: Literal["engine", "recomputed"] = "engine"
    """Old log-probabilities of the ratio: as the engine recorded them, or of a training forward before the step."""
    importance_sampling_mode: ImportanceMode | None = None
    """Weigh the loss by trainer / engine probability, of tokens or sequences, bounded or left out; none: no weights."""
    importance_sampling_clip_max: float = Field(3.0, ge=1)
    """The largest such ratio: one beyond it is truncated to it, or its tokens are left out (mask)."""
    scale_rewards: bool | Literal["mean"] = True
    """Divide advantages by the standard deviation of their group (GRPO); false: not (Dr. GRPO); mean: by its mean."""
    negative_scale: float = Field(1.0, ge=0)
    """Multiply negative advantages by this."""
    drop_zero_spread: bool = True
    """Leave out groups whose rewards are all equal, also from the means of the loss."""
    loss_type: LossType = "token-mean"
    """Weigh every token of the batch alike, or every sequence; sequence-sum: sums of tokens over one number for all."""
    loss_length: int | None = Field(None, ge=1)
    """That number of loss_type: sequence-sum, in tokens; none: the trace's budget, decoding.max_trace_tokens."""
    clip_low: float = Field(0.2, ge=0, le=1)
    """Clip the probability ratio below 1 - clip_low (dppo: bound on how far a probability may fall)."""
    clip_high: float = Field(0.2, ge=0)
    """Clip the probability ratio above 1 + clip_high (dppo: bound on how far a probability may rise)."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound the loss of negative advantages by this many times the advantage; none: no bound."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the model that the stage began with (beta); 0: no reference model is kept."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of a bonus for the entropy of the sampled tokens, in nats; 0: none."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_objective(cls, data: Any) -> Any:
        named = data.get("objective") if isinstance(data, dict) else None
        if not isinstance(named, str) or named not in OBJECTIVES:  # none, or one that is refused by its name
            return data
        return {k: v for k, v in OBJECTIVES[named].defaults.items() if k in cls.model_fields} | data

    @model_validator(mode="after")
    def _agrees_with_the_objective(self) -> PolicyConfig:
        if refused := objective_of(self.objective).refuse(self.__dict__):
            raise ValueError(refused)
        if self.loss_length and self.loss_type != "sequence-sum":
            raise ValueError(f"loss_length belongs to loss_type: sequence-sum, not to {self.loss_type}; leave it out")
        return self

    @model_validator(mode="after")
    def _corrects_once(self) -> PolicyConfig:
        if self.importance_sampling_mode and self.old_logprobs == "engine":
            raise ValueError(
                f"importance_sampling_mode: {self.importance_sampling_mode} weighs by trainer / engine, and with "
                "old_logprobs: engine the clipped ratio holds that already; set old_logprobs: recomputed, or leave the "
                "mode out"
            )
        return self


class GRPOConfig(PolicyConfig):
    """Group-relative policy optimisation on problems with checkable answers."""

    reward: RewardConfig
    """A preset's name, a mapping (cases, add, cycle, switch), a Python function, or "module:function"."""
    rollouts: RolloutsConfig | None = None
    """A server that draws the rollouts, with the policy's weights; none: the engine in this process."""
    steps: int = Field(ge=1)
    """Steps of sampling and training."""
    prompts_per_step: int = Field(32, ge=1)
    """Problems per step."""
    group_size: int = Field(8, ge=2)
    """Rollouts per problem; their mean reward is the baseline of each."""
    max_num_gen_batches: int = Field(1, ge=1)
    """Batches that a step may draw until it has prompts_per_step groups with spread (DAPO's dynamic sampling)."""
    pass_rate: PassRateConfig | None = None
    """Ask only problems that the model solves sometimes, measured before the first step; none: all problems."""
    max_num_seqs: int = Field(64, ge=1)
    """Rollouts that the engine samples at once: speed and memory, not results."""
    kv_cache_memory_bytes: int | None = Field(None, ge=1)
    """Most bytes of keys and values at a time; what does not fit waits, and null sets no bound: speed, not results."""
    overlong_prompts: Overlong = "skip"
    """Prompts that the model cannot take (too long, or a word that its vocabulary lacks): skip and count, or refuse."""
    answers: AnswerRule = "strict"
    """What is read as an answer (docs/reference/answers.md); published: the checks of the published runs."""
    log_samples: int = Field(8, ge=0)
    """Rollouts per step that are written to samples.jsonl."""

    @model_validator(mode="after")
    def _whole_groups(self) -> GRPOConfig:
        if self.mini_batches > self.prompts_per_step:
            raise ValueError(
                f"mini_batches is {self.mini_batches}, but a step has {self.prompts_per_step} groups to divide; "
                f"take at most {self.prompts_per_step} mini-batches"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_it_draws_for(self) -> GRPOConfig:
        if self.rollouts and (why := self.rollouts.refuse(self.old_logprobs, self.importance_sampling_mode)):
            raise ValueError(why)
        if self.max_num_gen_batches > 1 and not self.drop_zero_spread:
            raise ValueError(
                f"max_num_gen_batches: {self.max_num_gen_batches} draws until there are enough groups with spread, and "
                "drop_zero_spread: false trains on those without; set drop_zero_spread: true or max_num_gen_batches: 1"
            )
        if self.scale_rewards == "mean" and (least := self.reward.least()) < 0:
            raise ValueError(
                "scale_rewards: mean (objective: max_rl) divides by a group's mean reward, and this reward can be "
                f"{least:g}; take one from 0 up, such as gsm8k_accuracy (1 right, 0 wrong)"
            )
        return self
