"""ROUGE (Lin 2004): overlap of a summary with its reference in words, word pairs, and the longest common subsequence.

F1 each, over lower-case letters and digits, on the text as one sentence. Left out: stemming, and ROUGE-Lsum, which
published tables on CNN/DailyMail report as ROUGE-L: values here are a little lower.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def rouge_n(output: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of the n-grams in common, each counted as often as in the text where it is rarer."""
    ours, theirs = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (output, reference))
    return f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(output: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words."""
    return f1(longest_common(output, reference), len(output), len(reference))


def f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
