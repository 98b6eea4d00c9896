"""The configuration that all architectures on the two backbones share: sizes, dropout, special tokens, initialisation.

Field names avoid the prefixes `encoder_` and `decoder_`, which transformers rewrites when it prepares a cache: a field
without a prefix belongs to the generating stack (the decoder, or the only stack of a decoder-only model), `source_..`
to the encoder.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedConfig

from polythink.errors import UserError
from polythink.models.architectures.calls import CACHE_NAMES

INITIALISATIONS = ("published", "alive")


class BackboneConfig(PreTrainedConfig):
    """Shape of a model on one of the backbones (decoder-only or encoder-decoder); architectures add their own fields.

    `initialisation`: "published" is what the papers' code does; "alive" initialises the layers between the logits so
    that the logits keep their spread (the published one leaves them almost constant over keys).
    `chunk_elements` bounds the number of floats of one layer's attention maps that are alive at a time: above it, query
    rows are computed in chunks, and again in the backward pass. It changes memory and time, not results.
    """

    keys_to_ignore_at_inference = CACHE_NAMES

    vocab_size: int = 32_768
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 6
    num_source_layers: int | None = None  # of the encoder; None: the decoder's number
    num_attention_heads: int = 8
    max_position_embeddings: int = 4096  # positions are sinusoidal, so this adds no parameters
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    tie_word_embeddings: bool = True
    initialisation: str = "published"
    chunk_elements: int = 1 << 26
    use_cache: bool = True
    is_encoder_decoder: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs) -> None:
        self.num_source_layers = self.num_source_layers or self.num_hidden_layers
        super().__post_init__(**kwargs)
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}; "
                "change one of them"
            )
        if self.initialisation not in INITIALISATIONS:
            raise UserError(f"initialisation is {self.initialisation!r}; it must be 'published' or 'alive'")

    def with_encoder(self, is_encoder_decoder: bool) -> BackboneConfig:
        """Return self if the config is already of this kind (encoder-decoder or not), else a converted copy."""
        if self.is_encoder_decoder == is_encoder_decoder:
            return self
        config = copy.deepcopy(self)
        config.is_encoder_decoder = is_encoder_decoder
        return config

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def cache_slots(self) -> int:
        """Number of key and value sets that decoding keeps: one per layer, plus those of the stack."""
        return self.num_hidden_layers

    def check_trace_mask(self) -> None:
        """`UserError` where the architecture cannot take the 4-D mask of a parallel trace."""

    def layers_of(self, role: str) -> int:
        """Number of layers of the stack that holds the attentions of this role."""
        return self.num_source_layers if role == "source" else self.num_hidden_layers
