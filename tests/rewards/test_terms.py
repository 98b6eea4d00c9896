"""BLEU by hand, self-BLEU and efficiency on texts of every kind."""

from __future__ import annotations

import math
import re

import pytest

from polythink.rewards.terms import TERMS, RewardInput, bleu, efficiency, self_bleu
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER, Dialect
from polythink.trace.rollout import Rollout, Segment


def given(text: str, dialect: Dialect = PARALLEL_R1) -> RewardInput:
    """A rollout of this text, graded right."""
    segment = Segment("main", -1, 0, [1, 2], [True] * 2, [-0.5] * 2, text=text)
    return RewardInput(Rollout("p", 0, "structured", (0,), [segment]), right=True, dialect=dialect)


def block(*paths: str, summary: str = "s") -> str:
    inside = "".join(f"<Path>{path}</Path>" for path in paths)
    return f"<Parallel>{inside}</Parallel>\n<Summary>{summary}</Summary>"


def test_bleu_by_hand():
    # 1-grams 5/6 (the second `the` is in the reference too), 2-grams 3/5, 3-grams 1/4, 4-grams 0/3 smoothed to (1/2)/3
    candidate, reference = "the cat sat on the mat", "the cat lay on the mat"
    assert bleu(candidate, reference) == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** (1 / 4))
    # counts are clipped: `a` occurs once in the reference; 2- to 4-grams are smoothed to 1/2, 1/4 and 1/8 of a match
    assert bleu("a a a a", "a b") == pytest.approx((1 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** (1 / 4))
    # shorter than the reference: exp(1 - 5/3), orders beyond the candidate's three words left out
    assert bleu("a b c", "a b c d e") == pytest.approx(math.exp(1 - 5 / 3))
    # longer: no penalty
    assert bleu("a b c d e", "a b c") == pytest.approx((3 / 5 * 2 / 4 * 1 / 3 * (1 / 2) / 2) ** (1 / 4))


def test_bleu_at_the_ends():
    assert bleu("x + 1 = 2 .", "x + 1 = 2 .") == pytest.approx(1)
    assert bleu("a", "a") == pytest.approx(1)
    assert bleu("a b c", "d e f") == 0
    assert bleu("", "a") == bleu("a", "") == bleu("", "") == 0
    assert bleu("A", "a") == 0  # case is kept


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("x=1", "x = 1"),
        ("1,234.5 is", "1,234.5 is"),  # points and commas inside numbers stay
        ("end. Then, 3.", "end . Then , 3 ."),
        ("3-4 and -4 and a-b", "3 - 4 and -4 and a-b"),  # a dash leaves a digit before it, nothing else
        ("don't $5 {x} \\frac", "don't $ 5 { x } \\ frac"),
        ("inter-\nesting\n", "interesting"),
    ],
)
def test_bleu_tokens_are_those_of_13a(text, tokens):
    assert bleu(text, tokens) == pytest.approx(1)
    assert bleu(tokens, text) == pytest.approx(1)


def test_bleu_on_sentences_with_sacrebleu_values():
    # sacrebleu 2.6.0: sentence_bleu(a, [b]).score / 100
    a, b = "Add 3 and 4 to get 7.", "Add 4 and 3 to get 7, then stop."
    assert bleu(a, b) == pytest.approx(0.1805447006787649, abs=1e-12)
    assert bleu(b, a) == pytest.approx(0.17827531042796252, abs=1e-12)


def test_self_bleu_is_the_mean_over_blocks_of_the_mean_over_pairs():
    # the earlier path is the candidate: `a b` against `a c` is 1/2, each of them against `a` sqrt(1/2 * 1/2)
    three = (1 / 2 + 1 / 2 + 1 / 2) / 3
    assert self_bleu(given(block("a b", "a c"))) == pytest.approx(1 / 2)
    assert self_bleu(given(block("a b", "a c", "a"))) == pytest.approx(three)
    assert self_bleu(given(block("a b", "a c") + " x " + block("a", "a"))) == pytest.approx((1 / 2 + 1) / 2)


def test_self_bleu_reads_a_pair_in_one_direction():
    long, short = "a b c d e", "a b c"  # the longer as candidate is imprecise, the shorter one brief
    assert self_bleu(given(block(long, short))) == pytest.approx((3 / 5 * 2 / 4 * 1 / 3 * (1 / 2) / 2) ** (1 / 4))
    assert self_bleu(given(block(short, long))) == pytest.approx(math.exp(1 - 5 / 3))
    three = (bleu(long, short) + bleu(long, "a b") + bleu(short, "a b")) / 3
    assert self_bleu(given(block(long, short, "a b"))) == pytest.approx(three)


def test_self_bleu_without_two_paths_is_one():
    assert self_bleu(given("no block at all")) == 1
    assert self_bleu(given(block("alone"))) == 1
    assert self_bleu(given("<Parallel><Path>a b</Path><Path>a c")) == 1  # never closed


def test_a_reasoning_models_tags_are_no_block_without_paths():
    own = "<think1>a b c</think1><think2>d e f</think2><summary>s</summary>"
    texts = (own, f"<think>x</think><summary>s</summary>{own}")
    alone, behind = (self_bleu(given(text, PARATHINKER)) for text in texts)
    assert alone == behind < 1.0


def test_efficiency_counts_the_longest_path_only():
    # 3 words before, paths of 4 and 2, a summary of 1, 2 words behind: 10 of 12 are waited for
    text = "one two three" + block("a b c d", "e f") + " x y"
    assert efficiency(given(text)) == pytest.approx(2 / 12)
    assert efficiency(given("no block")) == 0
    assert efficiency(given("")) == 0


def test_efficiency_of_texts_that_are_not_well_formed():
    inside = "<Parallel><Path>a b</Path><Path>c</Path><Summary>s t</Summary></Parallel> x"
    assert efficiency(given(inside)) == pytest.approx(1 / 6)  # the summary inside is waited for
    loose = "<Parallel><Path>a b</Path> so <Path>c</Path></Parallel> x"
    assert efficiency(given(loose)) == pytest.approx(2 / 5)  # text between paths is not
    cut = "a b <Parallel><Path>c d"
    assert efficiency(given(cut)) == 0


@pytest.mark.parametrize("words", ["a b", " ".join(["so"] * 99), "<Summary>s t</Summary> u", "a <Path> b", "a </Path>"])
def test_a_block_without_a_path_saves_nothing(words):
    empty = f"<Parallel> {words} </Parallel>"
    assert efficiency(given(f"{empty}\nFinal Answer: 5")) == 0
    good = block("a b c d", "e f")  # the words of a second block are waited for too
    total = 7 + len(re.sub(r"<[^>]*>", " ", words).split())
    assert efficiency(given(empty + good)) == efficiency(given(good + empty)) == pytest.approx(2 / total)


def test_a_stray_opening_tag_hides_no_block():
    good = block("a b c d", "e f")
    assert efficiency(given(f"{good} <Parallel>")) == efficiency(given(good)) == pytest.approx(2 / 7)
    doubled = good.replace("<Path>e", "<Path><Path>e")
    assert efficiency(given(doubled)) == pytest.approx(2 / 7)
    assert self_bleu(given(good.replace("<Parallel>", "<Parallel><Parallel>"))) == self_bleu(given(good)) == 0


def test_where_no_tag_opens_a_block_only_its_paths_are_read():
    """In ParaThinker's dialect a block is a run of paths: the text before it is waited for, whatever its length."""
    paths = "<think1>a b c</think1><think2>d</think2>"
    text = f"one two three {paths}<summary>s</summary>"
    assert efficiency(given(text, PARATHINKER)) == pytest.approx(1 / 8)
    assert efficiency(given("one two <summary>s</summary>", PARATHINKER)) == 0
    assert efficiency(given("one <think1>a b <summary>s</summary>", PARATHINKER)) == 0
    two_runs = f"{paths} and then {paths.replace('d', 'a b c')}<summary>s</summary>"
    assert self_bleu(given(two_runs, PARATHINKER)) == pytest.approx((0 + 1) / 2)


def test_a_nested_block_belongs_to_the_path_that_holds_it():
    nested = block("a " + block("b", "c"), "d")
    assert efficiency(given(nested)) == pytest.approx(1 / 6)  # the path `a b c s` is waited for, `d` is not
    assert self_bleu(given(nested)) == 0


def test_terms_see_the_rollout():
    """Two paths of three and two tokens between one token before and a summary of one: five steps, seven tokens."""
    kinds = (("main", 0, 1), ("path", 1, 3), ("path", 2, 2), ("summary", 0, 1))
    segments = [
        Segment(kind, -1 if kind == "main" else 0, path, list(range(n)), [True] * n, [-1.0] * n)
        for kind, path, n in kinds
    ]
    seen = RewardInput(Rollout("p", 0, "structured", (5, 6), segments), right=False, step=3)
    assert (TERMS["tokens"](seen), TERMS["critical_path"](seen)) == (7, 5)
    assert [segment.kind for segment in seen.segments] == ["main", "path", "path", "summary"]
    assert seen.step == 3


def test_blocks_and_form_are_worked_out_once(monkeypatch):
    calls = []
    monkeypatch.setattr("polythink.rewards.terms.count_blocks", lambda *args: calls.append("blocks") or 1)
    seen = given(block("a", "b"))
    assert [TERMS[name](seen) for name in ("parallel", "no_block", "blocks", "sqrt_blocks")] == [1, 0, 1, 1]
    assert TERMS["well_formed"](seen) == 1 - TERMS["malformed"](seen)
    assert calls == ["blocks"]
