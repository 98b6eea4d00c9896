"""What every architecture on the two frames has in common: sizes, dropout, special tokens, initialisation.

Field names avoid the prefixes `encoder_` and `decoder_`, which transformers rewrites when it prepares a cache: what has
no prefix belongs to the generating stack (the decoder, or all there is in a decoder-only model), and `source_..` to the
encoder.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedConfig

from polythink.errors import UserError

INITIALISATIONS = ("published", "alive")


class FrameConfig(PreTrainedConfig):
    """Shape of a model on one of the frames; architectures add fields of their own.

    `initialisation`: "published" is what the papers' code does; "alive" draws the layers between the logits so that the
    logits keep their spread (the published one leaves them almost constant over keys).
    `chunk_elements` bounds the floats of the attention maps of one layer that are alive at a time: above it, query rows
    are worked on in chunks, and computed again in the backward pass. It changes memory and time, not results.
    """

    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 32_768
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 6
    num_source_layers: int | None = None  # of the encoder; None: as many as the decoder has
    num_attention_heads: int = 8
    max_position_embeddings: int = 4096  # positions are sinusoidal: a promise, no parameters
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

    def on_frame(self, is_encoder_decoder: bool) -> FrameConfig:
        """This configuration for that frame: itself where it is one already, otherwise a copy."""
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
        """How many sets of keys and values decoding keeps: one a layer, and what the stack keeps besides."""
        return self.num_hidden_layers

    def layers_of(self, role: str) -> int:
        """Layers of the stack in which the attention of this role stands."""
        return self.num_source_layers if role == "source" else self.num_hidden_layers
