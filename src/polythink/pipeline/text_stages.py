"""The stages of a text recipe: training and evaluation. Imported when such a stage runs, since it needs torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polythink.evaluate import head_file, heads
from polythink.pipeline.plan import file_name
from polythink.pipeline.text import TextEvalConfig, TextPlan, TextStageConfig
from polythink.problems.problem import ProblemSet
from polythink.run.folder import read_json
from polythink.text.data.pairs import Pair
from polythink.text.data.sets import load_texts
from polythink.text.evaluate import encode_set, evaluate_texts
from polythink.text.model import create_text_model, load_text_model, make_batch, save_text_model
from polythink.text.tokenizers import train_tokenizer
from polythink.text.train import train_text
from polythink.train import distributed
from polythink.train.data import stage_seed

HEAD_TEXTS = 8  # pairs over which attention heads are compared


def train_stage(plan: TextPlan, folder: Path, start: Path | None, log: Callable[[str], None]) -> dict:
    """Train the model in `start`, or a new one with a new tokenizer; returns the content of result.json.

    Of several processes all train, and the first writes.
    """
    stage = plan.stage
    assert isinstance(stage, TextStageConfig)

    def loaded() -> tuple[ProblemSet[Pair], ProblemSet[Pair] | None]:
        return load_texts(stage.data), load_texts(stage.valid, stage.valid_limit) if stage.valid else None

    train, valid = distributed.shared(loaded)
    for note in train.notes:
        log(f"note on {train.name}: {note}")
    if start:
        lm = distributed.shared(lambda: load_text_model(start))
    else:
        sides = ("source", "target") if plan.has_encoder else ("target",)
        texts = (getattr(pair, side) for pair in train for side in sides)
        tokenizer = distributed.on_main(lambda: train_tokenizer(plan.tokenizer, texts))
        lm = distributed.shared(lambda: create_text_model(plan.model, tokenizer, plan.has_encoder, plan.seed))
    summary = train_text(lm, stage, train, valid, folder, seed=stage_seed(plan.seed, plan.name))
    distributed.on_main(lambda: save_text_model(lm, folder / "model"))
    return summary


def evaluate_stage(plan: TextPlan, folder: Path, model: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """The results of all sets of the stage, by the names in their files; finished ones are not measured again."""
    stage, lm = plan.stage, load_text_model(model)
    assert isinstance(stage, TextEvalConfig)
    found: dict[str, dict] = {}
    for name in stage.data:
        label = file_name(name)
        if (done := folder / f"eval-{label}.json").is_file():
            found[label] = read_json(done)
        else:
            about = {"model": str(model), "problems": name, "limit": stage.limit, "seed": plan.seed}
            texts = load_texts(name, stage.limit)
            found[label] = evaluate_texts(lm, texts, plan.task, stage, folder, label, log, about)
    if stage.heads and not (folder / head_file.FILE).is_file():
        batch = make_batch(lm, encode_set(lm, load_texts(stage.data[0], HEAD_TEXTS)))
        head_file.save(heads.analyse(lm.model, batch), folder / head_file.FILE)
    return found
