"""The configuration that EIT and E-EIT share."""

from __future__ import annotations

from polythink.errors import UserError
from polythink.models.architectures.attention import ROLES
from polythink.models.architectures.config import BackboneConfig


class InteractionConfig(BackboneConfig):
    """`interaction_in` names the attentions whose heads interact: any of `source`, `target` and `cross`.

    None: the encoder's self-attention if there is an encoder, otherwise the decoder's.
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

    def folds(self, queries: int) -> bool:
        """Whether folding the first convolution into the keys takes fewer products, with as many keys as `queries`.

        Plain: M M D + C M per cell (all pairs, then the convolution). Folded: C M D per key and C D per cell. Only a
        kernel of one key folds: a wider one would read keys that the mask forbids.
        """
        kernel, channels = self.mixings()[0]
        heads, width = self.num_attention_heads, self.hidden_size
        plain = queries * heads * (width + channels)
        return kernel == 1 and channels * (width + queries * self.head_size) <= plain

    def check_trace_mask(self) -> None:
        wide = self.interacts("target") and max(kernel for kernel, _ in self.mixings()) > 1
        if wide:
            raise UserError(
                f"{self.model_type} with kernels wider than one key reads neighbouring keys, which a 4-D mask of "
                "parallel traces does not keep side by side; set its kernels to 1 for parallel traces (wider ones work "
                "on plain text with a padding mask)"
            )
