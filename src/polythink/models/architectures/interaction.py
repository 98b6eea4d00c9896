"""The configuration that EIT and E-EIT share."""

from __future__ import annotations

from polythink.errors import UserError
from polythink.models.architectures.attention import ROLES
from polythink.models.architectures.config import FrameConfig
from polythink.models.architectures.neighbours import SLOTS


class InteractionConfig(FrameConfig):
    """`interaction_in` names the attentions that interact, of `source`, `target` and `cross`.

    None: the encoder's self-attention where there is an encoder, otherwise the decoder's.
    """

    interaction_in: list[str] | None = None

    def __post_init__(self, **kwargs) -> None:
        super().__post_init__(**kwargs)
        wrong = set(self.interaction_in or ()) - set(ROLES)
        if wrong:
            raise UserError(f"interaction_in names {', '.join(sorted(wrong))}; it may name {', '.join(ROLES)}")
        heads = self.num_attention_heads
        for kernel, channels in self.mixings():
            if kernel < 1 or kernel % 2 == 0:
                raise UserError(f"a kernel of {kernel} keys has no middle; use an odd number")
            if channels % heads:
                raise UserError(f"{channels} channels cannot be shared by {heads} heads; use a multiple of {heads}")

    def interacts(self, role: str) -> bool:
        if self.interaction_in is None:
            return role == ("source" if self.is_encoder_decoder else "target")
        return role in self.interaction_in

    def mixings(self) -> list[tuple[int, int]]:
        """(kernel, channels) of every pair of convolutions, in order."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """How many keys to either side a cell of a decoder-only model's self-attention reads at once."""
        wide = self.interacts("target") and not self.is_encoder_decoder
        return max(kernel for kernel, _ in self.mixings()) // 2 if wide else 0

    @property
    def cache_slots(self) -> int:
        return self.num_hidden_layers + SLOTS * (self.reach > 0)
