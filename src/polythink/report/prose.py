r"""Text of a model as HTML: prose in a proportional font, mathematics and code in a monospaced one, answers in a box.

Everything is escaped; nothing of the text is taken for markup. Mathematics is shown as it was written (`$x^2$`,
`\(x^2\)`, `\[..\]`, `<<48/2=24>>`), not set: a report loads nothing, and the source is what the model wrote. A long
text is folded to its first lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from polythink.problems.extract import boxes

MOST_CHARACTERS = 20_000  # of one text; the rest of a longer one is counted
FOLDED = 8  # lines that a folded text shows
SPARE = 3  # lines that a text may have more, and is not folded
CHARACTER = 6.6  # pixels: mean width of one in prose
PAGE = 1040  # pixels that a card has on a wide page
WIDEST = 640  # pixels of the widest card

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_MATH = re.compile(
    r"""\\\((?:(?!\\[()]).){1,2000}\\\)       # \( .. \)
    | \\\[(?:(?!\\[\[\]]).){1,4000}\\\]       # \[ .. \]
    | \$\$(?:(?!\$\$).){1,4000}\$\$           # $$ .. $$
    | (?<![\\$\w])\$(?![\s$])[^$\n]{1,1000}(?<![\s\\])\$(?![\d$])  # $ .. $; `$5 and $6` is money
    | <<[^<>\n]{1,200}>>                      # the calculator's notes in GSM8K
    """,
    re.VERBOSE | re.DOTALL,
)
_ANSWER = re.compile(
    r"final[ ]answer(?:[ ]is)?[\s*_`]{0,9}[:：][ \t*_`]*(?P<answer>[^\s*_`](?:[^\n]{0,160}[^\s*_`])?)[\s*_`]*$",
    re.IGNORECASE | re.MULTILINE,
)
_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # all but tab and line ends
_WORD = re.compile(r"[^\W\d_]{2,}")

PROSE_CSS = """
.words { white-space: pre-wrap; overflow-wrap: anywhere; font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo,
  Consolas, monospace; unicode-bidi: isolate; }
.prose .words { font: 13.5px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.words code { font-size: 12.5px; background: var(--panel); border-radius: 3px; unicode-bidi: isolate; }
.words s { background: var(--warning-ground); color: var(--warning); text-decoration-thickness: 2px; }
.words .boxed { border: 1px solid var(--ink); border-radius: 2px; padding: 0 4px; font-weight: 600; }
.words .cut { color: var(--soft); font-style: italic; }
.fold { display: flex; flex-direction: column; align-items: flex-start; }
.fold > .words { max-height: 12em; overflow: hidden; align-self: stretch;
  mask-image: linear-gradient(to bottom, var(--ink) 70%, transparent); }
.fold > .open { order: 1; appearance: none; margin: 2px 0 0; cursor: pointer; font: inherit; font-size: 12px;
  color: var(--series-1); }
.fold > .open::before { content: "▾ " attr(aria-label); }
.fold > .open:checked::before { content: "▴ fold"; }
.fold > .open:focus-visible { outline: 2px solid var(--series-1); outline-offset: 2px; }
.fold > .open:checked ~ .words { max-height: none; mask-image: none; }
@media print { .fold > .open { display: none; } .fold > .words { max-height: none; mask-image: none; } }
"""


@dataclass(frozen=True)
class Span:
    """A piece of a text that is marked, and what of it is shown: without the command of a box, for example."""

    start: int
    end: int
    inner: int
    inner_end: int
    opening: str
    closing: str


def is_prose(text: str) -> bool:
    """Whether a text reads as sentences: a dozen words, or long. Chains of arithmetic have few words."""
    return len(text) > 400 or len(_WORD.findall(text)) >= 12


def words_html(text: str, slips: Sequence[tuple[int, int]] = (), abreast: int = 1) -> str:
    """The text in its element, folded if it is long for one of `abreast` columns."""
    shown = text[:MOST_CHARACTERS]
    more = len(text) - len(shown)
    cut = f'<span class="cut"> … and {more:,} more characters</span>' if more else ""
    inner = f'<div class="words" dir="auto">{text_html(shown, slips) or "&nbsp;"}{cut}</div>'
    if lines_of(shown, min(WIDEST, PAGE / abreast)) <= FOLDED + SPARE:
        return inner
    size = f"{len(text.split()):,} words" if len(text.split()) > 1 else f"{len(text):,} characters"
    return f'<div class="fold"><input type="checkbox" class="open" aria-label="show all {size}">{inner}</div>'


def lines_of(text: str, width: float) -> int:
    """About how many lines a text takes in a column of that many pixels."""
    columns = max(1, int(width / CHARACTER))
    return sum(max(1, math.ceil(len(line) / columns)) for line in text.split("\n"))


def text_html(text: str, slips: Sequence[tuple[int, int]] = ()) -> str:
    r"""The text, escaped: code and mathematics monospaced, false results struck through, answers and what stands in
    `\boxed{}` in a box. Linear in the text."""
    spans = sorted(_spans(text, slips), key=lambda span: (span.start, -span.end))
    pieces: list[str] = []
    opened: list[Span] = []
    done = 0

    def close() -> None:
        nonlocal done
        span = opened.pop()
        pieces.extend((escape(text[done : span.inner_end]), span.closing))
        done = span.end

    for span in spans:
        while opened and opened[-1].end <= span.start:
            close()
        within = opened[-1].inner_end if opened else len(text)
        if span.start < done or span.end > within or len(opened) > 2:
            continue  # across another one, or too deep
        pieces += [escape(text[done : span.start]), span.opening]
        opened.append(span)
        done = span.inner
    while opened:
        close()
    return "".join(pieces) + escape(text[done:])


def visible(page: str) -> str:
    """What HTML or XML cannot hold, control characters and halves of characters, as the replacement character."""
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", page)


def _spans(text: str, slips: Iterable[tuple[int, int]]) -> Iterator[Span]:
    code = [found.span() for found in _CODE.finditer(text)]
    yield from (Span(start, end, start, end, "<code>", "</code>") for start, end in code)
    yield from (Span(*found.span(), *found.span(), "<code>", "</code>") for found in _MATH.finditer(text))
    yield from (Span(start, end, start, end, "<s>", "</s>") for start, end in slips)
    yield from _boxes(text)
    for found in _ANSWER.finditer(text):
        if r"\boxed" not in found["answer"]:
            yield Span(*found.span("answer"), *found.span("answer"), '<span class="boxed">', "</span>")


def _boxes(text: str) -> Iterator[Span]:
    r"""Every closed `\boxed{...}`; what is shown is what stands in its braces."""
    for first, begin, end in boxes(text):
        inside = text[begin:end]
        start = begin + len(inside) - len(inside.lstrip())
        shown = max(start, begin + len(inside.rstrip()))
        yield Span(first, end + 1, start, shown, '<span class="boxed">', "</span>")
