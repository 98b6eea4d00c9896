"""`polythink bench decode`: cases x contenders, in turns, beside the floor."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polythink.bench import machine
from polythink.bench.cases import Case, Trace, branches
from polythink.bench.floor import Machine, Sizes, kept_bytes, step_bytes, step_floor, step_flops
from polythink.bench.llama import LlamaCpp
from polythink.bench.model import Subject, open_subject, sizes_of
from polythink.bench.options import DecodeOptions
from polythink.bench.ours import OwnEngine, open_engine
from polythink.bench.profile import profile_kernels, profile_steps
from polythink.bench.served import Vllm
from polythink.bench.stock import Continuous, Generate
from polythink.bench.timing import Contender, Run, Skipped, summarise
from polythink.engine.kinds import KINDS
from polythink.errors import UserError, did_you_mean
from polythink.run.progress import Progress

PEERS: dict[str, Callable[[Subject], Contender]] = {  # in the order of `options.PEERS`
    "generate": Generate,
    "continuous": Continuous,
    "llama.cpp": lambda subject: LlamaCpp(subject, exact=False),
    "llama.cpp exact": lambda subject: LlamaCpp(subject, exact=True),
    "vllm": Vllm,
}
NEEDS = {"llama.cpp": ("llama_cpp", "gguf"), "llama.cpp exact": ("llama_cpp", "gguf"), "vllm": ("vllm",)}
PROFILED = 6  # steps

Report = Callable[[dict[str, Any]], None]


@dataclass
class _Field:
    """Who takes part, and why others do not."""

    contenders: dict[str, Contender]
    absent: dict[str, str]


def run_decode(options: DecodeOptions, report: Report = lambda result: None) -> dict[str, Any]:
    """Measure all cases; JSON-ready. `report` is called with the result so far after every case."""
    if options.threads:
        torch.set_num_threads(options.threads)
    subject = open_subject(options.model, options.device, options.dtype)
    sizes = sizes_of(subject.lm)
    field = _open(subject, options)
    result: dict[str, Any] = {
        "bench": "decode",
        "model": {
            "name": options.model, "architecture": subject.lm.model.config.model_type,
            "dtype": str(subject.lm.model.dtype).removeprefix("torch."), "weight_bytes": sizes.weight_bytes,
            "kv_bytes_per_token": sizes.kv_bytes,
        },
        "machine": machine.describe(subject.device),
        "rounds": options.rounds, "steps": options.steps, "absent": field.absent, "cases": [], "widths": [],
    }  # fmt: skip
    rounds = options.rounds + 1
    with Progress(len(options.cases) * rounds * len(field.contenders), "timing") as progress:
        for case in options.cases:
            result["cases"].append(_measure(case, subject, sizes, field, options, progress))
            result["widths"] = widths(result["cases"])
            report(result)
    return result


def _open(subject: Subject, options: DecodeOptions) -> _Field:
    """The engine with each backend, then the peers that are installed."""
    for name in options.backends:
        if name not in ("auto", *KINDS):
            raise UserError(f"no backend {name!r}{did_you_mean(name, ('auto', *KINDS))}")
    field = _Field({}, {})
    most = max(case.problems * case.samples for case in options.cases)
    for name in options.backends:
        try:
            own = open_engine(subject, name, most)
        except Skipped as why:
            field.absent[f"engine {name}"] = str(why)
            continue
        field.contenders.setdefault(f"engine {own.name}", own)  # "auto" and its choice may both be asked for
    for name in options.peers:
        lacking = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
        if lacking:
            field.absent[name] = f"{' and '.join(lacking)} not installed"
            continue
        try:
            field.contenders[name] = PEERS[name](subject)
        except Skipped as why:
            field.absent[name] = str(why)
    if not field.contenders:
        raise UserError(f"nothing to time: {'; '.join(f'{name}: {why}' for name, why in field.absent.items())}")
    return field


def _measure(
    case: Case, subject: Subject, sizes: Sizes, field: _Field, options: DecodeOptions, progress: Progress
) -> dict[str, Any]:
    """One case: a run of each contender that is not counted, then the rounds, each in another order."""
    traces = case.traces(subject.words)
    able = machine.measure(subject.device, subject.lm.model.dtype)
    runs: dict[str, list[Run]] = {name: [] for name in field.contenders}
    skipped: dict[str, str] = {}
    for number in range(options.rounds + 1):
        order = list(field.contenders)
        random.Random(number).shuffle(order)
        for name in order:
            if name not in skipped:
                try:
                    run = _attempt(field.contenders[name], case, traces, options, number)
                    runs[name] += [run] if number else []
                except Skipped as why:
                    skipped[name] = str(why)
            progress.advance(1, **{case.name: name})
    found = {name: summarise(each, branches(traces)) for name, each in runs.items() if each and name not in skipped}
    tokens = options.steps / 2  # of a path, on average over the steps
    floor = step_floor(sizes, able, traces, tokens)
    for name, contender in field.contenders.items():
        if name in found:
            found[name]["about"] = getattr(contender, "about", "")
            found[name]["over_floor"] = found[name]["ms"] / (1000 * floor)
            if isinstance(contender, OwnEngine):
                _look_inside(found[name], contender, traces, options)
        contender.close()
    return {
        "case": case.name, "traces": len(traces), "paths": case.paths, "branches": branches(traces),
        "prompt": case.prompt, "alone": case.alone, **_floors(sizes, able, traces, options),
        "contenders": found, "skipped": skipped,
    }  # fmt: skip


def _attempt(contender: Contender, case: Case, traces: Sequence[Trace], options: DecodeOptions, number: int) -> Run:
    """A run; `Skipped` where there is none. A peer's own errors are reasons to skip it, so that others are measured."""
    try:
        if number == 0:
            contender.prepare(case, traces, options.steps)
        return contender.run(traces, options.steps if number else min(2, options.steps))
    except Skipped:
        raise
    except Exception as error:
        if isinstance(contender, OwnEngine):
            raise
        raise Skipped(f"failed: {(str(error) or type(error).__name__).splitlines()[0][:200]}") from error


def _look_inside(found: dict[str, Any], own: OwnEngine, traces: Sequence[Trace], options: DecodeOptions) -> None:
    """A GPU's busy share always, the profile of the host where it is asked for."""
    steps = min(PROFILED, options.steps)
    if own.subject.device.type == "cuda":
        found["gpu"] = profile_kernels(own, traces, steps)
        found["gpu_busy"] = min(1.0, found["gpu"]["gpu_ms"] / found["ms"])
    if options.profile:
        found["profile"] = profile_steps(own, traces, steps)


def _floors(sizes: Sizes, able: Machine, traces: Sequence[Trace], options: DecodeOptions) -> dict[str, Any]:
    tokens = options.steps / 2
    return {
        "bandwidth": able.bandwidth,
        "flops": able.flops,
        "floor_bytes": step_bytes(sizes, traces, tokens),
        "floor_flops": step_flops(sizes, traces, tokens),
        "floor_ms": 1000 * step_floor(sizes, able, traces, tokens),
        "floor_separate_ms": 1000 * step_floor(sizes, able, traces, tokens, shared=False),
        "kv_needed": kept_bytes(sizes, traces, options.steps),
    }


def widths(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """step(P) / step(1) of every contender that has both, beside the floor's own ratio on the same prompt length."""
    found = []
    one = {case["prompt"]: case for case in cases if case["alone"] and case["paths"] == 1}
    for case in cases:
        base = one.get(case["prompt"])
        if not case["alone"] or base is None or case["paths"] in (1, None):
            continue
        floor = _floor_of(case, case) / _floor_of(base, case)
        for name, values in case["contenders"].items():
            if name in base["contenders"]:
                ratio = values["ms"] / base["contenders"][name]["ms"]
                found.append({
                    "contender": name, "paths": case["paths"], "prompt": case["prompt"], "ratio": ratio,
                    "floor_ratio": floor, "over_floor_ratio": ratio / floor,
                })  # fmt: skip
    return found


def _floor_of(case: dict[str, Any], able: dict[str, Any]) -> float:
    """Seconds of a case's floor at what the device did in another's minute."""
    return max(case["floor_bytes"] / able["bandwidth"], case["floor_flops"] / able["flops"])
