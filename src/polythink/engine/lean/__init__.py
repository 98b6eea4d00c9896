"""A plain forward of the Llama family over the tensors of a loaded transformers model."""
