"""What a model reads and writes, without its weights: tokenizer, dialect, end tokens, prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from polythink.errors import UserError
from polythink.models import tags
from polythink.models.codec import Codec, end_tokens
from polythink.models.forward import context_of
from polythink.models.settings import ModelSettings, with_dialect
from polythink.trace.modes import get_mode


class Described(Protocol):
    """A model, or what describes it."""

    config: PreTrainedConfig
    generation_config: GenerationConfig | Any


@dataclass
class Vocabulary:
    """A tokenizer, and the dialect whose tags a model with it writes; the model itself may be elsewhere.

    In a mode of one flat text the tokenizer may lack tags: such a model writes none of them (`absent_tags`), and there
    is nothing that it could fork.
    """

    model: Described
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings

    def __post_init__(self) -> None:
        self.settings, self.dialect = with_dialect(self.settings)
        needed = get_mode(self.settings.mode).isolated
        self.tag_ids: dict[str, int] = tags.tag_ids(self.tokenizer, self.dialect, needed)
        self.absent_tags = frozenset(tag for tag, id in self.tag_ids.items() if id < 0)
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end token; set its eos_token before using it here")
        self.ends: tuple[int, ...] = end_tokens(self.model, self.tokenizer, self.settings.chat)
        self.eos: int = self.ends[0]  # the one that the runtime and the training data write
        self.pad: int = self.eos if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        told = self.settings.chat_template_kwargs
        self.codec = Codec(self.tokenizer, self.tag_ids.values(), self.ends, told)
        if self.settings.bos is None:
            self.settings = replace(self.settings, bos=bool(self.codec.head))

    @property
    def opens_blocks(self) -> bool:
        """Can a token begin a block? Not where the tokenizer lacks every tag that one may begin with."""
        return not self.absent_tags.issuperset(self.dialect.first_tags)

    @property
    def context(self) -> int:
        """The longest sequence of positions the model was made for."""
        return context_of(self.model.config)

    def require_tags(self, text: str | None = None) -> None:
        """`UserError` where the tokenizer lacks tags that a fork, or this text, is made of."""
        if missing := sorted(tag for tag in self.absent_tags if text is None or tag in text):
            raise UserError(
                f"the model was loaded as it is, without {', '.join(missing)} (dialect {self.dialect.name!r}), and can "
                "neither fork nor learn them; load it in a mode that forks, or with add_tags=True (in a "
                "recipe model.add_tags: true)"
            )

    def check_ids(self, ids: Sequence[int]) -> None:
        """`UserError` where one of these is no token of the model."""
        size = self.model.config.get_text_config().vocab_size
        wrong = next((id for id in ids if not 0 <= id < size), None)
        if wrong is not None:
            raise UserError(f"token id {wrong} is not in the model's vocabulary of {size}; ids begin at 0")

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as it stands: no special tokens, no space in front. See `Codec` for what is refused."""
        return self.codec.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation up to the assistant's next turn: see `Codec.encode_chat`. The settings' prompt
        stands around each message of the user's."""
        if not self.tokenizer.chat_template:
            raise UserError("the tokenizer has no chat template, in which a conversation could be written")
        return self.codec.encode_chat(messages, self.settings.prompt, bool(self.settings.bos))

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        """Token ids of a whole prompt, in the chat template and with BOS where the settings say so.

        `template`, the text around the problem (None: that of the settings), may write control tokens; a problem that
        spells some is read as ordinary characters.
        """
        if self.settings.chat and not self.tokenizer.chat_template:
            raise UserError("chat: true, but the tokenizer has no chat template; set chat: false, --no-chat")
        around = self.settings.prompt if template is None else template
        return self.codec.encode_prompt(text, around, self.settings.chat, bool(self.settings.bos))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, with tags, without end and padding tokens."""
        return self.codec.decode(ids)
