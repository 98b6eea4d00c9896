"""The three rules: each leniency, all real traces, and agreement with independent statements under mutation.

The statements at the top share nothing with the package: they spell a trace as a word, one letter a tag, and rewrite
that word with regular expressions until nothing changes.
"""

from __future__ import annotations

import itertools
import random
import re

import pyarrow.parquet
import pytest

from polythink.errors import UserError
from polythink.trace.validity import RULES, check

LETTERS = {"<Parallel>": "B", "</Parallel>": "b", "<Path>": "P", "</Path>": "p", "<Summary>": "S", "</Summary>": "s"}
TAG = re.compile("|".join(LETTERS))


def word(text: str) -> str:
    """Tags as letters, white space between two tags as `_`, other text as `x`."""
    pieces = re.split(f"({TAG.pattern})", text)
    return "".join(LETTERS.get(p, "_" if p.isspace() else "x") for p in pieces if p)


def rewrite(word: str, pattern: str, by: str) -> str:
    while (shorter := re.sub(pattern, by, word)) != word:
        word = shorter
    return word


def strict(text: str) -> bool:
    """A whole block is as good as text: replace blocks from the inside out; only text may be left."""
    return not re.search("[BbPpSs]", rewrite(word(text), "B_?(P[x_]*p_?){2,}b_?S[x_]*s", "x"))


def stack(text: str) -> bool:
    """Matching neighbours cancel; nothing may be left."""
    return not rewrite(re.sub("[x_]", "", word(text)), "Bb|Pp|Ss", "")


def reference(text: str) -> bool:
    """Blocks and paths cancel, every block holds two closed paths of its own, `b` and `S` come in pairs."""
    tags = re.sub("[x_s]", "", word(text))
    blocks_and_paths = tags.replace("S", "")
    own_paths = rewrite(blocks_and_paths, "B(?=[^Bb]*p[^Bb]*p)[^Bb]*b", "")  # innermost blocks that have two vanish
    return (
        not rewrite(blocks_and_paths, "Bb|Pp", "")
        and not re.search("[Bb]", own_paths)
        and re.fullmatch("(B|bS)*", re.sub("[Pp]", "", tags)) is not None
    )


STATEMENTS = {"strict": strict, "stack": stack, "reference": reference}


def block(
    paths: int = 2, before: str = "", between: str = "", gap: str = "\n", summary: str = "s", end: str = ""
) -> str:
    inside = between.join("<Path>a</Path>" for _ in range(paths))
    return f"x {before}<Parallel>{inside}</Parallel>{gap}<Summary>{summary}</Summary>{end} y"


NESTED = f"<Parallel><Path>{block()}</Path><Path>b</Path></Parallel>\n<Summary>s</Summary>"

# name, text, verdict of strict, stack, reference
CASES = [
    ("no tags", "just text", True, True, True),
    ("nothing", "", True, True, True),
    ("a block", block(), True, True, True),
    ("three paths", block(paths=3), True, True, True),
    ("two blocks", block() + block(), True, True, True),
    ("empty paths", "<Parallel><Path></Path><Path></Path></Parallel><Summary></Summary>", True, True, True),
    ("a block nested in a path", NESTED, True, True, True),
    ("a block nested in a summary", block(summary=block()), True, True, True),
    # leniencies of the reference rule
    ("missing </Summary>", block().replace("</Summary>", ""), False, False, True),
    ("stray </Summary>", block(end="</Summary>"), False, False, True),
    ("</Summary> before everything", "</Summary>" + block(), False, False, True),
    ("text between the paths", block(between=" and "), False, True, True),
    ("text between </Parallel> and <Summary>", block(gap="\nSo:\n"), False, True, True),
    ("a path outside any block", block(before="<Path>a</Path>"), False, True, True),
    ("a path between </Parallel> and <Summary>", block(gap="<Path>a</Path>"), False, True, True),
    ("a nested path counts", "<Parallel><Path><Path></Path></Path></Parallel><Summary></Summary>", False, True, True),
    ("a nested block without its outer path", f"<Parallel>{block()}<Path>a</Path><Path>b</Path></Parallel>"
     "<Summary>s</Summary>", False, True, True),
    ("the inner summary after its path", "<Parallel><Path><Parallel><Path></Path><Path></Path></Parallel></Path>"
     "<Summary></Summary><Path></Path></Parallel><Summary></Summary>", False, True, True),
    # rejected by the reference rule
    ("one path", block(paths=1), False, True, False),
    ("no path", block(paths=0), False, True, False),
    ("paths of a nested block do not count for the outer one",
     f"<Parallel><Path>{block()}</Path></Parallel><Summary>s</Summary>", False, True, False),
    ("summary inside the block", "<Parallel><Path>a</Path><Path>b</Path><Summary>s</Summary></Parallel>",
     False, True, False),
    ("two blocks with one summary", block().split("<Summary>")[0] + block(), False, True, False),
    ("one block with two summaries", block(end="<Summary>s</Summary>"), False, True, False),
    ("no summary", block().split("<Summary>")[0], False, True, False),
    ("summary before the block", "<Summary>s</Summary>" + block().split("<Summary>")[0], False, True, False),
    ("summary within a path", block() + "<Path><Summary></Summary></Path>", False, True, False),
    ("unclosed <Parallel>", "so <Parallel>", False, False, False),
    ("cut in a path", block()[:30], False, False, False),
    ("unclosed <Path> outside a block", "<Path>" + block(), False, False, False),
    ("stray </Path>", "</Path>" + block(), False, False, False),
    ("stray </Parallel>", block() + "</Parallel><Summary></Summary>", False, False, False),
    ("crossed tags", "<Parallel><Path>a</Path><Path>b</Parallel></Path><Summary>s</Summary>", False, False, False),
    ("another block before the summary", "<Parallel><Path></Path><Path></Path></Parallel>" + block() +
     "<Summary></Summary>", False, True, False),
    # what the stack sees and the reference does not
    ("summary across a path", "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary><Path></Summary></Path>",
     False, False, True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "verdicts"), [(c[1], c[2:]) for c in CASES], ids=[c[0] for c in CASES])
def test_each_rule_on_each_case(text, verdicts):
    for rule, expected in zip(("strict", "stack", "reference"), verdicts, strict=True):
        verdict = check(text, rule)
        assert verdict.valid == expected, (rule, verdict)
        assert (verdict.reason == "ok") == expected
        assert bool(verdict.detail) == (not expected)
        assert STATEMENTS[rule](text) == expected, f"the statement of {rule} is wrong"


@pytest.mark.parametrize(
    ("rule", "text", "reason", "detail"),
    [
        ("strict", "\n</Path>", "path_not_open", "line 2, column 1: </Path> outside a block"),
        ("stack", "a</Path>", "not_open", "line 1, column 2: </Path> closes nothing"),
        ("stack", "<Parallel></Path>", "wrong_close", "column 11: </Path> while <Parallel> is open"),
        ("stack", "<Path>\n<Path></Path>", "not_closed", "line 1, column 1: <Path> is never closed"),
        ("reference", "</Path>", "unexpected_path_close", "</Path> where none is open"),
        ("reference", "<Path></Parallel>", "unexpected_block_close", "column 7"),
        ("reference", block(paths=1), "too_few_paths", "column 27: closed paths in the block: 1, needed: 2"),
        ("reference", "<Summary>", "summary_without_block", "<Summary> follows no </Parallel>"),
        ("reference", "<Parallel>", "not_closed", "<Parallel> is never closed"),
        ("reference", block().split("<Summary>")[0], "missing_summary", "blocks: 1, summaries: 0"),
    ],
)
def test_reasons_and_details(rule, text, reason, detail):
    verdict = check(text, rule)
    assert (verdict.valid, verdict.reason) == (False, reason)
    assert detail in verdict.detail


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="no validity rule 'stcak'; did you mean 'stack'"):
        check("", "stcak")


@pytest.mark.slow
def test_hostile_nesting_gets_a_verdict():
    deep = "<Parallel><Path>" * 20_000
    assert [check(deep, rule).reason for rule in RULES] == ["too_deep", "not_closed", "not_closed"]


def real_traces(shared_data) -> list[str]:
    table = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet")
    return table["trace"].to_pylist() + table["trace_compact"].to_pylist()


def test_the_real_traces_get_a_verdict_under_each_rule(shared_data):
    traces = real_traces(shared_data)
    assert len(traces) == 2 * 241
    valid = {rule: sum(check(t, rule).valid for t in traces) for rule in RULES}
    assert valid == {"strict": 2 * 239, "stack": 2 * 241, "reference": 2 * 241}


def mutate(text: str, rng: random.Random) -> str:
    """One mutation: a tag dropped, a tag doubled, two tags swapped, or the text cut anywhere."""
    kind = rng.choice(("drop", "double", "swap", "cut"))
    tags = list(TAG.finditer(text))
    if kind == "cut" or len(tags) < 2:
        return text[: rng.randrange(len(text))]
    first, second = sorted(rng.sample(tags, 2), key=re.Match.start)
    if kind == "swap":
        middle = text[first.end() : second.start()]
        return text[: first.start()] + second[0] + middle + first[0] + text[second.end() :]
    return text[: first.start()] + first[0] * (2 if kind == "double" else 0) + text[first.end() :]


@pytest.mark.slow
def test_the_rules_agree_with_their_statements_on_5000_mutations(shared_data):
    rng = random.Random(20)
    traces = real_traces(shared_data)
    outcomes = {rule: [0, 0] for rule in RULES}
    for n in range(5000):
        text = traces[n % len(traces)]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text = mutate(text, rng) or "x"
        for rule in RULES:
            verdict = check(text, rule)
            assert verdict.valid == STATEMENTS[rule](text), (rule, verdict, text)
            outcomes[rule][verdict.valid] += 1
    assert all(min(counts) > 50 for counts in outcomes.values()), outcomes  # both verdicts are really tried


def test_the_rules_agree_with_their_statements_on_every_short_word():
    pieces = [*LETTERS, "x", "\n"]
    for length in range(5):
        for tags in itertools.product(pieces, repeat=length):
            text = "".join(tags)
            assert [check(text, rule).valid for rule in RULES] == [STATEMENTS[rule](text) for rule in RULES], text


@pytest.mark.slow
def test_the_rules_agree_with_their_statements_on_edited_nested_blocks():
    rng = random.Random(21)
    tags = TAG.findall(NESTED + block(summary=block(paths=3)))
    for _ in range(3000):
        edited = list(tags)
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(edited))
            edited[at : at + rng.randrange(2)] = rng.choices([*LETTERS, "x"], k=rng.randrange(2))
        text = "".join(edited)
        assert [check(text, rule).valid for rule in RULES] == [STATEMENTS[rule](text) for rule in RULES], text


def test_a_broken_rule_would_be_noticed(shared_data):
    """The mutations tell the rules apart: none of the statements passes for another rule."""
    rng = random.Random(22)
    texts = [mutate(t, rng) for t in real_traces(shared_data)]
    for one, other in itertools.permutations(RULES, 2):
        assert any(check(t, one).valid != STATEMENTS[other](t) for t in texts), (one, other)
