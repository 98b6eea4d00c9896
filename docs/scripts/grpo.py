"""Reinforcement learning with a reward of one's own: right answers, sooner."""

from polythink import GRPOConfig, load, load_problems, train_grpo


def right_and_fast(sample):
    """+1 or -1 for the answer, less a little for every sequential step."""
    return (1.0 if sample.right else -1.0) - 0.01 * sample.critical_path


lm = load("runs/smoke/sft/model")
problems = load_problems("countdown-mini:train")
config = GRPOConfig(reward=right_and_fast, steps=3, prompts_per_step=4, group_size=4, lr=1e-4)
summary = train_grpo(lm, config, problems, "runs/my-grpo", seed=0)
print(f"reward {summary['reward']:.2f}; curves are in runs/my-grpo/metrics.jsonl")
