"""EIT, E-EIT, PartialFormer and the vanilla Transformer as ordinary transformers models.

Importing this package registers them with `AutoConfig`, `AutoModelForCausalLM` and `AutoModelForSeq2SeqLM`.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from polythink.models.architectures.e_eit import EEITConfig, EEITForCausalLM, EEITForConditionalGeneration
from polythink.models.architectures.eit import EITConfig, EITForCausalLM, EITForConditionalGeneration
from polythink.models.architectures.partialformer import (
    PartialFormerConfig,
    PartialFormerForCausalLM,
    PartialFormerForConditionalGeneration,
)
from polythink.models.architectures.vanilla import (
    VanillaConfig,
    VanillaForCausalLM,
    VanillaForConditionalGeneration,
)

ARCHITECTURES = {
    "vanilla": (VanillaConfig, VanillaForCausalLM, VanillaForConditionalGeneration),
    "eit": (EITConfig, EITForCausalLM, EITForConditionalGeneration),
    "e_eit": (EEITConfig, EEITForCausalLM, EEITForConditionalGeneration),
    "partialformer": (PartialFormerConfig, PartialFormerForCausalLM, PartialFormerForConditionalGeneration),
}

for _name, (_config, _causal, _seq2seq) in ARCHITECTURES.items():
    AutoConfig.register(_name, _config)
    AutoModelForCausalLM.register(_config, _causal)
    AutoModelForSeq2SeqLM.register(_config, _seq2seq)
