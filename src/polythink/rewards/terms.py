"""What a reward can look at: conditions that hold or do not, and quantities, each a pure function of a judged response.

A term sees the response's text and the grader's finding; never a tokenizer or a model. Texts need not be well formed:
`well_formed` says whether they are, and the quantities read what blocks there are in the manner of the published
rewards (facts on Parallel-R1: N, f, B and g of its reward table).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from statistics import fmean

from polythink.trace import validity
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import first_block, scan
from polythink.trace.statistics import count_blocks as blocks_opened


@dataclass(frozen=True)
class RewardInput:
    """A response and what the grader found: `right`, and `answered` (False where no answer could be extracted)."""

    text: str
    right: bool
    answered: bool = True
    rule: str = "strict"
    dialect: Dialect = PARALLEL_R1


Term = Callable[[RewardInput], float]


# ---- conditions ----


def count_blocks(judged: RewardInput) -> int:
    """How many blocks are opened, well formed or not."""
    return blocks_opened(judged.text, judged.dialect)


def is_well_formed(judged: RewardInput) -> bool:
    """Whether the text is valid under the reward's rule. Text without any tag is valid under every rule."""
    return validity.check(judged.text, judged.rule, judged.dialect).valid


CONDITIONS: dict[str, Callable[[RewardInput], bool]] = {
    "right": lambda j: j.right,
    "wrong": lambda j: not j.right,
    "answered": lambda j: j.answered,
    "unanswered": lambda j: not j.answered,
    "parallel": lambda j: count_blocks(j) > 0,
    "no_block": lambda j: count_blocks(j) == 0,
    "well_formed": is_well_formed,
    "malformed": lambda j: not is_well_formed(j),
}


# ---- quantities ----


def self_bleu(judged: RewardInput) -> float:
    """How alike the paths are, 0 (nothing shared) to 1: the mean over blocks of the mean BLEU over ordered pairs.

    1.0 without a block, and for a block with fewer than two paths: what is not there is not diverse.
    """
    alike = [
        fmean(bleu(a, b) for a, b in permutations(paths, 2)) if len(paths) > 1 else 1.0 for paths, _ in _blocks(judged)
    ]
    return fmean(alike) if alike else 1.0


def efficiency(judged: RewardInput) -> float:
    """The share of words that need not be waited for: (total - traversed) / total, 0 without a block.

    Traversed are the words outside blocks, the longest path of each block, and a summary that stands inside its block.
    Tags are no words.
    """
    words = partial(_words, dialect=judged.dialect)
    total, saved = words(judged.text), 0
    for paths, between in _blocks(judged):
        _, stray = _split(between, "summary", judged.dialect)
        saved += sum(map(words, paths)) - max(map(words, paths), default=0) + words(stray)
    return saved / total if total else 0.0


TERMS: dict[str, Term] = {
    "one": lambda j: 1.0,
    **{name: lambda j, holds=holds: float(holds(j)) for name, holds in CONDITIONS.items()},
    "blocks": lambda j: float(count_blocks(j)),
    "sqrt_blocks": lambda j: math.sqrt(count_blocks(j)),
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


# what stands alone: ASCII symbols but for ' , - . ; a point or comma that is not inside a number; a dash behind a digit
_ALONE = re.compile(r"([!-&(-+/:-@\[-`{-~]|(?<![0-9])[.,]|[.,](?![0-9])|(?<=[0-9])-)")


def _bleu_tokens(text: str) -> list[str]:
    return _ALONE.sub(r" \1 ", text.rstrip().replace("-\n", "")).split()


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


# ---- reading blocks leniently ----


def _blocks(judged: RewardInput) -> list[tuple[list[str], str]]:
    """Of each outermost block the texts of its outermost paths, and the text between them."""
    d = judged.dialect
    if d.block_open:
        bodies, _ = _split(judged.text, "block", d)
    else:  # what stands before a summary
        parts = (part.partition(d.summary_open)[0] for part in judged.text.split(d.summary_close))
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
