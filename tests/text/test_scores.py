"""Scores of texts: BLEU against sacrebleu, ROUGE by hand, intervals that hold what they should."""

from __future__ import annotations

from math import exp, inf, isnan

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from polythink.evaluate.metrics import difference
from polythink.run.folder import to_jsonable
from polythink.text.config import TASKS
from polythink.text.scores import (
    beyond_floats,
    bleu,
    longest_common,
    mean_of,
    rouge_l,
    rouge_n,
    score_rows,
    text_measures,
    words,
)

OUTPUTS = ["the cat sat on the mat", "a dog, he said, barks", "nothing at all", "the the the the"]
REFERENCES = ["the cat sat on a mat", "a dog, she said, barks loudly", "something else", "the cat is here"]


@pytest.mark.parametrize("tokenize", ["13a", "none", "char"])
@pytest.mark.parametrize("some", [slice(0, 4), slice(0, 2), slice(2, 3)])
def test_bleu_is_that_of_sacrebleu(tokenize, some):
    outputs, references = OUTPUTS[some], REFERENCES[some]
    expected = BLEU(tokenize=tokenize).corpus_score(outputs, [references]).score
    assert bleu(outputs, references, tokenize).value == pytest.approx(expected / 100, abs=1e-12)


def test_bleu_has_the_signature_that_is_reported():
    metric = BLEU(tokenize="13a")
    metric.corpus_score(OUTPUTS, [REFERENCES])
    signature = str(metric.get_signature())
    assert "case:mixed|eff:no|tok:13a|smooth:exp" in signature


def test_rouge_by_hand():
    output, reference = words("The cat sat, on the mat."), words("the cat is on the mat")
    assert output == ["the", "cat", "sat", "on", "the", "mat"]
    assert rouge_n(output, reference, 1) == pytest.approx(5 / 6)
    assert rouge_n(output, reference, 2) == pytest.approx(3 / 5)  # the cat, on the, the mat
    assert rouge_l(output, reference) == pytest.approx(5 / 6)
    assert rouge_n(["the"] * 3, ["the", "cat"], 1) == pytest.approx(2 / 5)  # the is counted once: 1 of 3, 1 of 2
    assert rouge_l(["b", "a"], ["a", "b", "c"]) == pytest.approx(2 / 5)
    assert rouge_n([], ["a"], 1) == rouge_l(["a"], ["b"]) == 0


def test_the_longest_common_sequence_is_the_longest():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = (rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(2))
        subsequences = [{tuple(x for x, keep in zip(t, bits, strict=True) if keep)
                         for bits in np.ndindex(*(2,) * len(t))} for t in (a, b)]  # fmt: skip
        assert longest_common(a, b) == max(map(len, subsequences[0] & subsequences[1]))


def rows(n: int = 40) -> list[dict]:
    rng = np.random.default_rng(1)
    return [
        {
            "reference": "a b c d",
            "output": "a b c d" if exact else "a b d c",
            "exact": bool(exact),
            "nll": float(rng.gamma(2)),
            "tokens": int(rng.integers(2, 9)),
            "words": 3.0,
        }
        for exact in rng.integers(0, 2, n)
    ]


def test_losses_are_weighed_by_tokens():
    two = [{**rows(1)[0], "nll": 2.0, "tokens": 2}, {**rows(1)[0], "nll": 1.0, "tokens": 8}]
    found = score_rows(two, ("loss", "perplexity", "word_perplexity"))
    assert found["loss"].value == pytest.approx(0.3)
    assert found["perplexity"].value == pytest.approx(exp(0.3))
    assert found["word_perplexity"].value == pytest.approx(exp(3 / 6))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_its_scores_with_intervals(task):
    found = {name: score.estimate(200) for name, score in score_rows(rows(), TASKS[task], "none").items()}
    assert tuple(found) == TASKS[task]
    for estimate in found.values():
        assert estimate.low <= estimate.value <= estimate.high


def test_the_interval_of_a_share_has_its_width():
    shares = mean_of([i % 2 for i in range(400)]).estimate()
    assert shares.value == 0.5
    assert shares.high - shares.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_differences_over_the_same_pairs():
    ours, theirs = text_measures(rows()), text_measures([{**row, "exact": False} for row in rows()])
    share = sum(row["exact"] for row in rows()) / 40
    assert difference(ours["exact"], theirs["exact"]).value == pytest.approx(share)
    assert difference(ours["loss"], theirs["loss"]).value == 0
    assert text_measures([{"nll": 1.0, "tokens": 2}]).keys() == {"loss"}


# ---- a model that has diverged ----


@pytest.mark.parametrize(("nll", "tokens"), [(5000.0, 5), (1e300, 1), (float("inf"), 2), (710.0, 1)])
def test_a_perplexity_beyond_floats_is_infinite_and_said_to_be(nll, tokens) -> None:
    rows = [{"nll": nll, "tokens": tokens, "words": tokens}, {"nll": nll, "tokens": tokens, "words": tokens}]
    found = {name: score.estimate() for name, score in score_rows(rows, ("loss", "perplexity")).items()}
    assert (found["perplexity"].value, found["perplexity"].high) == (inf, inf)
    assert "perplexity (the loss is " in beyond_floats(found) or nll == inf
    assert to_jsonable(vars(found["perplexity"])) == {"value": None, "low": None, "high": None}


def test_of_a_set_that_diverges_in_part_the_interval_is_open_above() -> None:
    rows = [{"nll": 1.0, "tokens": 1}] * 3 + [{"nll": 9000.0, "tokens": 1}]
    found = score_rows(rows, ("perplexity",))["perplexity"].estimate()
    assert (found.value, found.low, found.high) == (inf, pytest.approx(exp(1)), inf)
    assert "perplexity" in beyond_floats({"perplexity": found})


def test_nothing_is_said_of_finite_scores() -> None:
    rows = [{"nll": 709.0, "tokens": 1}]
    found = {name: score.estimate() for name, score in score_rows(rows, ("loss", "perplexity")).items()}
    assert found["perplexity"].value == exp(709.0)
    assert beyond_floats(found) is None
    nothing = score_rows([{"nll": float("nan"), "tokens": 1}], ("perplexity",))["perplexity"].estimate()
    assert isnan(nothing.value)
    assert "not a finite number" in beyond_floats({"perplexity": nothing})
