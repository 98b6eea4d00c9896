"""docs/extending.md: every file that it shows works as it stands there, and it names every key of a dialect."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from polythink.engine.controllers import CONTROLLERS, Probe, ProbedPath
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.policies import answer_of
from polythink.engine.width import WIDTHS, ForkState
from polythink.models.build import ModelConfig, from_config
from polythink.pipeline.recipe import load_recipe
from polythink.problems.tasks.table import get_task
from polythink.rewards.combine import RewardConfig
from polythink.rewards.functions import call
from polythink.rewards.terms import RewardInput
from polythink.run.config import parse_config
from polythink.trace.dialect import get_dialect
from polythink.trace.dialect_file import ELEMENTS, KEYS
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.validity import check

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:yaml|python)\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
MODULES = [name.removesuffix(".py") for name in FILES if name.endswith(".py")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with the files of the page, in which a command runs."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield tmp_path
    for module in MODULES:
        sys.modules.pop(module, None)


def params(**more) -> SamplingParams:
    own = {"controller": "stopping:two_agree", "path_answer": "answering:before_ok", "probe_every": 2} | more
    budgets = {"max_path_tokens": 8, "max_main_tokens": 4, "max_summary_tokens": 4, "max_trace_tokens": 80}
    return SamplingParams(**budgets, paths=4, fork_at=0, max_blocks=1, **own)


def test_the_page_shows_all_files() -> None:
    assert FILES.keys() == {"own.yaml", "mine.yaml", "answering.py", "stopping.py", "widening.py", "rewarding.py"}
    assert PAGE.count("```") == 2 * (len(FILES) + 1), "and one trace: no example that is not tested"


def test_the_recipe_that_uses_them_all_is_accepted(folder: Path) -> None:
    recipe = load_recipe("own.yaml")
    named = {*map(str, recipe.decoding.values()), recipe.stages["rl_easy"].reward.function}
    assert set(MODULES) <= {name.partition(":")[0] for name in named}


def test_the_dialect_reads_and_writes_the_trace_that_is_shown(folder: Path) -> None:
    dialect = get_dialect("mine.yaml")
    (text,) = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)
    assert check(text, "strict", dialect).valid
    assert [len(block.paths) for block in parse(text, dialect).blocks] == [2]
    assert render(parse(text, dialect), dialect) == text


def test_the_page_has_every_key_of_a_dialect() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE)
    of = {name: {key for key, owner in rows if owner in (f"`{name}`", "every element")} for name in ELEMENTS}
    assert of == {name: set(keys) for name, (_, keys) in ELEMENTS.items()}
    assert {key for key, owner in rows if owner == "the dialect"} == set(KEYS)
    assert {key for key, owner in rows if owner == "an element"} == set(ELEMENTS)


def test_what_the_functions_decide(folder: Path) -> None:
    answer = lambda text: answer_of("answering:before_ok", text)  # noqa: E731
    assert (answer("<Path> 9 + 8 = 17 no 3 + 4 = 7 ok"), answer("9 no")) == ("7", "")

    def paths(*answers: str) -> Probe:
        return Probe((), tuple(ProbedPath((1,), (text,), 5, 5, "") for text in answers), 0, 2, str)

    stop = CONTROLLERS.function("stopping:two_agree")
    assert stop(paths("7", "", "7")).stop == dict.fromkeys(range(3), "agreed")
    assert not stop(paths("7", "", "8")).stop
    width = WIDTHS.function("widening:until_one_is_ok")

    def wanted(*drawn: str) -> int:
        decode = lambda tokens: drawn[tokens[0]]  # noqa: E731
        return width(ForkState((), (), tuple((i,) for i in range(len(drawn))), 0, 0, 3, 9, decode, answer))

    assert [wanted(), wanted("no", "no"), wanted("no", "7 ok"), wanted("no", "no", "no")] == [2, 3, 2, 3]


@pytest.mark.parametrize("dialect", ["parallel_r1", "mine.yaml"])
def test_the_functions_work_while_a_model_draws(folder: Path, dialect: str) -> None:
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "tokenizer": "countdown"}
    lm = from_config(ModelConfig(**shape), dialect, get_task("countdown").words, seed=1)
    prompt = tuple(lm.encode_prompt("9 8 5 -> 12 together :"))
    asked = [Request(prompt, sample=i) for i in range(8)]
    stopped = Engine(lm).generate(asked, params(path_answer="last"), seed=0)
    assert any(segment.finish_reason == "agreed" for rollout in stopped for segment in rollout.segments)
    widened = Engine(lm).generate(asked, params(width="widening:until_one_is_ok"), seed=0)
    assert {sum(s.kind == "path" for s in rollout.segments) for rollout in widened} <= {2, 3, 4}
    cut = next(r for r in widened if any(s.kind == "path" and s.finish_reason == "length" for s in r.segments))
    given = RewardInput(cut, right=True, dialect=get_dialect(dialect))
    reward = parse_config(RewardConfig, "rewarding:right_and_whole", "reward")
    assert call(reward.function, given) < 1
