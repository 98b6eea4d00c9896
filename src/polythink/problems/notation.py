"""One notation for answers that differ only in how they are typeset: Unicode, LaTeX synonyms, spaces, markup.

`plain` is the text that everything else compares, also the algebra in its worker process. It is quick and linear in the
length of any text. What it leaves: `\\text{..}` around words, `°` for degrees, one space where there was any.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

MAX_LAYERS = 6  # of markup around an answer

_END_TOKEN = re.compile(r"<\|\w+\|>|<｜[\w▁]+｜>|</?s>|<(?:eos|pad|end_of_turn|end_of_text|endoftext|eot_id)>")
_DOLLAR = re.compile(r"(?<!\\)\$(?!\$)")

# ---- Unicode ----

_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_SUPERSCRIPT = {ord(c): d for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True)}
_SUBSCRIPT = {ord(c): d for c, d in zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True)}
_RAISED = re.compile("[" + "".join(map(chr, _SUPERSCRIPT)) + "]+")
_LOWERED = re.compile("[" + "".join(map(chr, _SUBSCRIPT)) + "]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]*\)|\{[^{}]*\})?")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}  # of a root
_DASH = re.compile(r"(?<![\w)}])\s*[–—‐‑‒﹣－]")  # a minus sign, unless it stands between two things: 5–6 is a range
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda",
    "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SYMBOL = {
    "−": "-", "∞": "infty", "·": "cdot", "⋅": "cdot", "∙": "cdot", "×": "times", "÷": "div", "⁄": "/", "∕": "/",
    "±": "pm", "∓": "mp", "≤": "leq", "≥": "geq", "⩽": "leq", "⩾": "geq", "≠": "neq", "∪": "cup", "∩": "cap", "∈": "in",
    "∉": "notin", "∅": "emptyset", "∖": "setminus", "⟨": "langle", "⟩": "rangle", "ℝ": "mathbb{R}", "ℤ": "mathbb{Z}",
    "ℚ": "mathbb{Q}", "ℕ": "mathbb{N}", "ℂ": "mathbb{C}", "…": "ldots", "⋯": "ldots", "≈": "approx", "∠": "angle",
    "△": "triangle", "°": "°", "º": "°", "˚": "°", "℃": "°C", "℉": "°F", "′": "'", "′′": "''", "ı": "i", "％": "%",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {ch: f"\\{name} " for ch, name in _GREEK.items()}
    | {ch: f"\\{name} " if name[0].isalpha() else name for ch, name in _SYMBOL.items() if len(ch) == 1}
)

# ---- LaTeX ----

_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_SAME = {  # commands that say the same, or nothing ("")
    **dict.fromkeys(["dfrac", "tfrac", "cfrac", "nicefrac", "sfrac", "flatfrac"], r"\frac"),
    **dict.fromkeys(["leq", "le", "leqslant"], r"\leq"),
    **dict.fromkeys(["geq", "ge", "geqslant"], r"\geq"),
    **dict.fromkeys(["lt"], "<"),
    **dict.fromkeys(["gt"], ">"),
    **dict.fromkeys(["neq", "ne"], r"\neq"),
    **dict.fromkeys(["varnothing", "emptyset", "O"], r"\emptyset"),
    **dict.fromkeys(["ldots", "dots", "cdots", "dotsc", "dotsb"], r"\ldots"),
    **dict.fromkeys(["smallsetminus", "backslash"], r"\setminus"),
    **dict.fromkeys(["lvert", "rvert", "vert"], "|"),
    **dict.fromkeys(["textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "textup", "textsc"], r"\text"),
    **dict.fromkeys(["mbox", "hbox", "fbox"], r"\text"),
    **dict.fromkeys(["degree", "textdegree"], "°"),
    **dict.fromkeys(["imath", "iota"], "i"),
    **dict.fromkeys(["quad", "qquad", "enspace", "thinspace", "space", "nobreakspace"], " "),
    **dict.fromkeys(["displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "left", "right", "middle"], " "),
    **dict.fromkeys([f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")], " "),
    **dict.fromkeys(["bf", "rm", "it", "tt", "sf", "sc", "normalfont", "bfseries", "itshape", "boldmath"], " "),
    **dict.fromkeys(["tiny", "small", "normalsize", "large", "Large", "LARGE", "huge", "Huge"], " "),
    **dict.fromkeys(["boldsymbol", "bm", "pmb", "mathbf", "mathit", "mathsf", "mathtt", "mathnormal"], ""),
    **dict.fromkeys(["underline", "ensuremath", "emph", "bold"], ""),
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "infin": r"\infty", "cdotp": r"\cdot",
    "lparen": "(", "rparen": ")", "ast": "*", "percent": r"\%", "colon": ":", "pounds": "£", "textsterling": "£",
    "euro": "€", "texteuro": "€", "textdollar": r"\$",
}  # fmt: skip
_ROMAN = re.compile(r"\\(?:mathrm|operatorname)\s*\{\s*([^{}]*?)\s*\}")
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|pi|infinity|lim"
_ARGUMENT = r"\s*(?:[\\({^_\d]|[A-Za-z](?![A-Za-z]))"  # what follows a function, and no unit: `30 sec` are seconds
_FUNCTION = re.compile(rf"(?<![\\A-Za-z{{])(?!sec(?!{_ARGUMENT}))({_FUNCTIONS})(?![A-Za-z])")
_UPRIGHT_UNIT = re.compile(rf"(?<=\d)( ?)\\(min|sec)(?!{_ARGUMENT})(?![A-Za-z])")  # 60~\mathrm{min}
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot)(?![A-Za-z])")
_DEGREE = re.compile(r"\s*\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|°|\{\s*°\s*\})")
_GROUPS = re.compile(r"(?<=\d)(?:\{\s*,\s*\}|,\s*\\!\s*|\\[,;: ]|~)(?=\d{3}(?!\d))")  # 1{,}234, 1,\!234, 1\,234
_REPEATING = re.compile(
    r"(?<!\d)(\d{0,40})\.(\d{0,40})(?:\\(?:overline|bar)\s*(?:\{\s*(\d{1,40})\s*\}|(\d))|"
    r"\\dot\s*(?:\{\s*(\d)\s*\}|(\d))(?:(\d{0,40})\\dot\s*(?:\{\s*(\d)\s*\}|(\d)))?)"
)


@lru_cache(maxsize=16384)
def plain(answer: str) -> str:
    """The answer in one notation."""
    s = clean(answer)
    for _ in range(MAX_LAYERS):
        wrapped = re.fullmatch(r"(?:\\(?:boxed|text(?:bf|it|rm|normal)?|mbox)\s*)?\{(.*)\}", s, re.DOTALL)
        if not (wrapped and _balanced(wrapped[1])):
            break
        s = clean(wrapped[1])
    if not s.isascii():
        s = _ascii(s)
    s = _GROUPS.sub("", s)
    return " ".join((_latex(s) if "\\" in s or "~" in s else _words(s)).split())


def bare(line: str) -> str:
    """A line without white space, markdown and end tokens around it; its math delimiters stay."""
    return (_END_TOKEN.sub("", line) if "<" in line else line).strip(" \t\r\n\xa0*_`\ufeff\u200b")


def clean(answer: str) -> str:
    """The answer without what surrounds it: white space, markdown, math delimiters, end tokens, a full stop."""
    answer = " ".join(_END_TOKEN.sub("", answer).split()) if "<" in answer else " ".join(answer.split())
    for _ in range(MAX_LAYERS):
        before = answer
        answer = _without_end(answer.strip(" *`\ufeff\u200b"), ".,;。", kept=r"\right")
        answer = answer.removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
        if len(_DOLLAR.findall(answer)) <= 2:  # `$5$ or $7$` stays
            answer = _without_end(answer.lstrip("$"), "$", kept="\\")
        if answer == before:
            break
    return answer


def _without_end(s: str, characters: str, kept: str) -> str:
    """`s` without those characters at its end, unless they belong to the command `kept` or to a backslash."""
    rest = s.rstrip(characters)
    return s if rest.endswith((kept, "\\")) else rest


def _balanced(s: str) -> bool:
    """Whether no brace of `s` closes before it was opened, so that a pair around `s` is one pair."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", s):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return False
    return depth == 0


def _ascii(s: str) -> str:
    """Unicode mathematics as LaTeX; letters of other languages are composed (NFKC)."""
    s = s.translate(_INVISIBLE)
    s = _RAISED.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", s)
    s = _LOWERED.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPT) + "}", s)
    s = re.sub("[¼-¾⅐-⅞]", lambda m: r"\frac{" + unicodedata.normalize("NFKC", m[0]).replace("⁄", "}{") + "}", s)
    s = _ROOT.sub(lambda m: rf"\sqrt{_DEGREES[m[1]]}" + (f"{{{m[2].strip('(){}')}}}" if m[2] else ""), s)
    s = _DASH.sub("-", s)
    return unicodedata.normalize("NFKC", s.translate(_CHARACTERS))


def _latex(s: str) -> str:
    s = re.sub(r"\\text\s*\{\s*([-+]?[\d.,]*)\s*\}", r"\1", s)  # \text{17} is 17
    s = re.sub(r"\\(?:left|right)\s*\.", " ", s.replace(r"\!", ""))
    s = re.sub(r"(\\\\)|\\[,;:> ()]|~", lambda m: m[1] or " ", s)  # a new row stays
    s = _ROMAN.sub(_roman, s)
    s = _COMMAND.sub(lambda m: _SAME.get(m[1], m[0]), s)
    s = _REPEATING.sub(_repeating, _DEGREE.sub("°", " ".join(s.split())))
    s = re.sub(r"(\\(?:frac|sqrt|text|overline))\s+(?=[\w{(\\\[])", r"\1", re.sub(r"\}\s+\{", "}{", s))
    s = re.sub(r"\\frac(\d) ?(?=[\d{])", r"\\frac{\1}", s)
    s = re.sub(r"(\\frac\{[^{}]*\}) ?(\d)", r"\1{\2}", s)
    s = re.sub(r"\\frac([A-Za-z])(?=[\d{A-Za-z])", r"\\frac{\1}", re.sub(r"(\\frac\{[^{}]*\})([A-Za-z])", r"\1{\2}", s))
    s = _words(_UPRIGHT_UNIT.sub(r"\1\\text{\2}", s))
    if "°" in s and _TRIGONOMETRIC.search(s):
        s = re.sub(r"(\d+(?:\.\d+)?|[A-Za-z])°", r"(\\frac{\1\\pi}{180})", s)
    return s


def _words(s: str) -> str:
    """Functions written without their backslash, as in `sqrt(2)/2` and `2**5`."""
    if "\\text" not in s:
        s = _FUNCTION.sub(lambda m: r"\infty" if m[1] == "infinity" else rf"\{m[1]}", s)
    if "\\sqrt" in s:
        s = re.sub(r"\\sqrt\s*(?:\((?=([^()]*)\))\1\)|(\d))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", s)
    s = s.replace("**", "^")
    if re.fullmatch(r"-?\d{1,3}(?: \d{3})+", s):  # 1 000 000
        s = s.replace(" ", "")
    return s


def _roman(match: re.Match[str]) -> str:
    """Upright text: a function, a single symbol, or words."""
    inside = match[1]
    if re.fullmatch(rf"{_FUNCTIONS}|gcd|lcm|max|min|det|deg|dim|ker|arg", inside):
        return f"\\{inside} " if inside != "lcm" else match[0]
    return inside if re.fullmatch(r"[A-Zeixyzd]|[\d.,]+", inside) else rf"\text{{{inside}}}"


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: 0.1\\overline{6} is 1/6."""
    whole, fixed, bar, bar1, first, first1, middle, last, last1 = match.groups(default="")
    period = bar or bar1 or (first or first1) + middle + (last or last1)
    scale = 10 ** len(fixed)
    value = Fraction(int(whole + fixed or "0"), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
