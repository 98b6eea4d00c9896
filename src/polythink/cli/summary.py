"""What a finished run comes to, for the console: its evaluations in order, one row each."""

from __future__ import annotations

import json
from pathlib import Path

from polythink.evaluate.metrics import general_key, show
from polythink.run.folder import read_json
from polythink.run.table import markdown_table

COLUMNS = ("mean@k", "pass@k", "maj@k", "greedy", "parallel_ratio", "well_formed", "tokens", "critical_path",
           "exact", "bleu", "rouge1", "rougeL", "loss", "perplexity")  # fmt: skip


def evaluations(run: Path) -> str:
    """A Markdown table of the run's evaluations, by problem set, stages in their order; "" where it has none.

    The first row of a problem set is the model before further training, the last one the model at the end.
    """
    found: dict[str, list[tuple[str, dict]]] = {}
    for stage in read_json(run / "stages.json"):
        result = run / stage["folder"] / "result.json"
        values = read_json(result).get("evaluations", {}) if result.is_file() else {}
        for problems, metrics in values.items():
            found.setdefault(problems, []).append((stage["name"], metrics))
    names = {name for rows in found.values() for _, metrics in rows for name in metrics}
    columns = [name for column in COLUMNS for name in sorted(names) if general_key(name) == column]
    if not columns:
        return ""
    rows = [
        [problems, stage, *(show(name, {"value": metrics.get(name)}) for name in columns)]
        for problems, stages in found.items()
        for stage, metrics in stages
    ]
    return markdown_table(["problems", "stage", *columns], rows)


def question_of(run: Path) -> str:
    """A problem that the run was evaluated on, to try the model with; "" where there is none of one short line."""
    for stage in reversed(read_json(run / "stages.json")):
        for file in sorted((run / stage["folder"]).glob("samples*.jsonl")):
            with file.open(encoding="utf-8") as lines:
                question = json.loads(next(lines, "{}")).get("question", "")
            if question and len(question) <= 60 and "\n" not in question:
                return question
    return ""
