"""One choice of a completions response, whole or bit by bit, in OpenAI's legacy form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from polythink.serve.prompts import Prompt, Spelling
from polythink.serve.told import Piece, TextOrder, Token, finish_reason, stop_reason, told_event

if TYPE_CHECKING:
    from polythink.serve.completions import CompletionRequest
    from polythink.serve.generation import Update

LEAST = -9999.0  # for a probability of 0, whose logarithm JSON cannot write (vLLM's)
Spell = Callable[[int], str]


class Choice:
    """The choice number `index`: the prompt where it is echoed, then what is told of its trace."""

    def __init__(
        self, index: int, prompt: Prompt, before: Sequence[Token], body: CompletionRequest, spelling: Spelling
    ):
        self.index, self.prompt, self.body, self.spelling = index, prompt, body, spelling
        self.linear = TextOrder()
        self.events: list[dict[str, Any]] = []
        self._before: Piece | None = Piece(prompt.text, list(before)) if body.echo else None
        self._first = True
        self._offset = 0  # characters of the text that has been told

    def feed(self, update: Update) -> Piece:
        """What the update adds to the text. A stop token ends the response without being in its text."""
        if self.body.return_events:
            self.events.append(told_event(update))
        return self.linear.add(update)

    @property
    def reason(self) -> str | None:
        """Why it ended; None while it runs. Without a trace (`max_tokens` 0) its budget ran out."""
        if self.body.max_tokens == 0:
            return "length"
        return None if self.linear.rollout is None else finish_reason(self.linear.rollout)

    @property
    def stop_reason(self) -> str | int | None:
        """vLLM's: the stop string or the id of the stop token, None for any other end."""
        rollout = self.linear.rollout
        if rollout is None:
            return None
        return stop_reason(rollout, self.body.stop, self.body.stop_token_ids, self.spelling.decode)

    def told(self, piece: Piece) -> dict[str, Any]:
        """The object of a chunk with this piece, or of the whole response if it is all."""
        if self._before is not None:
            before, self._before = self._before, None
            before.extend(piece)
            piece = before
        body = self.body
        choice: dict[str, Any] = {"index": self.index, "text": piece.text, "logprobs": None}
        if body.logprobs is not None:
            choice["logprobs"] = self._logprobs(piece.tokens)
        choice |= {"finish_reason": self.reason, "stop_reason": self.stop_reason}
        if body.return_token_ids:
            own = piece.tokens[len(self.prompt.ids) :] if self._first and body.echo else piece.tokens
            choice["token_ids"] = [token.id for token in own]
            if self._first:
                choice["prompt_token_ids"] = list(self.prompt.ids)
        if body.prompt_logprobs is not None and self._first:
            choice["prompt_logprobs"] = prompt_logprobs(self.prompt, self.spelling.of)
        if body.return_events and self.events:
            choice["polythink"], self.events = self.events[0] if body.stream else self.events, []
        self._first = False
        self._offset += len(piece.text)
        return choice

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        spell = (lambda id: f"token_id:{id}") if self.body.return_tokens_as_token_ids else self.spelling.of
        offsets, at = [], self._offset
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        return {
            "tokens": [spell(token.id) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token, spell) for token in tokens] if self.body.logprobs else None,
            "text_offset": offsets,
        }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)


def _top(token: Token, spell: Spell) -> dict[str, float] | None:
    """The likeliest tokens by their text, the token itself among them; of equal texts the likeliest counts."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for id, logprob in (dict(token.top) | {token.id: token.logprob}).items():  # its own as `token_logprobs` has it
        text = spell(id)
        found[text] = max(found.get(text, LEAST), logprob)
    return found


def prompt_logprobs(prompt: Prompt, spell: Spell) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's form: None for the first token, then by token id its log-probability, rank (from 1) and text."""
    scores = prompt.scores
    found: list[dict[str, dict[str, Any]] | None] = [None]
    for place in range(1, len(prompt.ids)):
        ranked = [(id, logprob, rank) for rank, (id, logprob) in enumerate(scores.top[place], start=1)]
        own = (prompt.ids[place], scores.logprobs[place], scores.ranks[place])
        found.append(
            {
                str(id): {"logprob": _finite(logprob), "rank": rank, "decoded_token": spell(id)}
                for id, logprob, rank in (own, *(r for r in ranked if r[0] != own[0]))
            }
        )
    return found
