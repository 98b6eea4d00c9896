"""Text to tokens and back: what is put in front of a prompt, what a text may spell, and which tokens end a trace.

The text of data is never read as control tokens (end, begin, padding, chat marks), only the dialect's tags are: what
spells one is encoded as ordinary characters. The text around a problem (the prompt's own, the chat template) may hold
control tokens, since it was written for the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from polythink.errors import UserError
from polythink.models.settings import PLACEHOLDER, in_short

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # characters that no text is made of (Unicode noncharacters)


class Codec:
    """A tokenizer as it is used here: its text-to-token rules without those that depend on where a text begins.

    Parts of a trace are encoded one by one, so SentencePiece's space in front of every text is left out (`exact`): the
    tokens of the parts are those of the whole, and decoding gives the text again. A prompt begins as in the tokenizer's
    own call. `tags` and `ends` are the ids of the dialect's tags and of the tokens that end a trace;
    `chat_template_kwargs` is what the chat template is told besides the messages.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tags: Collection[int],
        ends: Collection[int],
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.told = tokenizer, dict(chat_template_kwargs or {})
        # the Rust tokenizer itself, where there is one: a third of the time of the wrapper
        self.own: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self.exact = None if self.own is None else without_prefix_space(self.own)
        self.closed = self.own is not None and isinstance(self.own.model, WordLevel)
        self.ends = frozenset(ends)
        self.dropped = self.ends | {tokenizer.pad_token_id}
        self.controls = {id: text for id, text in control_tokens(tokenizer).items() if id not in set(tags)}
        self.unknown = None if tokenizer.unk_token_id in self.ends else tokenizer.unk_token_id
        self._watched = frozenset(self.controls) | {self.unknown}
        longest_first = sorted(self.controls.values(), key=len, reverse=True)
        self._spelling = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self.head: tuple[int, ...] = prompt_head(tokenizer)
        self._words, self._texts = _plain_words(self.own, self._watched) if self.closed and not self.head else ({}, {})
        self._literal: Tokenizer | None = None
        self._spelt: dict[str, list[int]] = {}  # what was asked of it, by control token

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as it stands. `UserError` for text outside of a closed vocabulary."""
        plain = self._by_words(text)
        if plain is not None:
            return plain
        ids = self._ids(self.exact, text)
        return ids if self._watched.isdisjoint(ids) else self._as_text(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, with tags, without end and padding tokens."""
        ids = [int(i) for i in ids if i not in self.dropped]
        if self._texts and all(i in self._texts for i in ids):
            return " ".join([self._texts[i] for i in ids])
        return self.spell(ids)

    def spell(self, ids: Sequence[int]) -> str:
        """The text of `ids` with all control tokens, end and padding too, and with the space that it begins with."""
        if self.exact is not self.own:
            return self.exact.decode(ids, skip_special_tokens=False)
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def encode_prompt(self, text: str, template: str = PLACEHOLDER, chat: bool = False, bos: bool = False) -> list[int]:
        """Token ids of a whole prompt: a user turn with `chat`, beginning as in the tokenizer's own call with `bos`.

        `template` is the text around the problem: what it spells itself may be control tokens.
        """
        plain = None if chat else self._by_words(text)
        if plain is not None:
            return plain
        head = self.head if bos else ()
        if head and not chat:  # the text may bring it along
            begin = "".join(self.tokenizer.convert_ids_to_tokens(list(head)))
            text, template = text.removeprefix(begin), template.removeprefix(begin)
        before, problem, after = _around(text, template)
        [problem], spelt_by = self._hide([problem], before + after)
        text = before + problem + after
        if chat:
            text = self._rendered([{"role": "user", "content": text}])
        return self._of_prompt(text, spelt_by, head, strict=not chat)

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], template: str = PLACEHOLDER, bos: bool = False
    ) -> list[int]:
        """Token ids of a conversation in the tokenizer's chat template, up to where the assistant is to answer.

        A message has a `role` and texts (`content`, `reasoning_content`, ..). What these spell are no control tokens;
        `template` is the text around each content of the user's, and may write some. One message of the user's is what
        `encode_prompt` makes of it. `UserError` for messages that the chat template refuses.
        """
        before, _, after = template.partition(PLACEHOLDER)
        texts, spelt_by = self._hide([text for m in messages for name, text in m.items() if name != "role"], template)
        rest = iter(texts)
        hidden = [{name: text if name == "role" else next(rest) for name, text in m.items()} for m in messages]
        for message in hidden:
            if message["role"] == "user":
                message["content"] = before + message["content"] + after
        return self._of_prompt(self._rendered(hidden), spelt_by, self.head if bos else (), strict=False)

    def encode_raw(self, text: str, bos: bool = False) -> list[int]:
        """Token ids as the tokenizer's own call gives them: what spells a control token is one. For a caller who writes
        whole prompts, chat marks and all. `UserError` for text outside of a closed vocabulary."""
        ids = self._ids(self.own, text)
        if self.unknown in ids:
            self._refuse_unknown(text)
        return ids if not bos or tuple(ids[: len(self.head)]) == self.head else [*self.head, *ids]

    def spelled_controls(self, text: str) -> list[str]:
        """The control tokens whose spelling is in `text`, in their order: no trace that is drawn holds one as text."""
        return self._spelling.findall(text)

    # --- parts

    def _by_words(self, text: str) -> list[int] | None:
        """The ids of a text of known words with spaces between, read without the tokenizer; None for any other."""
        words = self._words
        if not words:
            return None
        try:
            return [words[word] for word in text.split(" ") if word]
        except KeyError:
            return None

    def _ids(self, backend: Tokenizer | None, text: str) -> list[int]:
        if backend is not None:
            return backend.encode(text, add_special_tokens=False).ids
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _as_text(self, text: str) -> list[int]:
        """The ids of a text that spells control tokens, or that a closed vocabulary lacks words of."""
        ids: list[int] = []
        for i, part in enumerate(self._spelling.split(text)):  # texts and spellings in turn
            ids += self._spelt_out(part) if i % 2 else self._ids(self.exact, part)
        if self.unknown in ids:
            self._refuse_unknown(text)
        return ids

    def _spelt_out(self, spelling: str) -> list[int]:
        """A control token's spelling as ordinary characters; `UserError` where the vocabulary cannot write it."""
        ids = self._spelt.get(spelling)
        if ids is None:
            ids = self._spelt[spelling] = self._without_special(spelling)
        refused = self.controls if self.closed else self.ends
        if not refused or not any(i in refused for i in ids):
            return ids
        raise UserError(
            f"the text holds {spelling!r}, a control token of the model that its tokenizer cannot write as ordinary "
            "characters; take it out of the text"
        )

    def _without_special(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are read as ordinary characters.

        By a tokenizer of its own, made when the first text asks: others may be using this one in another thread.
        """
        if self.exact is None:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if self._literal is None:
            self._literal = Tokenizer.from_str(self.exact.to_str())
            self._literal.encode_special_tokens = True
        return self._literal.encode(text, add_special_tokens=False).ids

    def _hide(self, texts: Sequence[str], around: str) -> tuple[list[str], dict[str, str]]:
        """The texts with a mark for each control token that they spell, and what each mark stands for.

        No mark is in any of them or in the text `around` them.
        """
        spellings = dict.fromkeys(spelling for text in texts for spelling in self.spelled_controls(text))
        free = (m for m in _MARKS if m not in around and not any(m in text for text in texts))
        marks = dict(zip(spellings, free, strict=False))
        if len(marks) < len(spellings):
            raise UserError(f"the problem spells {len(spellings)} control tokens of the model; take some of them out")
        hidden = [self._spelling.sub(lambda found: marks[found[0]], text) for text in texts]
        return hidden, {mark: spelling for spelling, mark in marks.items()}

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The messages in the chat template."""
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self.told)
        except TemplateError as error:
            raise UserError(f"the model's chat template refuses these messages: {in_short(error)}") from error

    def _of_prompt(self, text: str, spelt_by: Mapping[str, str], head: Sequence[int], strict: bool) -> list[int]:
        """The ids of a prompt with marks in it, after `head` where it does not begin so. `strict`: no unknown words."""
        first, *rest = re.split(f"([{''.join(spelt_by)}])", text) if spelt_by else [text]
        ids = self._ids(self.own, first) if first else []
        for part in rest:
            ids += self._spelt_out(spelt_by[part]) if part in spelt_by else self._ids(self.exact, part)
        if strict and self.unknown in ids:
            self._refuse_unknown(text)
        return ids if tuple(ids[: len(head)]) == tuple(head) else [*head, *ids]

    def _refuse_unknown(self, text: str) -> None:
        words = [w for w in text.split() if self.unknown in self._ids(self.exact, w)]
        raise UserError(
            f"the tokenizer's closed vocabulary has no token for {', '.join(map(repr, words[:3]))}; "
            "use a model with an open vocabulary (for a tiny one: model.tokenizer=bytes)"
        )


def _plain_words(tokenizer: Tokenizer, watched: Collection[int]) -> tuple[dict[str, int], dict[int, str]]:
    """The words that such a tokenizer splits off at spaces and knows, but for the `watched` ids, and the text of each.

    Empty where its words depend on more than spaces. A closed vocabulary's texts are short and many: without the
    tokenizer one takes a twentieth of the time.
    """
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    plain = isinstance(tokenizer.pre_tokenizer, WhitespaceSplit) and not (tokenizer.normalizer or tokenizer.decoder)
    if not plain or any(len(content.split()) != 1 for content in added):
        return {}, {}
    words = {
        word: id
        for word, id in tokenizer.get_vocab().items()
        if id not in watched and word.split() == [word] and (word in added or not any(a in word for a in added))
    }
    return words, {id: word for word, id in words.items()}


def _around(text: str, template: str) -> tuple[str, str, str]:
    """A prompt as what stands before the problem, the problem, and what stands after it."""
    before, _, after = template.partition(PLACEHOLDER)
    if not (text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
        before = after = ""
    return before, text[len(before) : len(text) - len(after)], after


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that are no text, by id."""
    special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def prompt_head(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer's own call puts in front of every text: its BOS where it does so."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    places = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    return tuple(whole[: next(places, 0)]) if bare else ()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: bool) -> tuple[int, ...]:
    """All tokens that end a response, the one that is written first: in a chat, what its template ends a turn with.

    Besides the tokenizer's end token those of the generation configuration. The one number that transformers takes from
    a model's shape where there is no such file may be a default, so it counts only if it is a control token.
    """
    generation = getattr(model, "generation_config", None)
    given = getattr(generation, "eos_token_id", None)
    listed = [] if given is None else [given] if isinstance(given, int) else list(given)
    listed = [id for id in listed if 0 <= id < model.config.get_text_config().vocab_size]
    controls = control_tokens(tokenizer)
    if len(listed) == 1 and getattr(generation, "_from_model_config", False):
        listed = [id for id in listed if id in controls]
    turn = turn_end(tokenizer, controls) if chat and tokenizer.chat_template else None
    return tuple(dict.fromkeys(int(id) for id in (turn, tokenizer.eos_token_id, *listed) if id is not None))


def turn_end(tokenizer: PreTrainedTokenizerBase, controls: Mapping[int, str]) -> int | None:
    """The control token that the chat template writes after an assistant's turn, None where it writes none."""
    said = _MARKS[0]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    try:
        rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError:  # a template that takes no finished turn says nothing about its end
        return None
    after = rendered.rpartition(said)[2].lstrip() if said in rendered else ""
    found = [id for id, text in controls.items() if after.startswith(text)]
    return max(found, key=lambda id: len(controls[id]), default=None)


def without_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without the space that it puts in front of a text and takes off again; itself where it has none."""
    parts = {name: getattr(tokenizer, name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    states = {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}
    changed = {name: _plain(state) for name, state in states.items()}
    if changed == states:
        return tokenizer
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | changed))


def _plain(state: Any) -> Any:
    """The description of a tokenizer's part without the rules that add or take off a space at a text's beginning."""
    if isinstance(state, list):
        return [_plain(part) for part in state if part.get("type") != "Prepend"]
    if not isinstance(state, dict):
        return state
    kind = state.get("type")
    if kind == "Prepend":
        return None
    off = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}.get(kind, {})
    if kind == "Strip" and state.get("content") == " ":
        off = {"start": 0}
    lists = {key: _plain(value) for key, value in state.items() if key in ("normalizers", "pretokenizers", "decoders")}
    return state | lists | off
