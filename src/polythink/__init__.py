"""polythink: train, run, evaluate and serve language models that think in parallel.

The rooms, from the floor up: `trace`, `run`; `models`, `problems`; `engine`, `rewards`; `evaluate`; `train`;
`experiment`; `cli`. Imports go down only. Nothing is imported here, so that rooms without torch stay without it.
"""

__version__ = "0.1.0"
