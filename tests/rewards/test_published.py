"""Every published reward against its formula, stated here a second time with regular expressions and sacreBLEU.

The statements follow the published code's reading of a text: a block runs from an opening tag to the next closing one.
polythink reads texts in which a block or path stands within another differently, and lets a tag end a word
(docs/reference/published.md); everything else is equal.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pyarrow.parquet
import pytest

from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.rewards.combine import PUBLISHED, Reward, build_reward
from polythink.rewards.terms import RewardInput, bleu, efficiency, self_bleu
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.validity import check

sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra `translation`")

TAG = re.compile(r"</?(?:Parallel|Path|Summary)>")
STEPS = (1, 8, 9, 10, 11, 50)
SCHEDULED = ("accuracy_add_efficiency_reward_decay", "accuracy_parallel_interv_reward")
VERDICTS = ((True, True), (False, True), (False, False))  # right, answered


# ---- the published table ----


def inside(kind: str, text: str) -> list[str]:
    return re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)


@cache
def similarity(text: str) -> float:
    """B: the mean over blocks of the mean sentence BLEU over pairs, the earlier path as hypothesis; 1 without pairs."""

    def of_block(paths: list[str]) -> float:
        scores = [sacrebleu.sentence_bleu(a, [b]).score / 100 for a, b in itertools.combinations(paths, 2)]
        return sum(scores) / len(scores) if scores else 1.0

    blocks = [of_block(inside("Path", block)) for block in inside("Parallel", text)]
    return sum(blocks) / len(blocks) if blocks else 1.0


def saving(text: str, gap: str = " ") -> float:
    """g: the share of words that are not traversed. The published code has `gap` empty, so that words grow together."""

    def words(part: str) -> int:
        return len(TAG.sub(gap, part).split())

    total = words(text)
    traversed = words(re.sub("<Parallel>.*?</Parallel>", gap, text, flags=re.DOTALL))
    for block in inside("Parallel", text):
        paths, summaries = inside("Path", block), inside("Summary", block)
        traversed += max(map(words, paths)) + words("".join(summaries[-1:])) if paths else words(block)
    return max(0.0, (total - traversed) / total) if total else 0.0


def well_formed(text: str) -> bool:
    """The published check, as a machine over the tags."""
    stack, counts, due, summaries = [], [], False, 0
    for tag in TAG.findall(text):
        name = tag.strip("</>")
        if tag == "<Summary>":
            if not due:
                return False
            due, summaries = False, summaries + 1
        elif tag in ("<Parallel>", "<Path>"):
            stack.append(name)
            if name == "Parallel":
                counts.append(0)
                due = False
        elif tag != "</Summary>":
            if not stack or stack.pop() != name:
                return False
            if name == "Parallel":
                if counts.pop() < 2:
                    return False
                due = True
            elif counts:
                counts[-1] += 1
    return not stack and not due and summaries == text.count("</Parallel>")


def formulas(text: str, c: bool, answered: bool) -> dict[str, Callable[[int], float]]:
    """Published key -> the reward at a step."""
    n, f, similar, saved = text.count("<Parallel>"), well_formed(text), similarity(text), saving(text)
    sign, good = 1 if c else -1, n > 0 and f

    def tiered(best: float, plain: float = 1, wrong: float = -1) -> float:
        return wrong if not c else plain if n == 0 else best if f else wrong

    def efficient(step: float) -> float:
        return sign + (0.4 if c else 0.1) * math.exp(-step / 50) * saved

    constant = {
        "accuracy_reward": sign,
        "accuracy_times_parallel_reward": 1 if c and good else -1,
        "format_times_accuracy_times_parallel_reward": 1 if c and good else -1,
        "emphase_acc": tiered(1),
        "emphase_parallel": tiered(1.2),
        "emphase_parallel_enhance": tiered(2),
        "emphase_parallel_add_diversity": tiered(1.2 - 0.2 * similar),
        "accuracy_add_parallel_reward": sign + 0.5 * good,
        "accuracy_parallel_reward": sign + math.sqrt(n),
        "accuracy_add_diversity_reward": sign - 0.3 * similar,
        "accuracy_add_parallel_add_diversity_reward": sign + (n > 0) - 0.3 * similar,
        "accuracy_add_efficiency_reward": efficient(0),
        "gsm8k_accuracy_reward": int(c),
        "gsm8k_accuracy_times_special_token_reward": int(c and good),
        "gsm8k_format_times_accuracy_times_parallel_reward": int(c and good),
        "gsm8k_accuracy_add_parallel_reward": (c + 0.5 * good) * answered,
        "gsm8k_emphase_acc": tiered(1, wrong=0),
        "gsm8k_emphase_parallel": tiered(1.2, wrong=0),
        "gsm8k_emphase_parallel_add_diversity": tiered(1.2 - 0.2 * similar, wrong=0),
    }
    stepped = {
        "accuracy_add_efficiency_reward_decay": efficient,
        "accuracy_parallel_interv_reward": lambda step: tiered(1.2) if (step - 1) % 10 >= 8 else sign,
    }
    return {key: lambda _, value=value: value for key, value in constant.items()} | stepped


# ---- texts ----


def nested(text: str) -> bool:
    """Whether a block or path stands in another one: the places where polythink reads more than the published code.

    So do summaries in a path of a block, or several in one block, where the published code counts words twice or not.
    """

    def nests(kind: str, part: str) -> bool:
        depths = list(itertools.accumulate(1 if t[1] != "/" else -1 for t in TAG.findall(part) if kind in t))
        return bool(depths) and min(depths) >= 0 == depths[-1] and max(depths) > 1

    blocks = inside("Parallel", text)
    summaries = any(len(inside("Summary", b)) > 1 or "Summary" in "".join(inside("Path", b)) for b in blocks)
    return summaries or nests("Parallel", text) or any(nests("Path", block) for block in blocks)


def real_traces(shared_data) -> list[str]:
    table = pyarrow.parquet.read_table(shared_data / "parallel_gsm8k.parquet")
    return table["trace"].to_pylist() + table["trace_compact"].to_pylist()


def mutate(text: str, rng: random.Random) -> str:
    """A tag dropped, doubled or moved; two tags swapped; a text cut; a path emptied; words put before a tag."""
    tags = list(TAG.finditer(text))
    kind = rng.choice(("drop", "double", "move", "swap", "cut", "empty", "words"))
    if kind == "cut" or len(tags) < 2:
        return text[: rng.randrange(1, len(text))]
    first, second = sorted(rng.sample(tags, 2), key=re.Match.start)
    before, between, after = text[: first.start()], text[first.end() : second.start()], text[second.end() :]
    if kind == "swap":
        return before + second[0] + between + first[0] + after
    if kind == "empty":
        return before + first[0] + " " + second[0] + after
    if kind == "words":
        return before + " so &amp; so, 3..2 " + text[first.start() :]
    if kind == "move":
        return before + between + first[0] + text[second.start() :]
    return before + first[0] * (2 if kind == "double" else 0) + text[first.end() :]


def rollout(text: str) -> Rollout:
    return Rollout("p", 0, "structured", (0,), [Segment("main", -1, 0, [1], [True], [-0.5], text=text)])


def given(text: str) -> RewardInput:
    return RewardInput(rollout(text), right=True, rule="reference")


def check_all(texts: Iterable[str], rewards: dict[str, Reward]) -> int:
    compared = 0
    for text in texts:
        if nested(text):
            continue
        compared += 1
        one = rollout(text)
        for right, answered in VERDICTS:
            expected = formulas(text, right, answered)
            for key, reward in rewards.items():
                for step in STEPS if key in SCHEDULED else STEPS[-1:]:
                    found = reward(one, right, step, answered=answered)
                    assert abs(found - expected[key](step)) < 1e-9, (key, step, right, answered, text)
    return compared


@pytest.fixture(scope="module")
def rewards() -> dict[str, Reward]:
    return {key: build_reward(key) for key in PUBLISHED}


# ---- tests ----


def test_there_is_a_formula_for_every_published_key(rewards):
    assert formulas("", True, True).keys() == rewards.keys()
    assert len(rewards) == 14 + 7
    assert {key for key, reward in rewards.items() if reward.config.cycle or "decay" in key} == set(SCHEDULED)


def test_the_page_of_published_rewards_names_every_key():
    page = Path(__file__).parents[2] / "docs" / "reference" / "published.md"
    assert dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page.read_text(), re.MULTILINE)) == PUBLISHED


@pytest.mark.slow
def test_every_reward_is_its_formula_on_the_real_traces(shared_data, rewards):
    texts = real_traces(shared_data)[::4]
    assert check_all(texts, rewards) == len(texts)


@pytest.mark.slow
def test_every_reward_is_its_formula_on_mutated_traces(shared_data, rewards):
    rng = random.Random(7)
    texts = [mutate(text, rng) for text in real_traces(shared_data)[::2]]
    texts[::2] = [mutate(text, rng) for text in texts[::2]]
    assert check_all(texts, rewards) > 0.95 * len(texts)
    assert {well_formed(text) for text in texts} == {True, False}


def test_the_two_terms_are_theirs_on_every_short_text():
    pieces = ("<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>", " a b ", " a c d ")
    compared = 0
    for length in range(1, 6):
        for parts in itertools.product(pieces, repeat=length):
            text = "".join(parts)
            if length < 5 or text.startswith("<Parallel>"):
                compared += not nested(text)
                assert nested(text) or efficiency(given(text)) == pytest.approx(saving(text), abs=1e-12), text
                assert nested(text) or self_bleu(given(text)) == pytest.approx(similarity(text), abs=1e-12), text
    assert compared > 8500


@pytest.mark.slow
def test_with_spaces_around_the_tags_words_are_counted_as_published(shared_data):
    """What remains between the two readings of g is that a removed tag joins the words on its sides there."""
    joined = 0
    for text in real_traces(shared_data):
        spaced = TAG.sub(lambda tag: f" {tag[0]} ", text)
        assert efficiency(given(text)) == pytest.approx(saving(spaced, gap=""), abs=1e-12)
        joined += abs(efficiency(given(text)) - saving(text, gap="")) > 1e-12
    assert joined > 50


def test_a_nested_block_and_a_path_within_a_path_are_read_as_what_they_are():
    """The published code ends the outer block at the inner one's end, and a path at the end of the one in it."""
    block = "<Parallel><Path>a {}</Path><Path>d</Path></Parallel>\n<Summary>s</Summary>"
    within = block.format(block.format("b")).replace("d", "d d", 1)  # of a (a b | d d) s | d: the last d is saved
    assert efficiency(given(within)) == pytest.approx(1 / 8) != pytest.approx(saving(within))
    path = block.format("<Path>b c</Path> e")
    assert efficiency(given(path)) == pytest.approx(1 / 6) != pytest.approx(saving(path))


ALPHABET = ["<skipped>", "&amp;", "&lt;", "42", "..", *"aB7é \n.,-&($'_"]


def test_bleu_is_sacrebleus_on_any_text():
    rng = random.Random(3)
    pairs = [("3 ..2 x", "3 . .2 x"), ("a &lt; b", "a < b"), ("1,.5", "1 ,.5"), ("&amp;lt;", "<"), ("x", "")]
    for _ in range(1500):
        one = "".join(rng.choices(ALPHABET, k=rng.randrange(1, 14)))
        other = "".join(rng.choices(ALPHABET, k=rng.randrange(14))) if rng.random() < 0.5 else one[rng.randrange(3) :]
        pairs.append((one, other))
    for one, other in pairs:
        theirs = sacrebleu.sentence_bleu(one, [other]).score / 100
        assert bleu(one, other) == pytest.approx(theirs, abs=1e-12), (one, other)


OPEN = "<Parallel><Path>a b</Path><Path>a c</Path></Parallel>\n<Summary>s\nFinal Answer: 18"


@pytest.mark.parametrize(
    ("answers", "text", "paid"),
    [
        ("strict", OPEN, -1),
        ("strict", OPEN.replace("\nFinal", "</Summary>\nFinal"), 1.2),
        ("published", OPEN, 1.2),
        ("published_gsm8k", OPEN, 1.2),
    ],
)
def test_an_open_summary_is_well_formed_but_hides_the_answer(answers, text, paid):
    """The published check of form lets it pass; an answer in it counts under the published checks of answers alone."""
    assert check(text, "reference").valid
    assert well_formed(text)
    with Grader(answers=answers) as grader:
        verdict = grader.grade(text, Problem("p", "9 + 9?", "18")).verdict
    assert build_reward("emphase_parallel")(rollout(text), verdict == "right", 1) == paid
