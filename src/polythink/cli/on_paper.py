"""What `polythink params --plan` prints: a recipe's stages on a machine, on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from polythink.bench.shapes import SHAPES
from polythink.errors import UserError
from polythink.models.place import place_of
from polythink.run.table import markdown_table

if TYPE_CHECKING:
    from polythink.bench.devices import Device
    from polythink.bench.floor import Shape
    from polythink.pipeline.on_paper import Sheet
    from polythink.pipeline.recipe import Recipe
    from polythink.pipeline.text import TextRecipe

QWEN3 = {"model_type": "qwen3", "tie_word_embeddings": True}
QWEN2_15B = {  # Qwen2.5-Math-1.5B, as its config.json says; the distilled model has a head of its own
    "model_type": "qwen2", "tie_word_embeddings": False, "hidden_size": 1536, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960, "vocabulary": 151936,
}  # fmt: skip
KNOWN = {  # models that recipes name on the hub, by shapes that are known here: planned without a download
    "Qwen/Qwen3-0.6B-Base": QWEN3 | SHAPES["0.6b"],
    "Qwen/Qwen3-4B-Base": QWEN3 | SHAPES["4b"],
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": QWEN2_15B,
}

REMEDIES = {  # of what is too large
    "keys and values": "set kv_cache_memory_bytes (rollouts then wait), or lower max_num_seqs",
    "activations": "set model.gradient_checkpointing: true, or lower micro_batch",
    "activations, checkpointed": "lower micro_batch, or set activation_offloading: true",
    "activations, offloaded": "lower micro_batch",
    "logits": "lower micro_batch, or logits_memory_bytes",
}
PARTS = (
    "weights", "gradients", "optimiser", "weights in bfloat16", "gathered weights", "whole copy to draw",
    "whole copy to hand over", "reference", "keys and values", "activations", "activations, checkpointed",
    "activations, offloaded", "logits",
)  # fmt: skip


def print_plan(recipe: Recipe | TextRecipe, name: str, prompt: int, length: int | None) -> None:
    """Two tables, a column per stage, and a sentence for each peak that a device cannot hold."""
    from polythink.bench.devices import machine
    from polythink.pipeline.text import TextRecipe

    count, key, device = machine(name)
    if isinstance(recipe, TextRecipe):
        raise UserError(f"--plan is for recipes whose models think in parallel; {recipe.name} trains on texts")
    from polythink.models.logprobs import CHUNK_ELEMENTS
    from polythink.pipeline.on_paper import Place, sheets

    shape = shape_of_recipe(recipe)
    found = sheets(recipe.plan(), shape, Place(count, device, prompt, length, CHUNK_ELEMENTS))
    print(
        f"{recipe.name} on {count} x {key}: {device.memory / 1e9:g} GB, {device.bandwidth / 1e12:.3g} TB/s, "
        f"{device.bfloat16 / 1e12:.3g} TFLOP/s in bfloat16, {device.float32 / 1e12:.3g} in float32 ({device.source})\n"
    )
    print(f"GB on each device, for traces at their longest\n\n{memory_table(found)}")
    if forwards := forward_table(found):
        print(f"A forward of training\n\n{forwards}")
    print(f"The least time, {_lengths(prompt, length)}\n\n{time_table(found)}")
    for sheet in found:
        for said in sheet.uncounted:
            print(f"{sheet.name}: {said}.")
    print(verdict(found, count, key, device))


def shape_of_recipe(recipe: Recipe) -> Shape:
    """The shape of its model, counted on the real one, which is made without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    from polythink.bench.model import shape_of
    from polythink.cli.params import configurations

    config = (
        _config_of_path(recipe.model.path) if recipe.model.path else next(iter(configurations(recipe, []).values()))
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
    return shape_of(model)


def _config_of_path(path: str):
    from transformers import AutoConfig

    from polythink.models.settings import in_short

    if path in KNOWN:
        shape = dict(KNOWN[path])
        return AutoConfig.for_model(vocab_size=shape.pop("vocabulary"), **shape)
    if place_of(path).file:
        from polythink.models.source import Source

        return Source.of(path).described()[1]
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read the shape of {path}: {in_short(error)}; give a folder (model.path=..), or one of "
            f"{', '.join(KNOWN)}, whose shapes are known here"
        ) from error


def memory_table(found: Sequence[Sheet]) -> str:
    def part(sheet: Sheet, name: str) -> float | None:
        return next((own[name] for own in (*sheet.memory.values(), sheet.spared) if name in own), None)

    there = {name for sheet in found for own in (*sheet.memory.values(), sheet.spared) for name in own}
    phases = [p for p in ("drawing", "handing over", "training") if any(p in sheet.memory for sheet in found)]
    rows = [
        _row("parameters, million", found, lambda sheet: sheet.parameters / 1e6),
        _row("trained, million", found, lambda sheet: sheet.trained / 1e6),
        *(_row(n, found, lambda sheet, n=n: _giga(part(sheet, n))) for n in sorted(there, key=PARTS.index)),
        *(_row(f"peak: {p}", found, lambda sheet, p=p: _giga(sheet.peak(p))) for p in phases),
    ]
    return markdown_table(["", *(sheet.name for sheet in found)], rows)


def forward_table(found: Sequence[Sheet]) -> str:
    """What computes the forwards of training, and how large they are; "" where nothing is trained."""
    own = [(sheet.name, sheet.forward) for sheet in found if sheet.forward]
    rows = [
        ["rows", *(str(run.rows) for _, run in own)],
        ["tokens of a row, at most", *(f"{run.tokens:,}" for _, run in own)],
        ["traces of a row", *("several" if run.packed else "1" for _, run in own)],
        ["attention", *(run.attention for _, run in own)],
        ["layers and loss", *("compiled" if run.compiled else "as they are" for _, run in own)],
    ]
    return markdown_table(["", *(name for name, _ in own)], rows) if own else ""


def time_table(found: Sequence[Sheet]) -> str:
    def whole(sheet: Sheet) -> float | None:
        return sum(sheet.floors.values()) * sheet.steps / 3600 if sheet.steps else None

    rows = [
        _row("tokens a step, thousand", found, lambda sheet: sheet.tokens / 1e3),
        *(_row(f"{p}, seconds a step", found, lambda sheet, p=p: sheet.floors.get(p)) for p in ("drawing", "training")),
        _row("all steps, hours", found, whole),
    ]
    return markdown_table(["", *(sheet.name for sheet in found)], rows)


def verdict(found: Sequence[Sheet], count: int, key: str, device: Device) -> str:
    """A sentence for each peak that is too much, or that all fit."""
    said = []
    for sheet in found:
        for phase in sheet.too_much(device):
            parts, needed = sheet.memory[phase], sheet.peak(phase) / 1e9
            largest = max(parts, key=parts.__getitem__)
            said.append(
                f"{sheet.name}: {phase} needs {needed:.3g} GB, and {key} has {device.memory / 1e9:g}; {largest} alone "
                f"take {parts[largest] / 1e9:.3g}: {REMEDIES.get(largest, 'take more or larger devices')}"
            )
    return "\n".join(said) or f"All stages fit the memory of {count} x {key}, what the runtime itself needs left aside."


def _lengths(prompt: int, length: int | None) -> str:
    traces = f"traces of {length} tokens" if length else "traces as long as their budgets"
    return f"with prompts of {prompt} tokens and {traces}; an evaluation's step is one batch of its engine"


def _giga(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def _row(name: str, found: Sequence[Sheet], value: Callable[[Sheet], float | None]) -> list[str]:
    return [name, *("" if (x := value(sheet)) is None else f"{x:,.3g}" if x < 1000 else f"{x:,.0f}" for sheet in found)]
