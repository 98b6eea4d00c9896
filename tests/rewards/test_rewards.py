"""The whole table of published rewards, GSM8K's included, over a schedule; forms, mistakes and terms of one's own."""

from __future__ import annotations

import math

import pytest

from polythink.errors import UserError
from polythink.rewards.combine import PRESETS, PUBLISHED, RewardConfig, build_reward
from polythink.run.config import digest
from polythink.trace.rollout import Rollout, Segment

# Self-BLEU B of the paths `a b` and `a c`: unigrams 1/2, bigrams 0/1 smoothed to 1/2, so sqrt(1/2 * 1/2) = 1/2.
BLOCK = "<Parallel><Path>a b</Path><Path>a c</Path></Parallel>\n<Summary>s</Summary>"
LOOSE = BLOCK.replace("</Path><Path>", "</Path> so <Path>")  # valid under `reference`, not under `strict`
SINGLE = "<Parallel><Path>a b</Path></Parallel>\n<Summary>s</Summary>"  # valid under neither
END = " Final Answer: 7"  # 3 words

# kind of trace: text, right, answered | N blocks, f valid, B, g = saved words / all words
KINDS = {
    "plain right": (END, True, True),  # 0, yes, 1.0, 0
    "plain wrong": (END, False, True),
    "block right": (BLOCK + END, True, True),  # 1, yes, 0.5, 2/8
    "block wrong": (BLOCK + END, False, True),
    "block unanswered": (BLOCK, False, False),  # 1, yes, 0.5, 2/5
    "two blocks right": (BLOCK + BLOCK + END, True, True),  # 2, yes, 0.5, 4/13
    "loose right": (LOOSE + END, True, True),  # 1, yes, 0.5, 3/9
    "malformed right": (SINGLE + END, True, True),  # 1, no, 1.0, 0
    "malformed wrong": (SINGLE + END, False, True),
    "stray tag right": ("</Path>" + END, True, True),  # 0, no, 1.0, 0
}
R2 = math.sqrt(2)
ACCURACY = [1, -1, 1, -1, -1, 1, 1, 1, -1, 1]
TIERED = [1, -1, 1.2, -1, -1, 1.2, 1.2, -1, -1, 1]
PARALLEL = [-1, -1, 1, -1, -1, 1, 1, -1, -1, -1]
WELL_FORMED = [1, -1, 1, -1, -1, 1, 1, -1, -1, 1]
SAVED = [0, 0, 0.4 * 2 / 8, 0.1 * 2 / 8, 0.1 * 2 / 5, 0.4 * 4 / 13, 0.4 * 3 / 9, 0, 0, 0]

# published key -> reward of each kind, in the order of KINDS; a function of the step where it depends on it
TABLE = {
    "accuracy_reward": ACCURACY,
    "accuracy_times_parallel_reward": PARALLEL,
    "format_times_accuracy_times_parallel_reward": PARALLEL,
    "emphase_acc": WELL_FORMED,
    "emphase_parallel": TIERED,
    "emphase_parallel_enhance": [1, -1, 2, -1, -1, 2, 2, -1, -1, 1],
    "emphase_parallel_add_diversity": [1, -1, 1.1, -1, -1, 1.1, 1.1, -1, -1, 1],
    "accuracy_parallel_interv_reward": lambda step: TIERED if step in (9, 10, 19, 20) else ACCURACY,
    "accuracy_add_parallel_reward": [1, -1, 1.5, -0.5, -0.5, 1.5, 1.5, 1, -1, 1],
    "accuracy_parallel_reward": [1, -1, 2, 0, 0, 1 + R2, 2, 2, 0, 1],
    "accuracy_add_diversity_reward": [0.7, -1.3, 0.85, -1.15, -1.15, 0.85, 0.85, 0.7, -1.3, 0.7],
    "accuracy_add_parallel_add_diversity_reward": [0.7, -1.3, 1.85, -0.15, -0.15, 1.85, 1.85, 1.7, -0.3, 0.7],
    "accuracy_add_efficiency_reward": [a + s for a, s in zip(ACCURACY, SAVED, strict=True)],
    "accuracy_add_efficiency_reward_decay": lambda step: [
        a + s * math.exp(-step / 50) for a, s in zip(ACCURACY, SAVED, strict=True)
    ],
    "gsm8k_accuracy_reward": [1, 0, 1, 0, 0, 1, 1, 1, 0, 1],
    "gsm8k_accuracy_times_special_token_reward": [0, 0, 1, 0, 0, 1, 1, 0, 0, 0],
    "gsm8k_format_times_accuracy_times_parallel_reward": [0, 0, 1, 0, 0, 1, 1, 0, 0, 0],
    "gsm8k_accuracy_add_parallel_reward": [1, 0, 1.5, 0.5, 0, 1.5, 1.5, 1, 0, 1],
    "gsm8k_emphase_acc": [1, 0, 1, 0, 0, 1, 1, 0, 0, 1],
    "gsm8k_emphase_parallel": [1, 0, 1.2, 0, 0, 1.2, 1.2, 0, 0, 1],
    "gsm8k_emphase_parallel_add_diversity": [1, 0, 1.1, 0, 0, 1.1, 1.1, 0, 0, 1],
}


# presets from elsewhere -> reward of each kind; the rollouts of this table are one segment, so no step is saved
DISTINCT = [1, -1, 1.3, -1, -1, 1.3, 1.3, -1, -1, 1]  # 1.2 + 0.1: `a b` and `a c` are not the same first words
SHUFFLED = {step for step in range(1, 21) if build_reward("alternating_shuffled").active(step) == "tiered"}
OTHERS = {
    "p_grpo": TABLE["gsm8k_accuracy_reward"],
    "accuracy_times_saved": TABLE["gsm8k_accuracy_reward"],
    "tiered_distinct": DISTINCT,
    "alternating_distinct": lambda step: DISTINCT if step in (9, 10, 19, 20) else ACCURACY,
    "alternating_shuffled": lambda step: TIERED if step in SHUFFLED else ACCURACY,
}


def rollout(text: str) -> Rollout:
    return Rollout("p", 0, "structured", (0,), [Segment("main", -1, 0, [1], [True], [-0.5], text=text)])


def value(reward, kind: str, step: int = 1) -> float:
    text, right, answered = KINDS[kind]
    return reward(rollout(text), right, step, answered=answered)


def test_the_table_holds_every_published_key():
    assert TABLE.keys() == PUBLISHED.keys()
    assert set(PUBLISHED.values()) == PRESETS.keys() - {"scaffold", *OTHERS}


@pytest.mark.parametrize("key", [*TABLE, *OTHERS])
def test_table(key):
    reward, rows = build_reward(key), (TABLE | OTHERS)[key]
    assert reward == build_reward(PUBLISHED.get(key, key))
    for step in range(1, 21):
        row = rows(step) if callable(rows) else rows
        got = [value(reward, kind, step) for kind in KINDS]
        assert got == pytest.approx(row, abs=1e-12), step


def test_a_shuffled_cycle_has_as_many_steps_of_each_at_other_places():
    def bonus(reward, turns=60):
        return [[s for s in range(10) if reward.active(10 * t + s + 1) == "tiered"] for t in range(turns)]

    turns = bonus(build_reward("alternating_shuffled"))
    assert all(len(places) == 2 for places in turns)
    assert len({tuple(places) for places in turns}) > 15, "of 45 pairs of places"
    assert turns == bonus(build_reward("alternating_shuffled")), "the same in every process"
    assert turns != bonus(build_reward({"preset": "alternating", "shuffle": 1}))


# two paths of 6 and 2 tokens after 2 of main text, before 2 of summary: 12 tokens in 10 steps
FORKED = Rollout("p", 0, "reread", (0,), [
    Segment(kind, block, path, list(range(n)), [True] * n, [-0.5] * n, text=text)
    for kind, block, path, n, text in (
        ("main", -1, 0, 2, "<Parallel>"), ("path", 0, 1, 6, "<Path>a b c d e</Path>"),
        ("path", 0, 2, 2, "<Path>a b c d f</Path>"), ("copy", 0, 0, 8, ""),
        ("summary", 0, 0, 2, "</Parallel>\n<Summary>s</Summary>"),
    )
])  # fmt: skip


@pytest.mark.parametrize(
    ("given", "right", "value"),
    [
        ("p_grpo", True, 1 + 0.5 * 0.2),  # 12 / 10 - 1 = 0.2
        ("p_grpo", False, 0),
        ({"preset": "p_grpo", "add": [{"term": "acceleration", "weight": 0.5, "most": 0.1}]}, True, 1 + 0.5 * 0.1),
        ("accuracy_times_saved", True, 2 - 10 / 12),
        ("accuracy_times_saved", False, 0),
        ("tiered_distinct", True, 1.2),  # the first four words are the same
        ({"add": [{"term": "tokens", "between": [10, 20], "weight": -1}]}, True, -1.0),  # 20 with the copy
        ({"add": [{"term": "critical_path", "between": [4, 20], "weight": -1}]}, True, -6 / 16),
        ({"add": [{"term": "critical_path", "between": [10, 20], "weight": -1}]}, True, 0),
    ],
)
def test_terms_of_a_forked_rollout_by_hand(given, right, value):
    assert build_reward(given)(FORKED, right, 1) == pytest.approx(value)


def test_overlong_responses_are_punished_as_in_dapo():
    """Eq. 13 with L_max 20,480 and a cache of 4,096: 0, then linear, then -1."""
    reward = build_reward({"add": [{"term": "tokens", "between": [16_384, 20_480], "weight": -1}]})

    def long(n: int) -> Rollout:
        return Rollout("p", 0, "sequential", (0,), [Segment("main", -1, 0, [1] * n, [True] * n, [0.0] * n)])

    found = [reward(long(n), True, 1) for n in (100, 16_384, 17_408, 20_480, 30_000)]
    assert found == [0, 0, -0.25, -1, -1]


def test_active_names_the_reward_of_the_step():
    reward = build_reward("alternating")
    assert [reward.active(step) for step in range(1, 21)] == (["accuracy"] * 8 + ["tiered"] * 2) * 2


def test_switch_keeps_its_last_phase_and_steps_do_not_start_afresh():
    reward = build_reward({"switch": [{"steps": 9, "reward": "alternating"}, {"reward": "parallel"}]})
    assert [reward.active(step) for step in (8, 9, 10, 11, 500)] == ["accuracy", "tiered"] + ["parallel"] * 3
    inner = {"cycle": [{"steps": 2, "reward": "accuracy"}, {"steps": 1, "reward": "tiered"}]}
    late = build_reward({"switch": [{"steps": 4, "reward": "parallel"}, {"reward": inner}]})
    assert [late.active(step) for step in range(4, 8)] == ["parallel", "accuracy", "tiered", "accuracy"]
    scaffold = build_reward("scaffold")
    assert [scaffold.active(step) for step in (199, 200, 201, 209)] == ["tiered", "tiered", "accuracy", "accuracy"]


def test_cases_are_tried_in_order_and_terms_are_added():
    reward = build_reward(
        {
            "cases": [{"when": ["parallel"], "value": 3}, {"when": ["right", "parallel"], "value": 99}],
            "otherwise": -2,
            "add": [{"term": "blocks", "weight": 0.25}, {"weight": 0.5, "when": ["right"], "decay": 10}],
        }
    )
    bonus = 0.5 * math.exp(-0.3)
    assert value(reward, "two blocks right", step=3) == pytest.approx(3 + 0.5 + bonus)
    assert value(reward, "block wrong") == 3.25
    assert value(reward, "plain wrong") == -2
    text, right, _ = KINDS["two blocks right"]
    assert reward.terms(rollout(text), right, 3) == pytest.approx({"case": 3, "blocks": 0.5, "one": bonus})
    assert reward.active(1) == "custom"


def test_the_outermost_rule_holds_and_one_of_ones_own_is_strict():
    assert value(build_reward("tiered"), "loose right") == 1.2
    assert value(build_reward({"preset": "tiered", "rule": "strict"}), "loose right") == -1
    assert value(build_reward({"preset": "alternating", "rule": "strict"}), "loose right", step=9) == -1
    strict = {"preset": "alternating", "rule": "strict"}
    nested = {"switch": [{"steps": 30, "reward": strict}, {"reward": "tiered"}]}
    assert value(build_reward(nested), "loose right", step=9) == -1
    assert value(build_reward(nested), "loose right", step=31) == 1.2
    assert value(build_reward({**nested, "rule": "reference"}), "loose right", step=9) == 1.2
    cases = {"cases": [{"when": ["well_formed"], "value": 1}]}
    assert value(build_reward(cases), "loose right") == 0
    assert value(build_reward(cases), "block right") == 1
    assert value(build_reward({**cases, "rule": "reference"}), "loose right") == 1
    assert value(build_reward({**cases, "rule": "stack"}), "malformed right") == 1


@pytest.mark.parametrize("name", [*PRESETS, *PUBLISHED])
def test_a_resolved_reward_reads_back_as_itself(name):
    config = RewardConfig.model_validate(name)
    assert RewardConfig.model_validate(config.model_dump(mode="json")) == config
    assert RewardConfig.model_validate(config.model_dump(mode="json", exclude_defaults=True)) == config
    assert len(digest(config)) == 64


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("accurcy", "did you mean 'accuracy'"),
        ({"preset": "tierd"}, "did you mean 'tiered'"),
        ({"cases": [{"when": ["rigth"], "value": 1}]}, "reward: cases.0.when.0 must be 'right', 'wrong'"),
        ({"cases": [{"when": ["right"]}]}, "cases.0.value is missing"),
        (
            {"add": [{"term": "self_blue", "weight": 1}]},
            "add.0.term: no term 'self_blue'; did you mean 'self_bleu'",
        ),
        ({"add": [{"weight": 1, "decay": 0}]}, "add.0.decay must be greater than 0, got 0"),
        ({"cycle": [{"reward": "accuracy"}]}, "must say for how many steps"),
        ({"cycle": [{"steps": 0, "reward": "accuracy"}]}, "cycle.0.steps must be greater than 0"),
        ({"switch": [{"steps": 3, "reward": "accuracy"}]}, "stays for good"),
        ({"cycle": [{"steps": 1, "reward": "accuracy"}], "add": [{"weight": 1}]}, "a reward is one of"),
        ({}, "a reward is one of"),
        ({"preset": "accuracy", "shuffle": 1}, "this reward has no cycle"),
        ({"add": [{"term": "tokens", "between": [5, 5], "weight": 1}]}, "between takes two rising numbers"),
        ({"add": [{"term": "tokens", "between": [1, 5], "most": 3, "weight": 1}]}, "and no `most` beside them"),
        ({"rule": "lenient", "add": [{"weight": 1}]}, "rule must be 'strict', 'stack' or 'reference'"),
        ({"cycle": [{"steps": 2, "reward": {"otherwize": 1}}]}, "unknown key cycle.0.reward.otherwize"),
        (5, "must be a mapping"),
    ],
)
def test_a_mistake_gives_one_sentence(data, said):
    with pytest.raises(UserError, match=said) as error:
        build_reward(data)
    assert "\n" not in str(error.value)
