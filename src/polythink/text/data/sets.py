"""Sets of texts to translate, summarise or model: generated ones and those of the hub by name, and local files.

    grammar:train                 a named set and its split
    corpus/train.{en,de}          two files, line by line: source, then target
    corpus/train.tsv              one pair per line, source and target separated by a tab
    corpus/train.jsonl            rows {source, target}; also .parquet
    corpus/train.txt              one text per line, for language modelling

Sets of the hub come from `datasets` (the extra `data`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.hub import hub_rows
from polythink.run.jsonl import read_rows
from polythink.text.data import grammar
from polythink.text.data.pairs import LANGUAGES, LIST_SPLITS, ORDERS, SHARES, Pair, TextSet, list_pairs, number_pairs

FORMS = "two files as NAME.{en,de}, or one file .tsv, .jsonl, .parquet, or .txt without sources"


@dataclass(frozen=True)
class TextSource:
    """Where a named set comes from. The first split is the default."""

    about: str
    splits: Sequence[str]
    draw: Callable[[str, int | None], tuple[Pair, ...]] | None = None  # (split, limit) -> pairs, of a generated set
    repo: str = ""  # on the hub
    config: str | None = None
    source: str = ""  # columns, `translation.en` for en inside translation; no source in language modelling
    target: str = ""
    hub_splits: Mapping[str, str] = field(default_factory=lambda: {"valid": "validation"})  # named otherwise there


def _wmt(year: int, source: str, target: str, about: str) -> TextSource:
    other = target if source == "en" else source
    columns = {"source": f"translation.{source}", "target": f"translation.{target}"}
    return TextSource(about, tuple(SHARES), repo=f"wmt/wmt{year}", config=f"{other}-en", **columns)


TEXTS: dict[str, TextSource] = {
    "grammar": TextSource(
        "synthetic: a compositional grammar with reversed word order and agreement", tuple(SHARES), grammar.pairs
    ),
    **{
        f"numbers-{to}": TextSource(f"number words, en-{to}", tuple(SHARES), partial(number_pairs, to))
        for to in LANGUAGES
    },
    **{
        order: TextSource(f"synthetic: {order} a list of words", LIST_SPLITS, partial(list_pairs, order))
        for order in ORDERS
    },
    "wmt14-en-de": _wmt(14, "en", "de", "WMT 2014 English-German"),
    "wmt14-en-fr": _wmt(14, "en", "fr", "WMT 2014 English-French"),
    "wmt16-en-ro": _wmt(16, "en", "ro", "WMT 2016 English-Romanian"),
    "iwslt14-de-en": TextSource(
        "IWSLT 2014 German-English", tuple(SHARES), repo="bbaaaa/iwslt14-de-en", config="de-en",
        source="translation.de", target="translation.en",
    ),
    "cnn-dailymail": TextSource(
        "CNN/DailyMail 3.0.0, articles and their highlights", tuple(SHARES), repo="abisee/cnn_dailymail",
        config="3.0.0", source="article", target="highlights",
    ),
    "wikitext-103": TextSource(
        "WikiText-103, pre-tokenised words, for language modelling", tuple(SHARES), repo="Salesforce/wikitext",
        config="wikitext-103-v1", target="text",
    ),
}  # fmt: skip


def load_texts(name_or_files: str, limit: int | None = None) -> TextSet:
    """The pairs of a named set or of files, the first `limit` of them.

    Pairs with an empty side are dropped, and a note says how many; a text without a source may be empty.
    """
    if is_file(name_or_files):
        return _whole(name_or_files, _file_pairs(name_or_files), limit)
    source, split = find_texts(name_or_files)
    name = f"{name_or_files.partition(':')[0]}:{split}"
    if source.draw is not None:
        return TextSet(name, source.draw(split, limit))
    rows = hub_rows(name, source.repo, source.config, source.hub_splits.get(split, split), f"give {FORMS}")
    return _whole(name, (_pair(name, i, row, source.source, source.target) for i, row in enumerate(rows)), limit)


def check_texts(name_or_files: str, where: str) -> None:
    """`UserError` unless the set is known or its files exist; nothing is loaded."""
    try:
        if not is_file(name_or_files):
            find_texts(name_or_files)
            return
        for path in files_of(name_or_files):
            if not path.is_file():
                raise UserError(f"no file {path}")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def find_texts(name: str) -> tuple[TextSource, str]:
    """The source and split that a name refers to; nothing is loaded."""
    base, _, split = name.partition(":")
    if base not in TEXTS:
        raise UserError(f"no set of texts {base!r}{did_you_mean(base, TEXTS)}; or give {FORMS}")
    source = TEXTS[base]
    if split and split not in source.splits:
        raise UserError(f"{base} has no split {split!r}{did_you_mean(split, source.splits)}")
    return source, split or source.splits[0]


def has_source(name_or_files: str) -> bool:
    """Whether its pairs have sources: text to translate or to summarise."""
    if is_file(name_or_files):
        return Path(name_or_files).suffix != ".txt"
    source, _ = find_texts(name_or_files)
    return source.draw is not None or bool(source.source)


# ---- files ----


def is_file(name_or_files: str) -> bool:
    return "." in Path(name_or_files).name or "/" in name_or_files


def files_of(name: str) -> list[Path]:
    """The file of that name, or both files of `NAME.{en,de}`."""
    if not (ends := re.search(r"\{([^{},]+),([^{},]+)\}", name)):
        return [Path(name)]
    return [Path(name[: ends.start()] + end + name[ends.end() :]) for end in ends.groups()]


def _file_pairs(name: str) -> Iterator[Pair]:
    files, suffix = files_of(name), Path(name).suffix
    if len(files) == 2:
        yield from _line_by_line(*files)
    elif suffix in (".jsonl", ".parquet"):
        yield from (_pair(name, i, row, "source", "target") for i, row in enumerate(read_rows(name)))
    elif suffix == ".tsv":
        yield from (_split_pair(name, number, line) for number, line in enumerate(_lines(files[0]), 1))
    elif suffix == ".txt":
        yield from (Pair("", line) for line in _lines(files[0]))
    else:
        raise UserError(f"{name} is not a file of texts; give {FORMS}")


def _line_by_line(source: Path, target: Path) -> Iterator[Pair]:
    sources, targets = list(_lines(source)), list(_lines(target))
    if len(sources) != len(targets):
        raise UserError(
            f"{source} has {len(sources)} lines and {target} has {len(targets)}; they must match line by line"
        )
    return map(Pair, sources, targets)


def _lines(path: Path) -> Iterator[str]:
    """The lines without their ends. Only a line feed ends a line: some texts contain other separators."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: it is not UTF-8 text") from None


def _split_pair(name: str, number: int, line: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2:
        raise UserError(f"{name}, line {number}: must be source, tab, target; it has {len(parts) - 1} tabs")
    return Pair(*parts)


# ---- rows ----


def _pair(name: str, number: int, row: Mapping[str, Any], source: str, target: str) -> Pair:
    return Pair(_column(name, number, row, source) if source else "", _column(name, number, row, target))


def _column(name: str, number: int, row: Mapping[str, Any], path: str) -> str:
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, str):
        raise UserError(f"row {number} of {name} has no text in {path!r}; every row needs one")
    return value


def _whole(name: str, pairs: Iterable[Pair], limit: int | None) -> TextSet:
    kept: list[Pair] = []
    empty = 0
    with_source = has_source(name)
    for pair in islice(pairs, limit):
        if with_source and not (pair.source.strip() and pair.target.strip()):
            empty += 1
        else:
            kept.append(pair)
    if not kept:
        raise UserError(f"{name} has no pairs")
    return TextSet(name, tuple(kept), (f"{empty:,} pairs with an empty side were dropped",) if empty else ())
