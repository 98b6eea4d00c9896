"""A cold start whose teacher is a server of ours on this machine: real processes, real HTTP."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from helpers.scribe import scribe
from helpers.served import served
from polythink.models.lm import LanguageModel, with_settings
from polythink.models.tokenizers import END
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.run.jsonl import read_jsonl
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint, EndpointConfig
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.parse import parse

PROBLEMS = tuple(Problem(" ".join(words), " ".join(words), "1", source="words") for words in product("abc", repeat=2))
NEXT = {  # what the teacher writes after each word or tag, each as likely: never right, and well formed
    "a": ("<Parallel>",), "b": ("<Parallel>",), "c": ("<Parallel>",), "<Path>": ("1:", "2:"),
    "1:": ("3:", "</Path>"), "2:": ("3:", "</Path>"), "3:": ("</Path>",), "<Summary>": ("4:", "5:"),
    "4:": ("</Summary>",), "5:": ("</Summary>",), "</Summary>": ("6:", "7:"), "6:": ("7:", END), "7:": (END,),
}  # fmt: skip


def grammar(lm: LanguageModel, vocabulary: int) -> torch.Tensor:
    table = torch.full((vocabulary, vocabulary), -8.0)
    for word, after in NEXT.items():
        for text in after:
            table[lm.tokenizer.convert_tokens_to_ids([word]), lm.tokenizer.convert_tokens_to_ids(text)] = 5.0
    return table


def thinker() -> LanguageModel:
    lm = scribe("parallel_r1", table=grammar)
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    budgets = {"paths": 2, "max_main_tokens": 20, "max_path_tokens": 10, "max_summary_tokens": 8}
    return with_settings(lm, decoding=budgets | {"max_trace_tokens": 100}, chat=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, served(thinker, tmp_path_factory.mktemp("served")) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield f"{server.url}/v1"


def cold_start(url: str, out, **extra) -> list[dict]:
    """The rows that a random model's traces make: it is never right, so what is well formed is kept."""
    config = EndpointConfig(url=url, model="tiny", max_tokens=100, extra={"seed": 1, **extra})
    with Endpoint(config) as teacher:
        run_coldstart(PROBLEMS, teacher, get_prompt("none"), "strict", out, right_only=False, concurrency=4,
                      about_teacher=teacher.about)  # fmt: skip
    return read_jsonl(out / "all.jsonl")


def test_the_traces_of_a_model_that_thinks_in_parallel_come_with_their_tags(url, tmp_path):
    cold_start(url, tmp_path, return_events=True)
    kept = read_jsonl(tmp_path / "kept.jsonl")
    assert len(kept) > len(PROBLEMS) / 2
    blocks = [parse(row["trace"], PARALLEL_R1).blocks for row in kept]
    assert all(len(found) == 1 and len(found[0].paths) == 2 for found in blocks)
    assert len({row["trace"] for row in kept}) > 1


def test_without_events_a_server_shows_no_tags(url, tmp_path):
    rows = cold_start(url, tmp_path)
    assert {row["trace"] for row in rows} <= {"6: 7:", "7:", "6:"}, "the text after the last block"
