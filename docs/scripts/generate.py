"""Sample four responses, each with three paths at once."""

from polythink import Engine, Request, SamplingParams, load

lm = load("runs/smoke/sft/model")  # the folder of a run, any transformers folder, or a hub name
engine = Engine(lm)
prompt = engine.encode_prompt("9 8 5 -> 12 together :")
params = SamplingParams(paths=3, max_blocks=1, max_main_tokens=24, max_path_tokens=16, max_summary_tokens=8)
for rollout in engine.generate([Request(prompt, sample=i) for i in range(4)], params, seed=0):
    print(rollout.text)
    print(f"  {rollout.tokens} tokens in {rollout.critical_path} steps")
