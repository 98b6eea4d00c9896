"""Token ids to text as they come, one segment at a time: the pieces concatenate to the text of the whole exactly.

A token's text may depend on the token before it (a space between words), and a character may lie in several tokens.
So each new token is decoded together with the last one before it, and what is not a whole character yet is held back.
Runs of byte tokens (SentencePiece's `<0xE2>`) are text only as a whole: one wrong byte changes all of a run.
"""

from __future__ import annotations

import json
import logging
import re
from random import Random

from tokenizers.decoders import Decoder

from polythink.models.codec import Codec

log = logging.getLogger(__name__)

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BROKEN = "\ufffd"  # what stands for bytes that are no character, or not yet
# the character that stands for each byte in ByteLevel pieces (GPT-2's): itself where it can be seen
_SEEN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
ALPHABET = {chr(byte): byte for byte in _SEEN} | {chr(256 + i): byte for i, byte in enumerate(_UNSEEN)}
MOST_BYTES = 4  # of a character: it lies in at most so many tokens
TRIALS = 16  # random sequences of tokens that a tokenizer is tried on


class Decoding:
    """What a model's tokenizer needs to be decoded bit by bit; one for all segments.

    A tokenizer whose pieces depend on more than the token before (none that is known) is found out by trying: then the
    text of a segment comes whole, at its end.
    """

    def __init__(self, codec: Codec) -> None:
        self.decode, self.dropped = codec.decode, codec.dropped
        self._exact = codec.exact
        self._rules = "" if codec.exact is None else json.dumps(_state(codec.exact.decoder))
        fallback = "ByteFallback" in self._rules
        vocabulary = codec.exact.get_vocab(with_added_tokens=False) if fallback else {}
        self.bytes = frozenset(id for piece, id in vocabulary.items() if _BYTE.fullmatch(piece))
        self._alone: dict[int, str] = {}
        self.bit_by_bit = True
        self.bit_by_bit = all(self._agrees(tokens) for tokens in _trials(codec))
        if not self.bit_by_bit:
            log.warning("this tokenizer's text is known at the end of a segment only: streams come in whole segments")

    def alone(self, token: int) -> str:
        """The text of one token by itself."""
        if token not in self._alone:
            self._alone[token] = self.decode([token])
        return self._alone[token]

    def raw(self, token: int, text: str) -> bytes | None:
        """The bytes of one token whose text by itself is `text`; None where the vocabulary does not tell them.

        A part of a character has no text: its bytes are read from the vocabulary's piece.
        """
        if _BROKEN not in text:
            return text.encode()
        piece = None if self._exact is None else self._exact.id_to_token(token)
        if piece is None:
            return None
        if "ByteFallback" in self._rules and _BYTE.fullmatch(piece):
            return bytes.fromhex(piece[3:5])
        if "ByteLevel" in self._rules and all(char in ALPHABET for char in piece):
            return bytes(ALPHABET[char] for char in piece)
        return text.encode()  # it spells the broken character itself

    def _agrees(self, tokens: list[int]) -> bool:
        segment = Detokeniser(self)
        return "".join([segment.add(token) for token in tokens] + [segment.end()]) == self.decode(tokens)


def _state(decoder: Decoder | None) -> object:
    return None if decoder is None else json.loads(decoder.__getstate__())


def _trials(codec: Codec) -> list[list[int]]:
    """Random sequences of tokens."""
    rng, size = Random(0), len(codec.tokenizer)
    return [[rng.randrange(size) for _ in range(24)] for _ in range(TRIALS)]


class Detokeniser:
    """The text of one segment. The cost is linear in the number of tokens."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._window: list[int] = []  # the last token whose text has been given whole, and those after it
        self._given = ""  # text of the window that has been given

    def add(self, token: int) -> str:
        """The text that this token completes: whole characters only."""
        own = self._decoding
        if token in own.dropped:
            return ""
        self._window.append(token)
        return "" if token in own.bytes or not own.bit_by_bit else self._take(hold=True)

    def end(self) -> str:
        """The rest: what was held back, if the segment ends here."""
        return self._take(hold=False)

    @property
    def holds(self) -> bool:
        """Is text held back?"""
        return bool(self._window) and self._decoding.decode(self._window) != self._given

    def _take(self, hold: bool) -> str:
        own, window = self._decoding, self._window
        if not window:
            return ""
        text = own.decode(window)
        whole = not (hold and text.endswith(_BROKEN))
        new = (text if whole else text[:-1])[len(self._given) :]
        self._given += new
        if whole:
            self._window, self._given = window[-1:], own.alone(window[-1])
        elif len(window) > 3 * MOST_BYTES:
            self._shorten(text)
        return new

    def _shorten(self, text: str) -> None:
        """Begin the window anew between two characters, where many tokens in a row have ended in broken ones."""
        decode, window = self._decoding.decode, self._window
        for at in range(len(window) - MOST_BYTES, len(window)):
            if decode(window[:at]) + decode(window[at:]) == text:
                kept = decode(window[at - 1 :])
                self._window, self._given = window[at - 1 :], kept[: len(kept) - len(text) + len(self._given)]
                return
