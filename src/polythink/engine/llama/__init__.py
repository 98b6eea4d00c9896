"""llama.cpp as it is used here: its weights, its memory of sequences, and the check that it passes."""
