"""Run folders with what a language model writes: paragraphs, mathematics, long paths, and text that means harm."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from helpers.run_folders import grpo_rows, rollout_of
from polythink.evaluate.metrics import compute_metrics, interval
from polythink.evaluate.samples import sample_row
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import PARALLEL_R1

SENTENCES = (
    "The six pets with four legs must be the dogs and the cats, as snakes have none and parrots have two.",
    "Let $x$ be the number of apples, so that \\(3x + 4 = 19\\) and $x = 5$; she paid $5 for one and $6 for another.",
    "Then $$\\frac{3 \\cdot 4}{2} = 6$$ and, by the same argument, \\[ \\sum_{k=1}^{n} k = \\frac{n(n+1)}{2}. \\]",
    "He sold 48/2 = <<48/2=24>>24 clips in May, which is half as many as he had sold in April to his friends.",
    "**Step 2.** Adding the two equations gives 7a = 35, so a = 5, and the other unknown follows from the first.",
)
HOSTILE = (
    "</div></pre></article></section><script>document.title='harm'</script><img src=//example.org/x onerror=1>",
    "<style>body{display:none}</style><!-- <details open> <textarea> <plaintext> & &amp; &#x3c;script&#x3e; ]]>",
    "Donaudampfschifffahrtsgesellschaftskapitän" * 40,
    "مرحبا بالعالم، الجواب هو ٤٢ لأن ٦ × ٧ = ٤٢. \u202e this would run backwards \u202c שלום עולם",
    "👩‍👩‍👧‍👦🏳️‍🌈 ten emoji 🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉 z̸̢̛͓a̵̡͝l̶̨̛g̷̢͝o̴̧͘",
    "\\boxed{\\boxed{\\boxed{7 \\( unclosed $ \\[ $$ ``` <<1+1=2 \\boxed{" + "{" * 50,
    "nul \x00 escape \x1b[31m tab\tend \r\n carriage",
)


def hostile_text(words: int, rng: random.Random) -> str:
    """A path's text of about that many words, paragraph after paragraph, with all that is hostile in turn."""
    first = rng.randrange(len(HOSTILE))
    parts = [" ".join([*rng.sample(SENTENCES, 3), HOSTILE[(first + i) % len(HOSTILE)]]) for i in range(1 + words // 60)]
    return "\n\n".join(parts)


def block_text(paths: Sequence[str], answer: str, opening: str = "We look at this in several ways.") -> str:
    inside = "".join(f"<Path>{path}</Path>" for path in paths)
    return f"{opening}\n\n<Parallel>{inside}</Parallel><Summary>All agree.</Summary>\n\nFinal Answer: {answer}"


def sample(problem: Problem, text: str, number: int, grader: Grader, **more: object) -> dict:
    rollout = rollout_of(text, problem.key, number)
    return {**more, **sample_row(problem, rollout, grader.grade(text, problem), grader, PARALLEL_R1)}


def prose_rows(
    problems: int, samples: int, paths: int = 3, words: int = 60, seed: int = 0, hostile: bool = False, **more: object
) -> list[dict]:
    """Graded samples of made-up problems; every path states an answer, and some of the paths and answers are wrong."""
    rng, rows = random.Random(seed), []
    with Grader() as grader:
        for p in range(problems):
            question = f"Problem {p}: {rng.choice(SENTENCES)} How many are there in all?"
            problem = Problem(f"word-{seed}-{p}", question, "42")
            for number in range(samples):
                texts = [
                    hostile_text(words, rng) if hostile else " ".join(rng.choices(SENTENCES, k=1 + words // 20))
                    for _ in range(paths)
                ]
                texts = [f"{text} So it is \\boxed{{{rng.choice((42, 41))}}}." for text in texts]
                text = block_text(texts, rng.choice(("42", "42", "40")))
                cut = number % 5 == 4
                text = text.replace("</Parallel>", "") if cut else text
                rows.append(sample(problem, text, number, grader, **more))
    return rows


def write_evaluation(
    folder: Path, rows: list[dict], problems: int, samples: int, written: list[dict] | None = None
) -> Path:
    """The folder of one evaluation with these samples; `written`: other ones in its file."""
    metrics = {metric: vars(interval(measure)) for metric, measure in compute_metrics(rows, best_of=[]).items()}
    result = {"problems": "words:heldout", "n": problems, "samples": samples, "seed": 0, "notes": []}
    write_json(folder / "eval.json", {**result, "metrics": metrics})
    write_jsonl(folder / "samples.jsonl", written or rows)
    return folder


def trained_run(folder: Path, rows: list[dict], steps: int = 40) -> Path:
    """A run: fine-tuning with samples at its checkpoints, reinforcement learning, an evaluation with these rows."""
    kinds = {"sft": "sft", "rl": "grpo", "eval": "eval"}
    write_json(folder / "stages.json", [{"name": name, "kind": kind, "folder": name} for name, kind in kinds.items()])
    loss = [
        {"step": s, "loss": 3 / s, "lr": 1e-4, "grad_norm": 1, "tokens": 900 + s, "seconds": 1} for s in range(1, 41)
    ]
    write_jsonl(folder / "sft" / "metrics.jsonl", loss)
    early = [row for step in (10, 20, 30, 40) for row in prose_rows(2, 1, 2, 30, seed=step, step=step)]
    write_jsonl(folder / "sft" / "samples.jsonl", early)
    write_json(folder / "sft" / "stage.json", {"plan": {"stage": {"kind": "sft"}}})
    write_jsonl(folder / "rl" / "metrics.jsonl", grpo_rows(steps, 0.2, 0.5, 0.8, random.Random(0)))
    write_json(
        folder / "rl" / "stage.json", {"plan": {"stage": {"kind": "grpo", "prompts_per_step": 4, "group_size": 8}}}
    )
    write_evaluation(folder / "eval", rows, len({row["problem"] for row in rows}), 1)
    return folder
