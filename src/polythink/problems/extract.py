"""Where a response states its answer.

Only the text after the last join is read, so an answer that is only in a path does not count. `strict`: the last
balanced `\\boxed{..}` or the last `Final Answer:` line, whichever comes later. `lenient`: where that finds nothing, the
last form of models that were not trained here (`The answer is 5.`, `Answer: 5`, `#### 5`, a heading, `\\boxed 5`).
docs/reference/answers.md shows both by examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from polythink.problems.notation import bare, clean
from polythink.trace.convert import ConversionError
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.production import NUMBER
from polythink.trace.scan import scan

MAX_LINE = 2000  # characters; a longer line is not searched for a formula

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)  # escaped braces do not count
_FINAL = re.compile(r"final\s+answer(?:\s+is)?[\s*_`]*[:：]\s*\}?", re.IGNORECASE)  # } of \textbf{Final Answer:}
_ANNOUNCED = re.compile(  # at the beginning of a box or a line: Final Answer: 5, \text{The answer is } 5
    r"(?P<group>(?:\\[A-Za-z]+\s*)?\{\s*)?(?:the\s+)?(?:final\s+)?answer[\s*_`~]*(?P<closed>(?(group)\}?))"
    r"[\s*_`~]*(?:is\b\s*[:：]?|[:：])[\s*_`~]*(?P<closes>(?(group)\}?))",
    re.IGNORECASE,
)
_SAID = (  # what comes before an answer that is stated less formally; the answer is the rest of the line
    re.compile(r"\banswer\s*(?:\*\*|__)?\s*(?:is|=|:|：)\s*(?:\*\*|__)?\s*:?", re.IGNORECASE),
    re.compile(r"^[ \t]*####[ \t]*(?=\S)", re.MULTILINE),
    re.compile(r"^[ \t#*_>]*(?:final\s+)?answer[ \t*_]*$", re.IGNORECASE | re.MULTILINE),  # a heading
    re.compile(r"(?:最终)?答案\s*(?:是|为|[:：])+"),
)
_NEXT = re.compile(r"[.!?](?=\s+[A-Z])|,\s+(?=(?:so|because|since|as|which|but)\b)")
_FORMULA = re.compile(  # $$..$$, $..$ (no closing $ before a digit: `$5-$10` is money), \(..\), \[..\]
    r"(?<!\\)\$\$([^$]+)\$\$|(?<![\\$])\$(?![\s$])([^$]+)(?<![\s\\])\$(?![\d$])"
    r"|(?<!\\)\\\((.+?)\\\)|(?<!\\)\\\[(.+?)\\\]"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2}|[^\W\d_A-Za-z]")  # words beside a formula, rather than signs or names
_RAISED = re.compile(  # an exponent that alone stands between delimiters belongs to what is before it: 18 ft$^2$
    r"(?<=[\w})])\s?(?:\$(\^[^$]+)\$(?!\d)|\\\((\^.+?)\\\))"
)
_DIGIT = re.compile(r"\d")
_EXPONENT = re.compile(r"\^\s*\{?\s*-?\d\s*\}?")  # of a unit
_NAME = re.compile(r"\s*(?:[A-Za-z]+|\\[A-Za-z]+)(?:_(?:\w|\{[^{}]*\}))?\s*")
_IS = re.compile(r"\s*(?:(?:is|are|equals?)\b|=)")
_SAYS = re.compile(r"(?:\b(?:is|are|was|were|be|equals?|equal\s+to)|=)\s*$")
_CLAUSE = re.compile(
    r"\b(?:when|whenever|if|since|because|where|given|given\s+that|assuming|let|once)\s+$", re.IGNORECASE
)
_CONDITION = re.compile(_CLAUSE.pattern.replace("when|", "when|for|with|at|as|by|from|using|"), re.IGNORECASE)
_BEGINS = re.compile(r"[\s*_]*[-+−]?\s?(?:\\?\$|£|€)?\d")  # the line begins with a number
_REMARK = re.compile(r"([^()]*\d[^()]*)\s\([^()]*=[^()]*\)[.\s*_]*")  # 18 (when x = 3)
_GOES_ON = re.compile(r"\s*(?:,|or\b|and\b)[\s\w]{0,20}?[-+−]?\s?\d")
_NUMBER_LAST = re.compile(  # is 18 cm.
    r"(?:\b(?:is|are|equals?)|=)\s+((?:[-+−]\s?)?(?:\\?\$|£|€)?\d(?:[\d.,/]*\d)?(?:\s?\\?%)?"
    r"(?:\s[^\d=$\\]*(?:\^\{?-?\d\}?)?)?[.!]?)\s*[*_]*$"
)
_RULE = re.compile(r"\s*(?:[-*_=][ \t]*){3,}")  # a line across the page
_BULLET = re.compile(r"([ \t]*)([-*+•●▪‣]|\d{1,2}(?=[.)]))[.)]?[ \t]+(?=\S)")  # of a list: - 18, * 18, 1. 18
_TOLD = re.compile(r"[\d$\\]")
_UNBRACED = re.compile(r"\\boxed\s+([^\s{}\\$.,;]+)")


def final_part(text: str, dialect: Dialect = PARALLEL_R1) -> str:
    """The text after the last join: after the last closed element, and "" while one is still open.

    In a dialect that answers in the summary, the content of that element belongs to it, if it is a summary.
    A closing tag also closes what was left open inside its element; one without an opening tag is plain text.
    """
    numbered = NUMBER in dialect.paths.close
    opened: list[tuple[str, int]] = []  # element and number
    count: dict[tuple[str, int], int] = {}  # how many of each are open
    start = end = 0
    summed = False  # the last element that was closed is a summary that may answer; its block may be closed after it
    for tag in scan(text, dialect):
        element, _, side = tag.kind.partition("_")
        after, this = tag.start + len(tag.text), (element, tag.label if numbered else 0)
        if element == "block" and tag.text not in dialect.pair:  # it stands alone: nothing opens or closes with it
            end = after if side == "close" and not summed else end
        elif side == "open":
            opened.append(this)
            count[this] = count.get(this, 0) + 1
            start, summed = after, False
        elif side == "close" and count.get(this):
            closed = None
            while closed != this:
                closed = opened.pop()
                count[closed] -= 1
            if element == "summary" and dialect.answers_in_summary:
                end, summed = start, True
            elif element != "block" or not summed:
                end, summed = after, False
    rest = "" if opened else text[end:]
    if not dialect.answers_in_summary:
        return rest
    return without(rest, dialect.summary.open, dialect.summary.close, *(tag.text for tag in dialect.closing))


def without(text: str, *tags: str) -> str:
    """The text with a line break in place of each tag."""
    for tag in tags:
        text = text.replace(tag, "\n")
    return text


def extract(text: str, dialect: Dialect = PARALLEL_R1) -> str | None:
    """The answer that the response states after its last join, without markup around it; None if there is none."""
    return stated_answer(final_part(text, dialect))


def with_boxed_answer(text: str, answer: str | None, dialect: Dialect) -> str:
    """The response with `answer` appended in a box, unless it states that answer already or `answer` is None.

    For a trace converted into `dialect` from one that answers in the summary. `ConversionError` if the response
    would not state the answer even so, because its braces are not balanced.
    """
    if answer is None or extract(text, dialect) == answer:
        return text
    text = f"{text} \\boxed{{ {answer} }}"
    if extract(text, dialect) != answer:
        raise ConversionError(f"the answer {answer!r} cannot be written in a box after the trace", "answer")
    return text


def stated_answer(text: str) -> str | None:
    """The answer stated in a text without blocks: its last balanced box or `Final Answer:` line, whichever is later."""
    found = [place for place in (_last_box(text), _last_line(text)) if place]
    return max(found)[1] if found else None


def said_answer(text: str) -> str | None:
    """The answer stated in one of the less formal forms, for a text in which `stated_answer` finds none."""
    marks = [mark for form in _SAID for mark in form.finditer(text)]
    for mark in sorted(marks, key=lambda mark: mark.end(), reverse=True):
        answer = _sentence(_first_line(mark, mark.end() + MAX_LINE))
        if answer and r"\boxed" not in answer:
            return answer
    unbraced = _UNBRACED.findall(text)
    return clean(unbraced[-1]) or None if unbraced else None


def last_box(text: str) -> str | None:
    """The content of the last balanced, non-empty `\\boxed{..}` of `text`. Linear in the text, however many boxes."""
    found = _last_box(text)
    return found[1] if found else None


def boxes(text: str) -> Iterator[tuple[int, int, int]]:
    """Of every balanced `\\boxed{..}`, by its end: where the command begins, and where its content begins and ends."""
    opened: list[re.Match[str]] = []
    for match in _BRACES.finditer(text):
        if match[0][-1] == "{" and match[0] != r"\{":
            opened.append(match)
        elif match[0] == "}" and opened:
            opening = opened.pop()
            if len(opening[0]) > 1:
                yield opening.start(), opening.end(), match.start()


def _last_box(text: str) -> tuple[int, str] | None:
    contents = ((start, clean(text[inside:end])) for start, inside, end in reversed(list(boxes(text))))
    filled = ((start, clean(_unannounced(content))) for start, content in contents)
    return next((box for box in filled if box[1]), None)


def _unannounced(answer: str) -> str:
    """The answer without a `Final Answer:` of its own at its beginning."""
    mark = _ANNOUNCED.match(answer)
    if not mark:
        return answer
    opened = "" if mark["closed"] or mark["closes"] else mark["group"] or ""  # \text{Final Answer: red} is \text{red}
    return opened + answer[mark.end() :]


def _last_line(text: str) -> tuple[int, str] | None:
    """The last `Final Answer:` outside of boxes that is followed by something, on its line or the next not empty."""
    end = len(text)
    for mark in _marks(text):
        answer = _first_line(mark, end)
        if answer and r"\boxed" not in answer:  # boxes are read by `_last_box`; one never closed is no answer
            return mark.start(), answer
        end = mark.start()
    return None


def _marks(text: str) -> Iterator[re.Match[str]]:
    """Every `Final Answer:` that is not within a balanced box, the last one first."""
    marks = list(_FINAL.finditer(text))
    around = list(boxes(text)) if marks else []
    for mark in reversed(marks):
        while around and around[-1][0] > mark.start():
            around.pop()
        if not around or around[-1][2] < mark.start():
            yield mark


def _first_line(mark: re.Match[str], end: int) -> str:
    """What the first line after a mark says that says something; "" without one. A list says all its items.

    Its delimiters are read before they are cut. Below the mark's own line a bullet is no minus sign.
    """
    indent = len(mark[0]) - len(mark[0].rstrip(" \t"))
    below = mark[0][: len(mark[0]) - indent].endswith(("\n", "\r"))  # the mark took in the line's end
    lines = mark.string[mark.end() - (indent if below else 0) : end].splitlines()
    for row, line in enumerate(lines):
        if not clean(bare(line)) or _RULE.fullmatch(line):
            continue
        bullet = _BULLET.match(line) if below or row else None
        bullet = bullet if bullet and bullet[2] in "-*+•●▪‣1" else None  # `5. So ..` says 5
        return ", ".join(_items(bullet, lines[row:])) if bullet else _essence(bare(line))
    return ""


def _items(first: re.Match[str], lines: list[str]) -> Iterator[str]:
    """The items of a list that begins with the bullet `first`: those directly below that are of its kind.

    Below an item with a number or a formula, words alone are no further answer.
    """
    told = bool(_TOLD.search(first.string[first.end() :]))
    for line in filter(str.strip, lines):
        bullet = _BULLET.match(line)
        if not bullet or bullet[1] != first[1] or (bullet[2] != first[2] and not (bullet[2] + first[2]).isdigit()):
            return
        said = line[bullet.end() :]
        if told and not _TOLD.search(said):
            return
        if stated := _essence(bare(said)):
            yield stated


def _essence(line: str) -> str:
    """What a line states: the formula of a sentence with exactly one, otherwise the line."""
    if len(line) > MAX_LINE:
        return clean(line)
    line = _RAISED.sub(lambda mark: mark[1] or mark[2], _unannounced(line))
    formulas = list(_FORMULA.finditer(line))
    if len(formulas) != 1:
        return clean(line)
    inside, before, after = formulas[0][formulas[0].lastindex], line[: formulas[0].start()], line[formulas[0].end() :]
    # Signs beside it belong to the answer: `-$5$`, `x = $5$`, `$5$\%`.
    if not _PROSE.search(f"{before} {after}"):
        return clean(f"{before}{inside}{after}")
    number = _NUMBER_LAST.search(after)
    if number and not _SAYS.search(before):
        return clean(number[1])
    if not _is_aside(inside, before, after):
        return clean(inside)
    remark = _REMARK.fullmatch(f"{before}{inside}{after}")
    return clean(remark[1] if remark else f"{before}{inside}{after}")


def _is_aside(formula: str, before: str, after: str) -> bool:
    """Whether the only formula of a sentence is not its answer, which then is a number or a word beside it."""
    if _NAME.fullmatch(formula) and _IS.match(after):  # $x$ is odd
        return True
    if not _DIGIT.search(_EXPONENT.sub("", f"{before} {after}")):
        return False
    condition = _CONDITION if "=" in formula else _CLAUSE  # 18 ways when $n = 5$
    number = _BEGINS.match(before) and not _SAYS.search(before)  # 18 for $x = 3$; 3 or $5$
    lists = not before.strip() and _GOES_ON.match(after)  # $3$ or 5
    within = before.count("(") > before.count(")")  # 18 ($= 3 \times 6$)
    return bool(_NAME.fullmatch(formula) or condition.search(before) or number or lists or within)


def _sentence(line: str) -> str:
    """The first sentence of a line: what follows `The answer is 5.` is no part of the answer."""
    return clean(_NEXT.split(line, maxsplit=1)[0])
