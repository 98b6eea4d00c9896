"""What a reward sees of a rollout: conditions that hold or not, and terms, each a pure function of a `RewardInput`.

Texts need not be well formed: `well_formed` says whether they are, and the terms read the blocks that are there as the
published rewards do (facts on Parallel-R1: N, f, B and g of its reward table).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from statistics import fmean

from polythink.trace import validity
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import first_block, scan
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.statistics import count_blocks


@dataclass(frozen=True)
class RewardInput:
    """A rollout, its grade, and the problem that it answers."""

    rollout: Rollout  # tokens, log-probabilities, and why each segment stopped
    right: bool  # the answer equals the reference
    answered: bool = True  # an answer could be extracted
    extracted: str | None = None  # that answer
    question: str = ""
    answer: str = ""  # the reference
    step: int = 1  # of training, from 1
    rule: str = "strict"  # what `well_formed` means
    dialect: Dialect = PARALLEL_R1

    @cached_property
    def text(self) -> str:
        """The whole response, tags included."""
        return self.rollout.text

    @property
    def tokens(self) -> int:
        """Length of the response in tokens, over all paths."""
        return self.rollout.tokens

    @property
    def critical_path(self) -> int:
        """Number of sequential steps of the response, in tokens; the prompt is not counted."""
        return self.rollout.critical_path

    @property
    def segments(self) -> list[Segment]:
        """Main text, paths and summaries, in text order."""
        return self.rollout.segments

    @cached_property
    def blocks(self) -> int:
        """Number of blocks that the response opens, well formed or not."""
        return count_blocks(self.text, self.dialect)

    @cached_property
    def well_formed(self) -> bool:
        """Whether the response is valid under `rule`. Text without any tag is valid under every rule."""
        return validity.check(self.text, self.rule, self.dialect).valid


Term = Callable[[RewardInput], float]


def _described(term: Term, sentence: str) -> Term:
    """The same function with this docstring, which `polythink explain` and docs/reference print."""
    term.__doc__ = sentence
    return term


# ---- conditions ----


CONDITIONS: dict[str, Callable[[RewardInput], bool]] = {
    "right": _described(lambda r: r.right, "The final answer is correct."),
    "wrong": _described(lambda r: not r.right, "The final answer is not correct."),
    "answered": _described(lambda r: r.answered, "An answer could be extracted from the response."),
    "unanswered": _described(lambda r: not r.answered, "No answer could be extracted from the response."),
    "parallel": _described(lambda r: r.blocks > 0, "At least one block is opened, well formed or not."),
    "no_block": _described(lambda r: r.blocks == 0, "No block is opened."),
    "well_formed": _described(lambda r: r.well_formed, "The response is valid under the reward's rule."),
    "malformed": _described(lambda r: not r.well_formed, "The response is not valid under the reward's rule."),
}


# ---- terms ----


def self_bleu(given: RewardInput) -> float:
    """Similarity of the paths, 0 (nothing shared) to 1: the mean over blocks of the mean BLEU over ordered pairs.

    1.0 without a block, and for a block with fewer than two paths.
    """
    alike = [
        fmean(bleu(a, b) for a, b in permutations(paths, 2)) if len(paths) > 1 else 1.0 for paths, _ in _blocks(given)
    ]
    return fmean(alike) if alike else 1.0


def efficiency(given: RewardInput) -> float:
    """Share of words off the critical path: (total - sequential) / total, 0 without a block.

    Sequential are the words outside blocks, the longest path of each block, and a summary that stands inside its block.
    Tags are not words.
    """
    words = partial(_words, dialect=given.dialect)
    total, saved = words(given.text), 0
    for paths, between in _blocks(given):
        _, stray = _split(between, "summary", given.dialect)
        saved += sum(map(words, paths)) - max(map(words, paths), default=0) + words(stray)
    return saved / total if total else 0.0


TERMS: dict[str, Term] = {
    "one": _described(lambda r: 1.0, "1 for every response: the weight alone."),
    **{name: lambda r, holds=holds: float(holds(r)) for name, holds in CONDITIONS.items()},
    "blocks": _described(lambda r: float(r.blocks), "Number of blocks opened."),
    "sqrt_blocks": _described(lambda r: math.sqrt(r.blocks), "Square root of the number of blocks opened."),
    "tokens": _described(lambda r: float(r.tokens), "Length of the response in tokens, all paths counted."),
    "critical_path": _described(lambda r: float(r.critical_path), "Number of sequential steps of the response."),
    "self_bleu": self_bleu,
    "efficiency": efficiency,
}


# ---- BLEU ----


def bleu(candidate: str, reference: str, order: int = 4) -> float:
    """Sentence BLEU, 0..1: clipped n-gram precisions up to `order`, geometric mean, brevity penalty.

    The same number as sacrebleu's `sentence_bleu(candidate, [reference]).score / 100` with its defaults: 13a tokens,
    case kept, orders longer than the candidate left out, and the exponential smoothing of mteval-v13a (the k-th order
    without a match counts 1 / 2^k matches). Compared with sacrebleu 2.6.0: equal to 1e-15 over 1,878 pairs of real
    paths; apart from it only for HTML entities, which stay as they are here, and for runs such as `..2` and `,.5`.
    """
    said, meant = _bleu_tokens(candidate), _bleu_tokens(reference)
    matches = [sum((_ngrams(said, n) & _ngrams(meant, n)).values()) for n in range(1, min(order, len(said)) + 1)]
    if not any(matches):
        return 0.0
    logs, smooth = 0.0, 1.0
    for n, matched in enumerate(matches, start=1):
        if not matched:
            smooth /= 2
        logs += math.log((matched or smooth) / (len(said) - n + 1))
    brevity = min(0.0, 1 - len(meant) / len(said))
    return math.exp(brevity + logs / len(matches))


# tokens of their own: ASCII symbols except ' , - . ; a point or comma that is not inside a number; a dash after a digit
_ALONE = re.compile(r"([!-&(-+/:-@\[-`{-~]|(?<![0-9])[.,]|[.,](?![0-9])|(?<=[0-9])-)")


def _bleu_tokens(text: str) -> list[str]:
    return _ALONE.sub(r" \1 ", text.rstrip().replace("-\n", "")).split()


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


# ---- reading blocks leniently ----


def _blocks(given: RewardInput) -> list[tuple[list[str], str]]:
    """Of each outermost block the texts of its outermost paths, and the text between them."""
    d = given.dialect
    if d.block_open:
        bodies, _ = _split(given.text, "block", d)
    else:  # what stands before a summary
        parts = (part.partition(d.summary_open)[0] for part in given.text.split(d.summary_close))
        bodies = [part for part in parts if first_block(part, d)]
    return [_split(body, "path", d) for body in bodies]


def _split(text: str, kind: str, dialect: Dialect) -> tuple[list[str], str]:
    """What stands inside the outermost pairs of `kind`'s tags, and the text outside them.

    A tag that is never closed, or closes nothing, counts as text.
    """
    inside, outside, depth, opened, end = [], "", 0, None, 0
    for token in scan(text, dialect):
        if token.kind == f"{kind}_open":
            depth += 1
            opened = token if depth == 1 else opened
        elif token.kind == f"{kind}_close" and depth:
            depth -= 1
            if not depth:
                inside.append(text[opened.start + len(opened.text) : token.start])
                outside += text[end : opened.start] + " "
                end = token.start + len(token.text)
    return inside, outside + text[end:]


def _words(text: str, dialect: Dialect) -> int:
    return sum(len(token.text.split()) for token in scan(text, dialect) if token.kind == "text")
