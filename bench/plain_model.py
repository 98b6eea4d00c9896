"""A plain pretrained model by `polythink eval` and by transformers' `generate`: accuracy, and texts, one by one.

    python bench/plain_model.py SmolLM2-135M-Instruct.Q4_1.gguf gsm8k_test.parquet --limit 200 --out runs/plain

Both answer greedily in float32, in the chat template, without tags. transformers reads the file and writes the template
by itself, so that what polythink does to a model on the way to its answers is seen: nothing, or the texts differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from polythink import load_problems
from polythink.evaluate.metrics import show
from polythink.models.lm import load_vocabulary
from polythink.problems.answers import Grader
from polythink.problems.prompts import get_prompt


def by_polythink(args: argparse.Namespace, out: Path) -> dict[str, dict]:
    """The rows of `polythink eval` by problem."""
    budget = [f"{name}={args.tokens}" for name in ("max_main_tokens", "max_trace_tokens")]
    if not (out / "eval.json").is_file():
        resume = ["--resume"] if (out / "samples.partial.jsonl").is_file() else []
        subprocess.run(
            [sys.executable, "-m", "polythink", "eval", args.model, "--mode", "sequential", "--dtype", "float32",
             "--problems", args.problems, "--limit", str(args.limit), "-n", "1", "--prompt", args.prompt,
             "--answers", args.answers, "--max-num-seqs", str(args.batch), "--out", out, *resume, "temperature=0",
             *budget],
            check=True,
        )  # fmt: skip
    return {row["problem"]: row for row in map(json.loads, (out / "samples.jsonl").read_text().splitlines())}


def by_transformers(args: argparse.Namespace, out: Path) -> list[dict]:
    """The same problems by `generate`, in batches of like length; what an earlier attempt wrote is kept."""
    file = Path(args.model)
    place = (file.parent, {"gguf_file": file.name}) if file.suffix == ".gguf" else (file, {})
    tokenizer = AutoTokenizer.from_pretrained(place[0], padding_side="left", **place[1])
    model = AutoModelForCausalLM.from_pretrained(place[0], dtype=torch.float32, **place[1]).eval()
    problems, prompt = load_problems(args.problems, limit=args.limit, seed=0), get_prompt(args.prompt)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    known = {row["problem"] for row in rows}
    asked = {p.key: prompt.fill(p.question) for p in problems}
    ids = {
        key: tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for key, text in asked.items()
    }
    todo = sorted((p for p in problems if p.key not in known), key=lambda p: len(ids[p.key]))
    with Grader(answers=args.answers) as grader, out.open("a") as written, torch.inference_mode():
        for first in range(0, len(todo), args.batch):
            batch = todo[first : first + args.batch]
            padded = tokenizer.pad({"input_ids": [ids[p.key] for p in batch]}, return_tensors="pt")
            found = model.generate(**padded, max_new_tokens=args.tokens, do_sample=False)
            for problem, answer in zip(batch, found[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
                end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
                text = tokenizer.decode(answer[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
                verdict = grader.grade(text, problem).verdict
                row = {"problem": problem.key, "prompt_tokens": ids[problem.key], "text": text, "verdict": verdict}
                written.write(json.dumps(row) + "\n")
                rows.append(row)
            written.flush()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("problems")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, the end token included")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt", default="sequential")
    parser.add_argument("--answers", default="lenient")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    ours = by_polythink(args, args.out / "eval")
    middle = time.monotonic()
    theirs = by_transformers(args, args.out / "generate.jsonl")
    seconds = middle - began, time.monotonic() - middle

    measured = json.loads((args.out / "eval" / "eval.json").read_text())["metrics"]["mean@1"]
    assert {row["problem"] for row in theirs} == set(ours), "both answer the same problems"
    print(f"{len(theirs)} problems, at most {args.tokens} tokens, prompt {args.prompt}, answers {args.answers}")
    for name, rows, spent in (("polythink eval", ours.values(), seconds[0]), ("generate", theirs, seconds[1])):
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(row["verdict"] for row in rows).most_common())
        print(f"{name}: {verdicts}; {spent:.0f} s")
    print(f"polythink eval, 95% interval: {show('mean@1', measured)}")
    own = own_tokens(args)
    alike = [row["prompt_tokens"] == own[row["problem"]] for row in theirs]
    same = [row["text"] == ours[row["problem"]]["text"] for row in theirs]
    both = sum(a and b for a, b in zip(alike, same, strict=True))
    print(f"prompts of the same tokens: {sum(alike)}; texts identical: {sum(same)}, of these prompts {both}")


def own_tokens(args: argparse.Namespace) -> dict[str, list[int]]:
    """The tokens of each problem's prompt as polythink writes it."""
    vocabulary, prompt = load_vocabulary(args.model, mode="sequential"), get_prompt(args.prompt)
    problems = load_problems(args.problems, limit=args.limit, seed=0)
    return {p.key: vocabulary.encode_prompt(prompt.fill(p.question), prompt.text) for p in problems}


if __name__ == "__main__":
    main()
