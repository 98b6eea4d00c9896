"""Small models of every architecture and variant, in evaluation mode, with attention that matters."""

from __future__ import annotations

import torch

from polythink.models.architectures import ARCHITECTURES

# name -> (architecture, fields): every code path once
VARIANTS = {
    "vanilla": ("vanilla", {}),
    "eit": ("eit", {}),
    "eit-wide": ("eit", {"isi_kernel": 7, "csi_kernel": 3}),
    "e_eit": ("e_eit", {}),
    "e_eit-wide": ("e_eit", {"kernel": 3}),
    "partialformer": ("partialformer", {"expanded_heads": 6, "source_expanded_heads": 5}),
    "partialformer-full": ("partialformer", {"expanded_heads": 6, "head_mlp": False}),
    "partialformer-own": ("partialformer", {"expanded_heads": 6, "residual_attention": False}),
}
EVERYWHERE = {"eit": {"interaction_in": ["source", "target", "cross"]}}
EVERYWHERE["e_eit"] = EVERYWHERE["eit"]
VOCABULARY = 29


def make_config(name: str, **more):
    architecture, fields = VARIANTS[name]
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_source_layers": 3, "num_attention_heads": 4, "dropout": 0.0, "initialisation": "alive",
    }  # fmt: skip
    return ARCHITECTURES[architecture][0](**{**shape, **EVERYWHERE.get(architecture, {}), **fields, **more})


def make(name: str, backbone: str = "causal", seed: int = 0, **more):
    """A random model; backbone is "causal" or "seq2seq". Projections are enlarged: random attention is almost even."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[VARIANTS[name][0]][1 + (backbone == "seq2seq")](make_config(name, **more))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "proj.weight" in parameter_name:
                parameter.mul_(2)
    return model.eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random ids, special ones left out."""
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
