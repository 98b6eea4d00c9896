"""Samples on a page and what chooses among them: verdicts without a script; problems and a search with a short one.

The page works without its script: it then lacks the list of problems and the search.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

FILTERS = {  # class of a sample -> the name of its filter
    "is-right": "right", "is-wrong": "wrong", "is-unparsed": "no answer found", "is-timeout": "grading timed out",
    "is-malformed": "malformed", "is-cut": "truncated", "has-block": "with a block", "no-block": "without a block",
}  # fmt: skip
LABEL = 70  # characters of a question in the list of problems

FILTER_CSS = """
.filters { display: inline; } .filter { position: absolute; opacity: 0; pointer-events: none; }
.filter + label { display: inline-block; border: 1px solid var(--rule); border-radius: 99px; padding: 1px 11px;
  margin: 3px 5px 3px 0; font-size: 13px; cursor: pointer; }
.filter:checked + label { background: var(--ink); color: var(--ground); border-color: var(--ink); }
.filter:focus-visible + label { outline: 2px solid var(--series-1); outline-offset: 2px; }
.find { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; margin: 6px 0 0; font-size: 13px; }
.find[hidden] { display: none; }
.find select, .find input { font: inherit; color: var(--ink); background: var(--card); padding: 3px 8px;
  border: 1px solid var(--rule); border-radius: 6px; min-width: 0; max-width: 100%; }
.find select { flex: 0 1 24em; } .find input { flex: 0 1 16em; }
.find output { color: var(--soft); }
.samples > [hidden] { display: none; }
.samples > .sample { content-visibility: auto; contain-intrinsic-size: auto 700px; }
::highlight(found) { background: var(--warning-ground); color: var(--warning); text-decoration: underline; }
""" + "".join(f".only-{c}:checked ~ .samples > .sample:not(.{c}) {{ display: none; }}\n" for c in FILTERS)

SCRIPT = """
"use strict";
for (const box of document.querySelectorAll(".filtered")) {
  const find = box.querySelector(".find");
  if (!find) continue;
  const problem = find.querySelector("select"), search = find.querySelector("input");
  const samples = [...box.querySelectorAll(".sample")], texts = new Map();
  const textOf = (sample) => {
    if (!texts.has(sample)) texts.set(sample, sample.textContent.toLowerCase());
    return texts.get(sample);
  };
  const opened = new Set();
  const mark = (words) => {
    for (const fold of opened) fold.checked = false;
    opened.clear();
    if (!window.Highlight) return;
    const ranges = [];
    for (const sample of words.length > 1 ? samples.filter((one) => !one.hidden) : []) {
      const walker = document.createTreeWalker(sample, NodeFilter.SHOW_TEXT);
      for (let node; (node = walker.nextNode()) && ranges.length < 2000; ) {
        const text = node.data.toLowerCase();
        if (text.length !== node.data.length) continue;
        for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + words.length);
          ranges.push(range);
          const fold = node.parentElement.closest(".fold");
          if (fold && !fold.firstElementChild.checked) opened.add(fold.firstElementChild);
        }
      }
    }
    for (const fold of opened) fold.checked = true;
    CSS.highlights.set("found", new Highlight(...ranges));
  };
  const apply = () => {
    const words = search.value.trim().toLowerCase();
    for (const sample of samples) {
      const other = problem && problem.value && sample.dataset.problem !== problem.value;
      sample.hidden = other || !textOf(sample).includes(words);
    }
    mark(words);
    const shown = samples.filter((sample) => getComputedStyle(sample).display !== "none").length;
    find.querySelector("output").textContent = `${shown} of ${samples.length} shown`;
  };
  box.addEventListener("change", (event) => { if (!event.target.matches(".open")) apply(); });
  search.addEventListener("input", apply);
  find.hidden = false;
  apply();
}
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# a browser loads nothing, and runs no script but this one, whatever stands in a sample
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"


@dataclass(frozen=True)
class Drawn:
    """A sample on the page: its classes (keys of `FILTERS`), its HTML, and the problem that it is of."""

    classes: Sequence[str]
    html: str
    problem: str = ""  # its key
    question: str = ""


def filtered(name: str, drawn: Sequence[Drawn]) -> str:
    """Samples below a row of filters. Those of classes need no script: each hides the samples of other classes."""
    counts = {c: sum(c in one.classes for one in drawn) for c in FILTERS}
    buttons = [("all", f"all {len(drawn)}")]
    buttons += [(c, f"{FILTERS[c]} {n}") for c, n in counts.items() if 0 < n < len(drawn)]
    slug = identifier(name)
    inputs = "".join(
        f'<input class="filter only-{c}" type="radio" name="{slug}" id="{slug}-{c}"'
        f'{" checked" if c == "all" else ""}><label for="{slug}-{c}">{escape(shown)}</label>'
        for c, shown in buttons
    )
    problems = list(dict.fromkeys(one.problem for one in drawn))
    articles = "".join(
        f'<article class="sample {" ".join(one.classes)}" data-problem="{problems.index(one.problem)}">'
        f"{one.html}</article>"
        for one in drawn
    )
    chosen = (inputs if len(buttons) > 1 else "") + (_find(drawn, problems) if len(drawn) > 1 else "")
    return f'<div class="filtered">{chosen}<div class="samples">{articles}</div></div>'


def _find(drawn: Sequence[Drawn], problems: Sequence[str]) -> str:
    """A list of the problems, if there are several, and a search; the script shows them."""
    sizes = {problem: sum(one.problem == problem for one in drawn) for problem in problems}
    questions = {one.problem: " ".join(one.question.split()) or one.problem for one in drawn}
    options = "".join(
        f'<option value="{number}">{escape(_short(questions[problem]))} ({sizes[problem]})</option>'
        for number, problem in enumerate(problems)
    )
    listed = f'<select aria-label="problem"><option value="">all {len(problems)} problems</option>{options}</select>'
    return (
        f'<div class="find" hidden>{listed if len(problems) > 1 else ""}'
        '<input type="search" placeholder="search the text" aria-label="search the text"><output></output></div>'
    )


def identifier(name: str) -> str:
    """A name as the id of an element: different names stay different."""
    return re.sub(r"[^a-z0-9-]", lambda odd: f"-{ord(odd[0])}", name.lower())


def _short(text: str) -> str:
    return text if len(text) <= LABEL else f"{text[: LABEL - 1]}…"
