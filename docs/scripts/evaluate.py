"""Evaluate a model: four samples per problem, every number with its 95% interval over problems."""

from polythink import evaluate, load, load_problems

lm = load("runs/smoke/sft/model")
problems = load_problems("countdown-mini:heldout", limit=20)
result = evaluate(lm, problems, samples=4, seed=0, out="runs/my-evaluation")
for name in ("mean@4", "pass@4", "maj@4", "parallel_ratio"):
    metric = result["metrics"][name]
    print(f"{name:15} {metric['value']:6.1%}   {metric['low']:.1%} to {metric['high']:.1%}")
