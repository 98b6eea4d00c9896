"""The prompts of a completions request as token ids, and their own log-probabilities where these are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polythink.errors import UserError
from polythink.serve.detokenise import Decoding, Detokeniser
from polythink.serve.told import Token

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel
    from polythink.serve.service import Scores, Service

LONGEST_TOKEN = 256  # characters: a text with more of them per position of the context cannot fit


class Spelling:
    """Token ids as text: one by one, as `logprobs` lists them, and as they go on."""

    def __init__(self, lm: LanguageModel) -> None:
        self.decode, self.decoding = lm.decode, Decoding(lm.codec)
        self._codec, self._known = lm.codec, {}

    def of(self, id: int) -> str:
        """One token by itself, control tokens too. Its own space in front is a part of it: "▁a" is not "a"."""
        if id not in self._known:
            self._known[id] = self._codec.spell([id])
        return self._known[id]

    def bytes_of(self, id: int) -> list[int] | None:
        """The bytes of one token, of a part of a character too; None where its tokenizer does not tell them."""
        raw = self.decoding.raw(id, self.of(id))
        return None if raw is None else list(raw)


@dataclass
class Prompt:
    """One prompt. `text` is what an echo repeats."""

    ids: tuple[int, ...]
    text: str
    scores: Scores | None = None

    def tokens(self, spelling: Spelling) -> list[Token]:
        """Its tokens with the part of `text` that each completes; the first has no log-probability."""
        detokeniser = Detokeniser(spelling.decoding)
        found = [Token(id, detokeniser.add(id), None) for id in self.ids]
        found[-1].text += detokeniser.end()
        if "".join(token.text for token in found) != self.text:
            self._lay_over_the_text(found, spelling)
        if self.scores is not None:
            for token, logprob, top in zip(found[1:], self.scores.logprobs[1:], self.scores.top[1:], strict=True):
                token.logprob, token.top = logprob, top
        return found

    def _lay_over_the_text(self, found: Sequence[Token], spelling: Spelling) -> None:
        """Give the tokens their parts of a text that the tokenizer has changed, from the right, where both end.

        What it has put in is no part of the text: BOS in front, SentencePiece's space there and after control tokens.
        A control token that the text spells is.
        """
        end = len(self.text)
        for token in reversed(found):
            own = spelling.of(token.id) if token.id in spelling.decoding.dropped else token.text
            if own.startswith(" ") and not self.text.endswith(own, 0, end) and self.text.endswith(own[1:], 0, end):
                own = own[1:]
            start = max(end - len(own), 0)
            token.text, end = self.text[start:end], start
        found[0].text = self.text[:end] + found[0].text


def read_prompts(
    given: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]], service: Service, special: bool
) -> list[Prompt]:
    """The prompts of a request. `special`: a text begins with BOS where the model has it."""
    several = list(given) if not isinstance(given, str) and given and not isinstance(given[0], int) else [given]
    if not several or not given:
        raise UserError("prompt is empty; give a text or token ids")
    return [_read(one, service, special) for one in several]


def _read(given: str | Sequence[int], service: Service, special: bool) -> Prompt:
    lm, context = service.lm, service.lm.context
    if isinstance(given, str):
        if len(given) > context * LONGEST_TOKEN:
            raise UserError(
                f"the prompt has {len(given)} characters, which cannot fit the model's context of {context} tokens"
            )
        ids = lm.codec.encode_raw(given, special and bool(lm.settings.bos))
        if not ids:
            raise UserError("the prompt has no token; give some text")
        return Prompt(tuple(ids), given)
    if not given:
        raise UserError("a prompt is empty; give a text or token ids")
    size = lm.model.get_input_embeddings().num_embeddings
    for id in given:
        if not 0 <= id < size:
            raise UserError(f"the prompt has the token id {id}; this model's go from 0 to {size - 1}")
    if len(given) >= context:
        raise UserError(
            f"the prompt has {len(given)} tokens and the model's context holds {context}; shorten the prompt"
        )
    return Prompt(tuple(given), lm.decode(given))
