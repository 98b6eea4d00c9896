"""Fine-tune on traces; a JSONL or Parquet file with the same two fields works too."""

from polythink import SFTConfig, load, train_sft

traces = [
    {
        "question": "9 8 5 -> 12",
        "trace": "<Parallel><Path> 9 + 8 = 17 - 5 = 12 ok </Path><Path> 9 - 8 = 1 + 5 = 6 no </Path></Parallel>\n"
        "<Summary> + - </Summary> \\boxed{ 9 + 8 - 5 }",
    },
    {"question": "7 4 -> 11", "trace": "7 + 4 = 11 ok \\boxed{ 7 + 4 }"},
]
lm = load("runs/smoke/sft/model")
summary = train_sft(lm, SFTConfig(steps=5, batch=8, lr=1e-3), traces, "runs/my-sft")
print(f"loss {summary['loss']:.3f}; the model is in runs/my-sft/model")
