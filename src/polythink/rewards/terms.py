"""What a reward sees of a rollout: conditions that hold or not, and terms, each a pure function of a `RewardInput`.

Texts need not be well formed: `well_formed` says whether they are, and the terms read the blocks that are there as the
published rewards do, but for what docs/reference/published.md lists.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, combinations
from statistics import fmean

from polythink.trace import validity
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.scan import Token, scan
from polythink.trace.statistics import count_blocks


@dataclass(frozen=True)
class RewardInput:
    """A rollout, its grade, and the problem that it answers."""

    rollout: Rollout  # tokens, log-probabilities, and why each segment stopped
    right: bool  # the answer equals the reference
    answered: bool = True  # an answer could be extracted
    extracted: str | None = None  # that answer
    question: str = ""  # of the problem, without the prompt around it
    answer: str = ""  # the reference
    step: int = 1  # of training, from 1
    rule: str = "strict"  # what `well_formed` means
    dialect: Dialect = PARALLEL_R1  # of the response

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
    """Similarity of the paths, 0 (nothing shared) to 1: the mean over blocks of the mean BLEU over pairs of paths.
    1.0 without a block, and for a block with fewer than two paths.

    As published, each pair counts once: the earlier path as the candidate, the later one as its reference.
    """
    alike = [
        fmean(bleu(a, b) for a, b in combinations(paths, 2)) if len(paths) > 1 else 1.0 for paths, _ in _blocks(given)
    ]
    return fmean(alike) if alike else 1.0


def efficiency(given: RewardInput) -> float:
    """Share of words off the critical path: (total - sequential) / total, 0 without a block.

    Sequential are the words outside blocks, the longest path of each block, and what stands inside a block as its plan
    or its summary.
    A block without a path saves nothing. Tags are not words, and a word ends at a tag.
    """
    words = partial(_words, dialect=given.dialect)
    total, saved = words(given.text), 0
    for paths, between in _blocks(given):
        if paths:
            for element in ("plan", "summary"):
                _, between = _split(between, element, given.dialect)
            saved += sum(map(words, paths)) - max(map(words, paths)) + words(between)
    return saved / total if total else 0.0


def acceleration(given: RewardInput) -> float:
    """Tokens of the response over its sequential steps, minus 1: 0.25 where paths make it 1.25 times shorter.

    ThreadWeaver (arXiv 2512.07843) rewards it up to a bound. Tokens that a join reads again are no part of the text.
    """
    return _total(given) / given.critical_path - 1 if given.critical_path else 0.0


def saved_steps(given: RewardInput) -> float:
    """Share of the response's tokens that are no sequential steps: 1 - L_crit / L_total, 0 without paths.

    In tokens and with the longest chain of nested blocks; `efficiency` counts words, as Parallel-R1 does.
    """
    return 1 - given.critical_path / _total(given) if given.critical_path else 0.0


def _total(given: RewardInput) -> int:
    return sum(len(segment.tokens) for segment in given.segments if segment.kind != "copy")


def distinct_beginnings(given: RewardInput, words: int = 4) -> float:
    """Share of blocks whose paths do not begin with the same 4 words, 0 without a block of two paths.

    In a block of more than two paths, the share of pairs of paths. This is D of DPT (github.com/JiaruQian/DPT, for two
    paths), whose text says 4 and whose code compares one.
    """
    beginnings = [[path.split()[:words] for path in paths] for paths, _ in _blocks(given) if len(paths) > 1]
    apart = [fmean(a != b for a, b in combinations(block, 2)) for block in beginnings]
    return fmean(apart) if apart else 0.0


TERMS: dict[str, Term] = {
    "one": _described(lambda r: 1.0, "1 for every response: the weight alone."),
    **{name: lambda r, holds=holds: float(holds(r)) for name, holds in CONDITIONS.items()},
    "blocks": _described(lambda r: float(r.blocks), "Number of blocks opened."),
    "sqrt_blocks": _described(lambda r: math.sqrt(r.blocks), "Square root of the number of blocks opened."),
    "tokens": _described(lambda r: float(r.tokens), "Length of the response in tokens, all paths counted."),
    "critical_path": _described(lambda r: float(r.critical_path), "Number of sequential steps of the response."),
    "self_bleu": self_bleu,
    "efficiency": efficiency,
    "acceleration": acceleration,
    "saved_steps": saved_steps,
    "distinct_beginnings": distinct_beginnings,
}


# ---- BLEU ----


def bleu(candidate: str, reference: str, order: int = 4) -> float:
    """Sentence BLEU, 0..1: clipped n-gram precisions up to `order`, geometric mean, brevity penalty.

    The same number as sacrebleu's `sentence_bleu(candidate, [reference]).score / 100` with its defaults: 13a tokens,
    case kept, orders longer than the candidate left out, and the exponential smoothing of mteval-v13a (the k-th order
    without a match counts 1 / 2^k matches).
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


_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}  # in this order: `&amp;lt;` is `<`
# One pass after the other, each over what the last one wrote, as the 13a rules of mteval are defined: a pass does not
# look again at a character that it has just read, so that `..2` is `.` and `.2`.
_PASSES = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),  # every ASCII symbol except ' , - .
    (re.compile(r"(\D)([.,])", re.ASCII), r"\1 \2 "),  # a point or comma that follows no digit
    (re.compile(r"([.,])(\D)", re.ASCII), r" \1 \2"),  # and one that no digit follows
    (re.compile(r"(\d)-", re.ASCII), r"\1 - "),  # a dash after a digit
)


def _bleu_tokens(text: str) -> list[str]:
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, spaced in _PASSES:
        text = pattern.sub(spaced, text)
    return text.split()


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


# ---- reading blocks leniently ----


def _blocks(given: RewardInput) -> list[tuple[list[str], str]]:
    """Of each outermost block the texts of its outermost paths, and the text between them.

    Where blocks have no opening and closing tag, a block is a run of paths with nothing but white space between them.
    """
    text, d = given.text, given.dialect
    if d.pair:
        return [_split(body, "path", d) for body in _split(text, "block", d)[0]]
    blocks: list[tuple[list[str], str]] = []
    end = None
    for opened, closed in _pairs(text, "path", d):
        if end is None or text[end : opened.start].strip():
            blocks.append(([], ""))
        blocks[-1][0].append(text[_after(opened) : closed.start])
        end = _after(closed)
    return blocks


def _split(text: str, kind: str, dialect: Dialect) -> tuple[list[str], str]:
    """What stands inside the outermost pairs of `kind`'s tags, and the text outside them."""
    inside, outside, end = [], "", 0
    for opened, closed in _pairs(text, kind, dialect):
        inside.append(text[_after(opened) : closed.start])
        outside += text[end : opened.start] + " "
        end = _after(closed)
    return inside, outside + text[end:]


def _pairs(text: str, kind: str, dialect: Dialect) -> list[tuple[Token, Token]]:
    """The outermost pairs of `kind`'s tags.

    Where they do not balance, nothing says which of two opening tags is the stray one: then, as in the published
    rewards, each pairs with the next closing tag, and an opening tag on the way there counts as text.
    """
    tags = [token for token in scan(text, dialect) if token.kind in (f"{kind}_open", f"{kind}_close")]
    if kind == "block":
        tags = [token for token in tags if token.text in dialect.pair]
    depths = list(accumulate(1 if tag.kind.endswith("open") else -1 for tag in tags))
    nests = min(depths, default=0) >= 0 and (not depths or depths[-1] == 0)
    pairs: list[tuple[Token, Token]] = []
    opened = None
    for tag, depth in zip(tags, depths, strict=True):
        if tag.kind.endswith("open"):
            opened = opened or tag
        elif opened and (depth == 0 or not nests):
            pairs.append((opened, tag))
            opened = None
    return pairs


def _after(tag: Token) -> int:
    return tag.start + len(tag.text)


def _words(text: str, dialect: Dialect) -> int:
    return sum(len(token.text.split()) for token in scan(text, dialect) if token.kind == "text")
