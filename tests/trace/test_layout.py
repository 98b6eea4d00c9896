"""The layout table against definitions that do not use it: spans found with a stack in the flat list of tags."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.sweep import sweep
from polythink.errors import UserError
from polythink.trace import layout as layout_module
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.trace.parse import parse
from polythink.trace.tokens import pieces_of

WORD = re.compile(r"</?(?:Parallel|Path|Summary)>|\n|[^\s<]+|<")
TAGS = PARALLEL_R1.tags
END = "<end>"


class Vocabulary:
    """A token for every word, line break and tag; ids as they come."""

    def __init__(self) -> None:
        self.words: list[str] = [*TAGS]

    def encode(self, text: str) -> list[int]:
        return [self.id(w) for w in WORD.findall(text)]

    def id(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)


def laid_out(text: str, mode: str = "structured", prompt: str = "", end: bool = False) -> tuple[Layout, list[str]]:
    """The layout of prompt + response, and its tokens as words."""
    v = Vocabulary()
    ending = [v.id(END)] if end else []
    table = lay_out(pieces_of(v.encode(prompt), parse(text), PARALLEL_R1, v.encode, mode, ending), mode)
    return table, [v.words[t] for t in table.tokens]


# ---- the definitions, from the flat words alone ----


def path_spans(words: list[str], start: int = 0) -> list[list[range]]:
    """Of each block the flat spans of its paths, both tags included. `start` is where the response begins."""
    blocks: list[list[range]] = []
    open_blocks: list[list[range]] = []
    open_paths: list[int] = []
    for i, word in enumerate(words[start:], start):
        if word == "<Parallel>":
            open_blocks.append([])
        elif word == "<Path>":
            open_paths.append(i)
        elif word == "</Path>":
            open_blocks[-1].append(range(open_paths.pop(), i + 1))
        elif word == "</Parallel>":
            blocks.append(open_blocks.pop())
    return blocks


def brute_force_mask(words: list[str], start: int = 0) -> np.ndarray:
    """(T, T): q may attend k iff k is not after q and they are not in two different paths of one block."""
    n = len(words)
    mask = np.array([[k <= q for k in range(n)] for q in range(n)], bool).reshape(n, n)
    for spans in path_spans(words, start):
        for mine in spans:
            for other in spans:
                if mine != other:
                    mask[mine.start : mine.stop, other.start : other.stop] = False
    return mask


def brute_force_positions(mask: np.ndarray) -> np.ndarray:
    """A token stands one after the latest of the tokens that it may attend."""
    position = np.zeros(len(mask), int)
    for t in range(1, len(mask)):
        position[t] = 1 + max(position[k] for k in range(t) if mask[t, k])
    return position


def random_trace(rng: random.Random, depth: int = 2) -> str:
    """A random trace: one to four blocks a level, two to four paths a block, nested in paths and summaries."""

    def inside(depth: int) -> str:
        text = " ".join(rng.choices("abcde", k=rng.randrange(4)))
        for _ in range(rng.choice((0, 0, 1, 2)) if depth else 0):
            text += block(depth - 1) + " ".join(rng.choices("abcde", k=rng.randrange(3)))
        return text

    def block(depth: int) -> str:
        paths = "".join(f"<Path>{inside(depth)}</Path>" for _ in range(rng.randrange(2, 5)))
        return f"<Parallel>{paths}</Parallel>\n<Summary>{inside(depth)}</Summary>"

    return "".join(inside(depth) + block(depth) for _ in range(rng.randrange(1, 3))) + inside(depth)


def fault(table: Layout, words: list[str], start: int = 0) -> str:
    """What is wrong with a structured layout: the name of the first broken definition, or nothing."""
    mask = brute_force_mask(words, start)
    if not np.array_equal(table.may_attend(), mask):
        return "mask"
    if not np.array_equal(table.position, brute_force_positions(mask)):
        return "position"
    for t, before in enumerate(table.previous):
        if t == 0:
            if before != -1:
                return "previous"
        elif not (mask[t, before] and before < t and table.position[before] == table.position[t] - 1):
            return "previous"
    return ""


# ---- the worked example of the published code ----

EXAMPLE = "a b<Parallel><Path>c d</Path><Path>e f g h</Path></Parallel>\n<Summary>s</Summary>z"


def test_the_worked_example():
    table, words = laid_out(EXAMPLE)
    expected = (
        "a0 b1 <Parallel>2 <Path>3 c4 d5 </Path>6 <Path>3 e4 f5 g6 h7 </Path>8 "
        "</Parallel>9 \n10 <Summary>11 s12 </Summary>13 z14"
    )
    assert " ".join(f"{w}{p}" for w, p in zip(words, table.position, strict=True)) == expected
    assert table.segment.tolist() == [0] * 3 + [1] * 4 + [2] * 6 + [3] * 5 + [4]
    assert table.kinds == ("main", "path", "path", "summary", "main")
    assert table.paths == (0, 1, 2, 0, 0)
    assert table.follows == ((), (0,), (0,), (1, 2), (3,))
    rows = ["10000", "11000", "10100", "11110", "11111"]
    assert table.sees.tolist() == [[c == "1" for c in row] for row in rows]
    # a path is predicted from the fork, the join from the end of the longest path
    assert table.previous.tolist() == [-1, 0, 1, 2, 3, 4, 5, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    assert table.position.max() == 14
    assert len(table) == 19
    assert fault(table, words) == ""


def test_the_join_is_predicted_from_the_longest_path_wherever_it_stands():
    table, words = laid_out("a<Parallel><Path>c d e</Path><Path>f</Path></Parallel>\n<Summary>s</Summary>")
    join = words.index("</Parallel>")
    assert words[table.previous[join]] == "</Path>"
    assert table.previous[join] == words.index("</Path>")  # of the first path
    assert table.position[join] == 7


def test_sequential_is_plain_causal_text():
    table, words = laid_out(EXAMPLE, "sequential", prompt="q q")
    n = len(words)
    assert table.position.tolist() == list(range(n))
    assert table.previous.tolist() == list(range(-1, n - 1))
    assert np.array_equal(table.may_attend(), np.tri(n, dtype=bool))
    assert table.position.max() == n - 1


# ---- which tokens are sampled ----


@pytest.mark.parametrize("mode", ["structured", "sequential"])
def test_sampled_and_forced_tokens(mode):
    table, words = laid_out(EXAMPLE, mode, prompt="solve this", end=True)
    forced = {"solve", "this"} | ({"<Path>", "</Parallel>", "\n", "<Summary>"} if mode == "structured" else set())
    assert [w in forced for w in words] == [not s for s in table.sampled]
    assert words[-1] == END
    assert table.sampled[-1]


# ---- random nested traces ----


@pytest.mark.slow
@pytest.mark.parametrize("seed", sweep(range(60), range(30)))
def test_masks_positions_and_predecessors_equal_their_definitions(seed):
    text = random_trace(random.Random(seed))
    table, words = laid_out(text, prompt="p q r", end=True)
    assert [*WORD.findall(f"p q r {text}"), END] == words
    assert fault(table, words, start=3) == ""


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_contiguous_along_every_chain_from_the_root_to_a_leaf(seed):
    table, _ = laid_out(random_trace(random.Random(seed)), prompt="p")
    for leaf in np.flatnonzero(np.diff(table.segment, append=len(table.kinds))):  # the last token of each segment
        chain = [leaf]
        while table.previous[chain[-1]] >= 0:
            chain.append(table.previous[chain[-1]])
        assert table.position[chain[::-1]].tolist() == list(range(len(chain)))


@pytest.mark.parametrize("seed", range(20))
def test_the_sequential_layout_of_any_trace_is_flat(seed):
    table, words = laid_out(random_trace(random.Random(seed)), "sequential", prompt="p")
    assert np.array_equal(table.may_attend(), np.tri(len(words), dtype=bool))
    assert table.position.tolist() == list(range(len(words)))


@pytest.mark.parametrize("paths", [2, 3, 8])
@pytest.mark.parametrize("blocks", [1, 4])
def test_any_number_of_paths_and_blocks(paths, blocks):
    rng = random.Random(paths)
    inside = ["".join(f"<Path>{'w ' * rng.randrange(6)}</Path>" for _ in range(paths)) for _ in range(blocks)]
    text = "".join(f"m<Parallel>{i}</Parallel>\n<Summary>s s</Summary>" for i in inside) + "end"
    table, words = laid_out(text, prompt="p")
    assert fault(table, words, start=1) == ""
    assert table.kinds == ("prompt", *("main", *["path"] * paths, "summary") * blocks, "main")
    for spans in path_spans(words):  # siblings start together, the join stands after the longest
        assert len({int(table.position[s.start]) for s in spans}) == 1
        fork = table.position[spans[0].start - 1]
        assert table.position[spans[-1].stop] == fork + 1 + max(len(s) for s in spans)


def test_a_single_path_is_the_flat_text():
    """The grammar asks for two paths, the layout does not: a single path is hidden from no other."""
    pieces = [
        Piece("prompt", (1, 2), (False, False)),
        Piece("main", (3, 4), (True, True)),
        Piece("path", (5, 6, 7), (False, True, True), block=0, path=1),
        Piece("summary", (8, 9), (False, True), block=0),
        Piece("main", (10,), (True,)),
    ]
    one, flat = lay_out(pieces, "structured"), lay_out(pieces, "sequential")
    assert np.array_equal(one.may_attend(), flat.may_attend())
    assert np.array_equal(one.position, flat.position)
    assert np.array_equal(one.previous, flat.previous)


def test_paths_may_follow_the_prompt_at_once():
    """The two phases of ParaThinker (arXiv 2509.04475): paths directly after the prompt, then one summary, no more."""
    lengths = (3, 5, 2)
    pieces = [Piece("prompt", (1,) * 4, (False,) * 4)]
    pieces += [Piece("path", (2,) * n, (True,) * n, block=0, path=i) for i, n in enumerate(lengths, start=1)]
    pieces += [Piece("summary", (3,) * 3, (True,) * 3, block=0)]
    table = lay_out(pieces, "structured")
    u, v = np.arange(len(table))[:, None], np.arange(len(table))[None, :]
    of = table.segment
    assert np.array_equal(table.may_attend(), (v <= u) & ((of[v] == 0) | (of[v] == of[u]) | (of[u] == 4)))
    starts = [int(table.position[of == s][0]) for s in range(5)]
    assert starts == [0, 4, 4, 4, 4 + max(lengths)]
    assert table.paths == (0, 1, 2, 3, 0)  # what a thought embedding goes by


def test_a_path_sees_what_it_would_see_alone():
    """What the end of a path may attend is the prefix and the path itself, numbered from 0 without a gap."""
    table, words = laid_out(EXAMPLE, prompt="p q")
    (spans,) = path_spans(words)
    prefix = words[: spans[0].start]
    mask = table.may_attend()
    for span in spans:
        alone = prefix + [words[t] for t in span]
        visible = np.flatnonzero(mask[span.stop - 1])
        assert [words[t] for t in visible] == alone
        assert table.position[visible].tolist() == list(range(len(alone)))


# ---- prompts ----


def test_a_prompt_that_quotes_the_tags_is_one_segment_of_plain_text():
    prompt = "Begin with <Parallel> , write <Path> and </Path> , then </Parallel> <Summary> </Summary> . <Parallel>"
    table, words = laid_out(EXAMPLE, prompt=prompt)
    n = len(WORD.findall(prompt))
    plain, _ = laid_out(EXAMPLE, prompt="w " * n)
    assert table.kinds[0] == "prompt"
    assert table.kinds.count("prompt") == 1
    assert (table.segment == 0).sum() == n
    assert not table.sampled[:n].any()
    assert table.position[:n].tolist() == list(range(n))
    for fact in ("segment", "position", "previous", "sampled", "sees"):
        assert np.array_equal(getattr(table, fact), getattr(plain, fact))
    assert table.follows == plain.follows
    assert fault(table, words, start=n) == ""


def test_a_response_may_open_with_a_block_or_hold_none():
    table, words = laid_out("<Parallel><Path>a</Path><Path>b</Path></Parallel>\n<Summary></Summary>")
    assert fault(table, words) == ""
    assert words[0] == "<Parallel>"
    table, words = laid_out("just text", prompt="p")
    assert table.kinds == ("prompt", "main")
    assert table.position.tolist() == [0, 1, 2]


def test_an_unknown_mode_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="no mode 'structure'; did you mean 'structured'"):
        lay_out([Piece("main", (1,), (True,))], "structure")


# ---- a wrong table is noticed ----


def wrong_sibling(follows, pieces):
    """Each path after the first follows the one before it."""
    return tuple(
        (i - 1,) if p.kind == "path" and pieces[i - 1].kind == "path" else f
        for i, (p, f) in enumerate(zip(pieces, follows, strict=True))
    )


def wrong_join(follows, pieces):
    """The summary follows the last path only."""
    return tuple(f[-1:] if p.kind == "summary" else f for p, f in zip(pieces, follows, strict=True))


def wrong_fork(follows, pieces):
    """Paths follow the prompt and miss the main text."""
    return tuple((0,) if p.kind == "path" else f for p, f in zip(pieces, follows, strict=True))


def wrong_resume(follows, pieces):
    """Text after a block follows the text before it and misses the summary."""
    return tuple(
        (1,) if p.kind == "main" and pieces[i - 1].kind == "summary" else f
        for i, (p, f) in enumerate(zip(pieces, follows, strict=True))
    )


def flat(follows, pieces):
    """Sequential wiring under the name of structured."""
    return tuple((i - 1,) if i else () for i in range(len(pieces)))


@pytest.mark.parametrize("wrong", [wrong_sibling, wrong_join, wrong_fork, wrong_resume, flat])
def test_a_wrong_wiring_is_noticed(wrong, monkeypatch):
    right = layout_module.wire
    monkeypatch.setattr(layout_module, "wire", lambda pieces, mode: wrong(right(pieces, mode), pieces))
    monkeypatch.setattr(layout_module, "_known_frame", layout_module._frame)
    table, words = laid_out(EXAMPLE, prompt="p")
    assert fault(table, words, start=1) == "mask"


@pytest.mark.parametrize("fact", ["position", "previous"])
def test_positions_and_predecessors_of_flat_text_are_noticed(fact):
    table, words = laid_out(EXAMPLE)
    flat_table, _ = laid_out(EXAMPLE, "sequential")
    assert fault(replace(table, **{fact: getattr(flat_table, fact)}), words) == fact


def test_traces_of_one_shape_share_what_depends_on_it_alone(monkeypatch):
    first, _ = laid_out(EXAMPLE, prompt="p")
    again, _ = laid_out(EXAMPLE, prompt="q")
    assert first.position is again.position
    assert not again.position.flags.writeable
    other, _ = laid_out(EXAMPLE, prompt="p q")  # another shape
    monkeypatch.setattr(layout_module, "_known_frame", layout_module._frame)
    for prompt, found in (("p", first), ("q", again), ("p q", other)):
        slow, _ = laid_out(EXAMPLE, prompt=prompt)
        for name, value in vars(slow).items():
            assert np.array_equal(getattr(found, name), value) if isinstance(value, np.ndarray) else (
                getattr(found, name) == value
            )  # fmt: skip
