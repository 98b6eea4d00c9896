"""A recipe's stages on a machine, on paper: what each device holds, and the time below which a step cannot be.

From the plan of a stage to the formulae of `train.footprint`. Traces are taken at their longest for memory, and at the
length that is given for time. Imports without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from polythink.bench.devices import DEVICES, Device
from polythink.bench.floor import Machine, Shape
from polythink.pipeline.plan import ColdstartConfig, EvalConfig, EvalStageBase, GRPOStage, SFTStage, StagePlan
from polythink.run.address import without_password
from polythink.trace.dialect import get_dialect
from polythink.train.config import TrainingConfig
from polythink.train.footprint import (
    Drawing,
    Training,
    activation_bytes,
    adapter_parameters,
    cache_bytes,
    drawing_floor,
    logits_bytes,
    state_bytes,
    training_flops,
)
from polythink.train.rows import row_tokens

IN_TRAINING = ("gradients", "weights in bfloat16", "gathered weights")  # not there while rollouts are drawn
WIDTHS = {"float32": 4, "bfloat16": 2}
FLEX = "flex_attention"


@dataclass(frozen=True)
class Place:
    """So many devices, and what is not in a recipe."""

    count: int
    device: Device
    prompt: int  # tokens of a prompt
    length: int | None  # mean sampled tokens of a trace; None: its budget
    piece: int  # logits that are turned into float32 at a time


@dataclass(frozen=True)
class Forward:
    """What one forward of training is at its largest, and what computes it."""

    rows: int
    tokens: int  # of a row
    packed: bool  # several traces in a row
    attention: str
    compiled: bool


@dataclass
class Sheet:
    """What is found out of a stage. Bytes and seconds are those of one device."""

    name: str
    parameters: int
    trained: int = 0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)  # phase -> its parts, which are there together
    spared: dict[str, float] = field(default_factory=dict)  # what would be there if activations were (not) kept
    forward: Forward | None = None  # of training
    tokens: float = 0.0  # of a step, over all devices
    floors: dict[str, float] = field(default_factory=dict)  # of a step
    steps: int | None = None
    uncounted: list[str] = field(default_factory=list)  # what the stage does besides, in words

    def peak(self, phase: str) -> float | None:
        """Bytes of all parts of a phase; None for one that the stage does not have."""
        return sum(self.memory[phase].values()) if phase in self.memory else None

    def too_much(self, device: Device) -> list[str]:
        """The phases that the device cannot hold."""
        return [phase for phase in self.memory if self.peak(phase) > device.memory]


def sheets(plans: Sequence[StagePlan], shape: Shape, place: Place) -> list[Sheet]:
    """One for each stage that runs the recipe's model."""
    return [sheet(plan, shape, place) for plan in plans if not isinstance(plan.stage, ColdstartConfig)]


def sheet(plan: StagePlan, shape: Shape, place: Place) -> Sheet:
    stage = plan.stage
    if isinstance(stage, EvalStageBase):
        return _of_evaluation(plan, shape, place)
    how = training_of(plan, shape, place)
    state = state_bytes(shape, how)
    found = Sheet(plan.name, shape.parameters, how.of(shape))
    if isinstance(stage, SFTStage):
        traces, prompt, longest, forwards = stage.batch, 0, stage.max_tokens, 0
        mean = min(longest, place.prompt + place.length) if place.length else longest
        found.steps = stage.steps
    else:
        assert isinstance(stage, GRPOStage)
        traces = stage.prompts_per_step * stage.group_size
        prompt, budget = place.prompt, plan.decoding.max_trace_tokens
        longest = prompt + budget
        mean = prompt + min(budget, place.length or budget)
        forwards = (stage.old_logprobs == "recomputed") + bool(stage.kl_coef)
        found.steps = stage.steps
        found.uncounted = uncounted(stage)
        kept = {name: value for name, value in state.items() if name not in IN_TRAINING}
        if not how.draws:
            if stage.lora and place.count == 1:  # of several processes the whole model is on the CPU
                found.memory["handing over"] = kept | {"whole copy to hand over": shape.parameters * how.weight_bytes}
        else:
            drawing = drawing_of(plan, traces, stage.group_size, stage.max_num_seqs, place)
            cache = _cache(shape, drawing, how.compute_bytes, stage.kv_cache_memory_bytes)
            found.memory["drawing"] = kept | {"keys and values": cache}
            found.floors["drawing"] = _drawn(shape, drawing, place, _weight_bytes_drawn(how), how.compute_bytes)
    run = found.forward = forward_of(plan, traces, longest, place)
    width = how.compute_bytes
    kept = {name: activation_bytes(shape, run.rows * run.tokens, other) for name, other in ways(how).items()}
    chosen = next(iter(kept))
    columns = run.rows * (run.tokens - prompt)  # every trace has a prompt
    logits = logits_bytes(shape, columns, width, place.piece, stage.logits_memory_bytes)
    found.memory["training"] = state | {chosen: kept.pop(chosen), "logits": logits}
    found.spared = kept
    found.tokens = traces * mean
    flops = training_flops(shape, traces, mean, how, forwards) / place.count
    found.floors["training"] = flops / place.device.rate(width)
    return found


def uncounted(stage: GRPOStage) -> list[str]:
    """What such a stage does that is in none of the numbers."""
    said = []
    if stage.rollouts:
        said.append(
            f"a server draws, {without_password(stage.rollouts.url)}: neither its memory nor its time is counted"
        )
    if wanted := stage.pass_rate:
        asked = f"{wanted.problems} problems" if wanted.problems else "every problem"
        said.append(f"drawing {wanted.samples} responses to {asked} before the first step (pass_rate) is not counted")
    return said


def forward_of(plan: StagePlan, traces: int, longest: int, place: Place) -> Forward:
    """The largest forward of a stage that trains on so many traces of `longest` tokens at most."""
    stage, attention = plan.stage, _attention(plan, place.device)
    width = row_tokens(stage.pack, longest, attention == FLEX)
    rows = max(1, min(stage.micro_batch, -(-traces // place.count)))
    return Forward(rows, max(width, longest), bool(width), attention, _is_compiled(plan, place.device))


def ways(how: Training) -> dict[str, Training]:
    """How activations can be held, by the name of that part of the memory: first as they are, then otherwise."""
    plain, again = (replace(how, checkpointing=on, offloading=False) for on in (False, True))
    found = {"activations": plain, "activations, checkpointed": again}
    if how.offloading:
        return {"activations, offloaded": how, **found}
    return dict(sorted(found.items(), key=lambda item: item[1] != how))


def training_of(plan: StagePlan, shape: Shape, place: Place) -> Training:
    """How the stage trains on so many devices."""
    stage = plan.stage
    assert isinstance(stage, TrainingConfig)
    weight = WIDTHS[plan.model.dtype]
    trained = None
    if stage.lora:
        trained = adapter_parameters(shape, stage.lora.r)
    elif stage.trainable == "thoughts":
        trained = (get_dialect(plan.dialect).inventory + 1) * shape.layers * shape.keys
    return Training(
        processes=place.count, weight_bytes=weight, compute_bytes=2 if stage.autocast else weight, trained=trained,
        reshard=stage.reshard_after_forward, checkpointing=plan.model.gradient_checkpointing,
        compiled=_is_compiled(plan, place.device), offloading=stage.activation_offloading,
        draws=isinstance(stage, GRPOStage) and stage.rollouts is None,
        reference=isinstance(stage, GRPOStage) and stage.kl_coef > 0 and not stage.lora,
    )  # fmt: skip


def _attention(plan: StagePlan, device: Device) -> str:
    """As in `models.blocks`: flex attention runs on CUDA."""
    wanted = plan.stage.attention
    return wanted if wanted != "auto" else "sdpa" if device is DEVICES["cpu"] else FLEX


def _is_compiled(plan: StagePlan, device: Device) -> bool:
    """As in `models.compiled`: thought embeddings would make every layer another function."""
    wanted = plan.stage.compile
    return bool(wanted) and not plan.model.thought_embeddings and (wanted is True or device is not DEVICES["cpu"])


def drawing_of(plan: StagePlan, traces: int, samples: int, at_once: int, place: Place, devices: int = 0) -> Drawing:
    """The part of one device, at the longest: what the runtime forks is drawn in several paths at once."""
    own = -(-traces // (devices or place.count))
    decoding = plan.decoding
    paths = decoding.most_paths(get_dialect(plan.dialect)) if decoding.rules.isolated else 1
    return Drawing(own, min(at_once, own), samples, place.prompt, decoding.max_trace_tokens, paths)


def _drawn(shape: Shape, drawing: Drawing, place: Place, weight_bytes: int, kv_bytes: int) -> float:
    machine = Machine(place.device.bandwidth, place.device.rate(kv_bytes))
    mean = min(drawing.length, place.length or drawing.length)
    return drawing_floor(shape, replace(drawing, length=mean), weight_bytes, kv_bytes, machine)


def _weight_bytes_drawn(how: Training) -> int:
    """Rollouts are drawn from a copy in the dtype of the products where that is smaller or the weights are sharded."""
    return how.compute_bytes if how.processes > 1 else min(how.compute_bytes, how.weight_bytes)


def _cache(shape: Shape, drawing: Drawing, kv_bytes: int, bound: int | None) -> float:
    most = cache_bytes(shape, drawing, kv_bytes)
    return most if bound is None else min(most, bound)


def _of_evaluation(plan: StagePlan, shape: Shape, place: Place) -> Sheet:
    """An evaluation runs in the first process. Its step is what the engine draws at once: how many problems there are
    is not known before they are read.
    """
    stage, width = plan.stage, WIDTHS[plan.stage.dtype or plan.model.dtype]
    found = Sheet(plan.name, shape.parameters)
    samples = stage.samples if isinstance(stage, EvalConfig) else 1
    at_once = getattr(stage, "max_num_seqs", samples)
    drawing = drawing_of(plan, at_once, samples, at_once, place, devices=1)
    cache = _cache(shape, drawing, width, getattr(stage, "kv_cache_memory_bytes", None))
    found.memory["drawing"] = {"weights": shape.parameters * width, "keys and values": cache}
    found.tokens = drawing.traces * (place.prompt + min(drawing.length, place.length or drawing.length))
    found.floors["drawing"] = _drawn(shape, drawing, place, width, width)
    return found
