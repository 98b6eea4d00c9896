"""The answer checks of the published Parallel-R1 runs, for reproduction: their places and forms, nothing more lenient.

`published`: the last `Final Answer:` line in the last 300 characters, be it in a path or not, normalised as in Minerva
(Lewkowycz et al. 2022, appendix D.1), equal character by character. `published_gsm8k`: the first number that stands
directly after a `Final Answer:`, anywhere, equal character by character.
"""

from __future__ import annotations

import re

LAST = 300  # characters of a response that the check of the math family reads

_LINE = re.compile(r"final answer\s*:\s*([^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"Final Answer:\s*(-?[0-9.,]+)")
_SPECIAL = re.compile(r"<\|\w+\|>|<｜[\w▁]+｜>|</?s>")
_PHRASES = (
    "square ways integers dollars mph inches hours km units \\ldots sue points feet minutes digits cents degrees cm gm "
    "pounds meters meals edges students childrentickets multiples \\text{s} \\text{.} \\text{}^2 \\text{}^3 \\text{} "
    '\\mathrm{th} ^\\circ ^{\\circ} \\; ,\\! {,} " \\dots'
)
_DELETED = _PHRASES.split()  # in this order: a later one sees what the earlier ones left


def published_answer(text: str, checker: str) -> str | None:
    """The answer that the published check of this name reads, None if there is none."""
    text = _SPECIAL.sub("", text)
    if checker == "published_gsm8k":
        found = _NUMBER.search(text)
        return found[1].replace(",", "") if found else None
    lines = _LINE.findall(text[-LAST:])
    return lines[-1] if lines else None


def published_equal(given: str, reference: str, checker: str) -> bool:
    """Whether the published check of this name takes two answers for equal."""
    return given == reference if checker == "published_gsm8k" else minerva(given) == minerva(reference)


def minerva(answer: str) -> str:
    """An answer in Minerva's normal form."""
    answer = answer.split("=")[-1]
    for article in ("an ", "a "):
        answer = answer.replace(article, "")
    answer = answer.replace(".$", "$").replace("\\$", "").replace("\\ ", "").replace(" ", "").replace("mbox", "text")
    answer = answer.replace(",\\text{and}", ",").replace("\\text{and}", ",").replace("\\text{m}", "\\text{}")
    for word in _DELETED:
        answer = answer.replace(word, "")
    answer = re.sub(r"[^$]*\$([^$]*)\$.*", r"$\1$", answer)
    answer = re.sub(r"\\(?:text|textbf|overline)\{(.*?)\}", r"\1", answer)
    answer = re.sub(r"\\boxed\{(.*)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    return answer.replace(",", "") if answer.replace(",", "").isdigit() else answer.strip()
