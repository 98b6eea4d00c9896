"""The names of the engine's backends, for those who choose one. Without torch."""

SHARED = ("graphed", "captured", "lean", "flat", "padded")  # backends in which branches share keys and values
KINDS = (*SHARED, "recurrent")  # of models of transformers
OF_GGUF = ("llama_cpp", "llama_cpp_fast")  # run .gguf files as they are
BACKENDS = ("auto", *KINDS, *OF_GGUF)
