"""Sets of texts to translate, summarise or model: generated ones and those of the hub by name, and local files.

    grammar:train                 a named set and its split
    corpus/train.{en,de}          two files, line by line: source, then target
    corpus/train.tsv              one pair per line, source and target separated by a tab
    corpus/train.jsonl            rows {source, target}; also .parquet
    corpus/train.txt              one text per line, for language modelling

Sets of the hub come from `datasets` (the extra `data`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.hub import hub_rows
from polythink.problems.problem import ProblemSet
from polythink.problems.sets import Source
from polythink.run.jsonl import missing_column, read_placed
from polythink.text.data import grammar, pairs
from polythink.text.data.pairs import SHARES, Pair, generate_pairs

FORMS = "two files as NAME.{en,de}, or one file .tsv, .jsonl, .parquet, or .txt without sources"


@dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """The source of a named set of texts: a generator, or a set of the hub and its columns."""

    splits: Sequence[str] = tuple(SHARES)
    draw: Callable[[random.Random], Pair] | None = None
    draw_long: Callable[[random.Random], Pair] | None = None  # for the split `long`
    train_size: int = 30_000  # generated pairs without a limit (number words take time); 1,024 in other splits
    source: str = ""  # column, `translation.en` for en inside translation; none in language modelling
    target: str = ""
    hub_splits: Mapping[str, str] = field(default_factory=lambda: {"valid": "validation"})

    def generate(self, name: str, split: str, limit: int | None) -> tuple[Pair, ...]:
        limit = limit or (self.train_size if split == "train" else 1024)
        if split == "long":  # from the test share of longer sources: none was ever trained on
            return generate_pairs(f"{name}-long", self.draw_long, "test", limit)
        return generate_pairs(name, self.draw, split, limit)


def _translation(about: str, repo: str, config: str, source: str, target: str) -> TextSource:
    columns = {"source": f"translation.{source}", "target": f"translation.{target}"}
    return TextSource(about, repo=repo, config=config, **columns)


TEXTS: dict[str, TextSource] = {
    "grammar": TextSource(
        "synthetic: a compositional grammar with reversed word order and agreement", draw=grammar.draw_pair
    ),
    **{
        f"numbers-{to}": TextSource(f"number words, en-{to}", draw=partial(pairs.draw_number, to), train_size=10_000)
        for to in pairs.LANGUAGES
    },
    **{
        order: TextSource(
            f"synthetic: {order} a list of words", splits=(*SHARES, "long"),
            draw=partial(pairs.draw_list, order, pairs.SHORT), draw_long=partial(pairs.draw_list, order, pairs.LONG),
        )
        for order in pairs.ORDERS
    },
    "wmt14-en-de": _translation("WMT 2014 English-German", "wmt/wmt14", "de-en", "en", "de"),
    "wmt14-en-fr": _translation("WMT 2014 English-French", "wmt/wmt14", "fr-en", "en", "fr"),
    "wmt16-en-ro": _translation("WMT 2016 English-Romanian", "wmt/wmt16", "ro-en", "en", "ro"),
    "iwslt14-de-en": _translation("IWSLT 2014 German-English", "bbaaaa/iwslt14-de-en", "de-en", "de", "en"),
    "cnn-dailymail": TextSource(
        "CNN/DailyMail 3.0.0, articles and their highlights", repo="abisee/cnn_dailymail", config="3.0.0",
        source="article", target="highlights",
    ),
    "wikitext-103": TextSource(
        "WikiText-103, pre-tokenised words, for language modelling", repo="Salesforce/wikitext",
        config="wikitext-103-v1", target="text",
    ),
}  # fmt: skip


def load_texts(name_or_files: str, limit: int | None = None) -> ProblemSet[Pair]:
    """The pairs of a named set or of files, the first `limit` of them.

    Pairs with an empty side are dropped, and a note says how many; a text without a source may be empty.
    """
    if is_file(name_or_files):
        return _whole(name_or_files, _file_pairs(name_or_files), limit)
    base, source, split = find_texts(name_or_files)
    name = f"{base}:{split}"
    if source.draw is not None:
        return ProblemSet(name, source.generate(base, split, limit))
    rows = hub_rows(name, source.repo, source.config, source.hub_splits.get(split, split), f"give {FORMS}")
    found = (_pair(f"row {i} of {name}", row, source.source, source.target) for i, row in enumerate(rows))
    return _whole(name, found, limit)


def check_texts(name_or_files: str, where: str) -> None:
    """`UserError` unless the set is known or its files exist; nothing is loaded."""
    try:
        if not is_file(name_or_files):
            find_texts(name_or_files)
        elif missing := [path for path in files_of(name_or_files) if not path.is_file()]:
            raise UserError(f"no file {missing[0]}")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_first_pair(name: str) -> None:
    """`UserError` for files of texts that hold none, or whose first row is none; the others are not looked at."""
    if next(iter(_file_pairs(name)), None) is None:
        raise UserError(f"{name} has no pairs")


def find_texts(name: str) -> tuple[str, TextSource, str]:
    """The set, its source and the split that a name refers to; nothing is loaded."""
    base, _, split = name.partition(":")
    if base not in TEXTS:
        raise UserError(f"no set of texts {base!r}{did_you_mean(base, TEXTS)}; or give {FORMS}")
    source = TEXTS[base]
    if split and split not in source.splits:
        raise UserError(f"{base} has no split {split!r}{did_you_mean(split, source.splits)}")
    return base, source, split or source.splits[0]


def has_source(name_or_files: str) -> bool:
    """Whether its pairs have sources: text to translate or to summarise."""
    if is_file(name_or_files):
        return Path(name_or_files).suffix != ".txt"
    _, source, _ = find_texts(name_or_files)
    return source.draw is not None or bool(source.source)


# ---- files ----


def is_file(name_or_files: str) -> bool:
    return "." in Path(name_or_files).name or "/" in name_or_files


def is_texts(name_or_files: str) -> bool:
    """Whether that can only mean texts, not problems: a named set, two files, or a file that problems never are in."""
    named = name_or_files.partition(":")[0] in TEXTS
    return named or len(files_of(name_or_files)) == 2 or Path(name_or_files).suffix in (".tsv", ".txt")


def files_of(name: str) -> list[Path]:
    """The file of that name, or both files of `NAME.{en,de}`."""
    if not (ends := re.search(r"\{([^{},]+),([^{},]+)\}", name)):
        return [Path(name).expanduser()]
    return [Path(name[: ends.start()] + end + name[ends.end() :]).expanduser() for end in ends.groups()]


def _file_pairs(name: str) -> Iterator[Pair]:
    files, suffix = files_of(name), Path(name).suffix
    if len(files) == 2:
        return _line_by_line(*files)
    if suffix in (".jsonl", ".parquet"):
        rows = enumerate(read_placed(name))
        return (_pair(f"row {i} of {place}", row, "source", "target") for i, (place, row) in rows)
    if suffix == ".tsv":
        return (_split_pair(name, number, line) for number, line in enumerate(_lines(files[0]), 1))
    if suffix == ".txt":
        return (Pair("", line) for line in _lines(files[0]))
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
        with path.open(encoding="utf-8-sig", newline="\n") as file:
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


def _pair(where: str, row: Mapping[str, Any], source: str, target: str) -> Pair:
    """The texts in these two columns of a row; no source where its column is ""."""

    def text(column: str) -> str:
        value: Any = row
        for key in column.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, str):
            raise UserError(f"{where} has no text in {column!r}; every row needs one, {missing_column(row, column)}")
        return value

    return Pair(text(source) if source else "", text(target))


def _whole(name: str, found: Iterable[Pair], limit: int | None) -> ProblemSet[Pair]:
    """The first `limit` pairs, without those with an empty side."""
    given = tuple(islice(found, limit))
    kept = tuple(pair for pair in given if pair.source.strip() and pair.target.strip()) if has_source(name) else given
    if not kept:
        raise UserError(f"{name} has no pairs")
    empty = len(given) - len(kept)
    return ProblemSet(name, kept, (f"{empty:,} pairs with an empty side were dropped",) if empty else ())
