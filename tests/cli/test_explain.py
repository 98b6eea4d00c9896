"""`polythink explain` and `polythink recipes`: what a user looks up."""

from __future__ import annotations

import pytest

from polythink.cli.explain import entries, find
from polythink.cli.recipes import about, packaged
from polythink.cli.topics import TOPICS, key_topics
from polythink.run.config import RECIPES
from polythink.trace.modes import MODES


@pytest.fixture(scope="module")
def topics():
    return [topic for make in TOPICS.values() for topic in make()]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "rl.lr",
            "stages.NAME.lr: key of a recipe, kind sft, grpo\n    Peak learning rate.\n    number above 0; default",
        ),
        ("decoding.paths", "decoding.paths: key of a recipe\n"),
        ("grpo", "grpo: stage\n"),
        ("tiered", "tiered: reward\n    1.2 where right, parallel, well_formed; else 1 where right, no_block; else -1"),
        ("emphase_parallel", "Published name of the reward tiered."),
        ("self_bleu", "self_bleu: reward term\n"),
        ("well_formed", "well_formed: reward condition\n"),
        ("mean@8", "mean@k: metric\n"),
        ("parallel_r1", "<Parallel><Path>..</Path><Path>..</Path></Parallel><Summary>..</Summary>"),
        ("parathinker", "path numbers 1 to 16"),
        ("gsm8k", "gsm8k: problem set\n"),
        ("math300", "on no hub: some problems of MATH's test set, all with integer answers"),
        ("sequential", "sequential: prompt\n"),
        ("countdown-smoke", "countdown-smoke: recipe\n"),
        ("arms", "arms: key of an experiment"),
    ],
)
def test_a_name_is_explained_from_its_definition(topics, name: str, said: str) -> None:
    assert said in "\n\n".join(entries(find(name, topics)))


def test_a_dotted_key_is_looked_for_in_its_place(topics) -> None:
    assert [topic.name for topic in find("decoding.paths", topics)] == ["decoding.paths"]
    assert {topic.name for topic in find("paths", topics)} > {"decoding.paths", "stages.NAME.teacher.paths"}


def test_an_unknown_name_gets_the_nearest(polythink) -> None:
    status, out, err = polythink("explain", "temprature")
    assert (status, out, err) == (2, "", "polythink: nothing is named 'temprature'; did you mean 'temperature'?\n")
    assert polythink("explain", "num_generations")[2].endswith("; did you mean 'group_size'?\n")
    assert polythink("explain", "qqqq")[2].endswith("`polythink explain` lists everything that can be explained\n")


def test_without_a_name_everything_is_listed(polythink) -> None:
    status, out, _ = polythink("explain")
    assert status == 0
    for text in ("stages:", "rewards:", "metrics:", "mean@k", "tiered", "parathinker", "gsm8k", "max_path_tokens"):
        assert text in out


def test_every_key_has_a_description() -> None:
    assert {topic.name for topic in key_topics() if topic.text == "(no description)"} == set()


def test_recipes_are_listed_with_their_first_sentence_and_printed_with_their_comments(polythink) -> None:
    status, out, _ = polythink("recipes")
    lines = out.splitlines()
    assert (status, len(lines)) == (0, len(list(RECIPES.glob("*.yaml"))))
    assert any(line.startswith("countdown-smoke ") and "Every stage of the curriculum once" in line for line in lines)
    assert any(line.startswith("countdown-experiment ") and " experiment: " in line for line in lines)
    assert all(found.sentence for found in packaged().values())
    assert polythink("recipes", "countdown-smoke")[1] == (RECIPES / "countdown-smoke.yaml").read_text(encoding="utf-8")


def test_the_first_sentence_ends_at_a_point_before_a_capital_letter() -> None:
    assert about("# From e.g. arXiv 1.2, in two\n# lines. More.\n#\n#     code\nname: x").sentence == (
        "From e.g. arXiv 1.2, in two lines."
    )


def test_the_name_of_a_list_explains_all_that_is_in_it() -> None:
    shown = "\n".join(entries(list(TOPICS["modes"]())))
    for name, mode in MODES.items():
        assert f"{name}: mode\n    {mode.about}" in shown
        assert f"in the layout of {mode.trained.name}: not exact" in shown or mode.exact
    assert shown.count("trained: as drawn") == sum(mode.exact for mode in MODES.values())
    multiverse = "<Parallel><Goal>..<Outline>..</Outline><Outline>..</Outline></Goal><Path>..</Path><Path>..</Path>"
    assert multiverse in "\n".join(entries(list(TOPICS["dialects"]())))


def test_lora_says_that_the_learning_rate_is_set_apart(polythink) -> None:
    assert "lr stays as it is: TRL's defaults for RL go with 5e-5" in " ".join(polythink("explain", "lora")[1].split())
