"""What stops or deepens paths while they run: by hand, and in the engine against its slow twin."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from pydantic import ValidationError

from helpers.states import END, A, B, C, Fed
from helpers.tiny import drawn, gaps, lean_towards, requests, thinker, tiny
from polythink.engine.controllers import CONTROLLERS, REASONS, Decision, Probe, ProbedPath, decided
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.policies import answer_of, last_answer
from polythink.engine.reference import reference_generate
from polythink.engine.structured import StructuredState
from polythink.errors import UserError
from polythink.trace.rollout import STOPPED
from polythink.trace.statistics import rollout_statistics

BUDGETS = {
    "paths": 3, "max_blocks": 1, "fork_at": 0,
    "max_main_tokens": 3, "max_path_tokens": 6, "max_summary_tokens": 2, "max_trace_tokens": 60,
}  # fmt: skip


def longest_lead(probe: Probe) -> Decision:
    """One of one's own: with the third token all but the path of most tokens are stopped, and that one is deepened."""
    if len(probe.paths[0].answers) != 3 or len(probe.running) < 2:
        return Decision()
    lead = max(probe.running, key=lambda i: (len(set(probe.paths[i].tokens)), -i))
    stop = {i: REASONS[i % 2] for i in probe.running if i != lead}
    spare = probe.spare + sum(probe.paths[i].left for i in stop)
    return Decision(stop, {lead: min(spare, probe.paths[lead].room)})


def no_decision(probe: Probe):
    return {0: "pruned"}


def too_much(probe: Probe) -> Decision:
    return Decision(give={1: 100})


def by_mood(probe: Probe) -> Decision:
    return Decision(stop={0: "bored"})


def twice(probe: Probe) -> Decision:
    return Decision(stop={0: "agreed"}, give={0: 0})


def any_word(text: str) -> str | None:
    return "some" if re.search(r"\b[abc]\b", text) else None


def fed(**params) -> Fed:
    return Fed(StructuredState, **{"probe_every": 1, "paths": 3, **params})


def paths_of(it: Fed) -> list[str]:
    return [line.removeprefix("path: [<Path>] ") for line in it.segments if line.startswith("path")]


# --- by hand


def test_paths_that_cannot_outvote_the_others_are_stopped():
    it = fed(controller="majority").feed("<Parallel>", (A, A, B), ("</Path>", "</Path>", C))
    assert paths_of(it) == ["a </Path> (tag)", "a </Path> (tag)", "b c [</Path>] (agreed)"]
    assert it.kinds == ["fork"] * 3 + ["cut", "join"]
    it = fed(controller="majority").feed("<Parallel>", (A, B, B), ("</Path>", "</Path>", C))
    assert [len(it.inputs.wanted)] == [1]


def test_agreement_has_to_last_as_many_probes_as_patience_asks_for():
    it = fed(controller="agreement", probe_patience=2).feed("<Parallel>", (A, A, B), (B, A, A))
    assert paths_of(it) == ["a b [</Path>] (agreed)", "a a [</Path>] (agreed)", "b a [</Path>] (agreed)"]
    it = fed(controller="agreement", probe_patience=2).feed("<Parallel>", (A, A, B), (B, B, A), (B, B, C))
    assert {line[-8:] for line in paths_of(it)} == {"(agreed)"}
    it = fed(controller="agreement", probe_patience=3).feed("<Parallel>", (A, A, B), (B, B, A), (B, B, C))
    assert len(it.inputs.wanted) == 3


def test_it_is_asked_every_so_many_tokens_and_not_once_the_block_is_joined():
    it = fed(controller="agreement", probe_every=2, probe_patience=1).feed("<Parallel>", (A, A, A))
    assert len(it.inputs.wanted) == 3
    assert {line[-8:] for line in paths_of(it.feed((A, A, B)))} == {"(agreed)"}
    it = fed(controller="agreement", join_when="first").feed("<Parallel>", (A, A, A), (A, A, "</Path>"))
    assert [line.split()[-1] for line in paths_of(it)] == ["(joined)", "(joined)", "(tag)"]


def test_a_path_that_stays_alone_against_the_others_is_pruned():
    it = fed(controller="prune").feed("<Parallel>", (A, A, B), (A, A, A), (A, A, B), ("</Path>", A, B))
    assert paths_of(it) == ["a a a </Path> (tag)", "a a a a ()", "b a b b [</Path>] (pruned)"]
    it.feed("</Path>", C, "</Summary>", END)
    assert it.state.rollout().stopped == {"joined": 0, "agreed": 0, "pruned": 1}
    assert it.state.rollout().truncated == 1


def test_what_ended_paths_leave_is_shared_among_those_that_run():
    it = fed(controller="deepen", max_path_tokens=4).feed("<Parallel>", (A, A, "</Path>"), (A, A), (A, "</Path>"))
    assert [branch.limit for _, branch in it.inputs.wanted] == [2 + 1 + 2]  # of 3 tokens one was over; 2 more were left
    it.feed(A, A, A, A, A)
    assert paths_of(it) == ["a a a a a a a a [</Path>] (length)", "a a </Path> (tag)", "</Path> (tag)"]
    assert sum(sum(s.sampled) for s in it.state.records if s.kind == "path") == 3 * 4


def test_a_path_is_deepened_no_further_than_the_context_reaches():
    # prompt 3, main 1, <Path>; 14 tokens; </Path>, what joins and the summary's room
    it = fed(controller="deepen", paths=2, max_path_tokens=14, context=30, max_summary_tokens=4, max_blocks=1)
    it.feed("<Parallel>", (A, "</Path>"))
    (branch,) = [branch for _, branch in it.inputs.wanted]
    most = branch.limit
    assert 13 < most < 13 + 13
    it.feed(*[A] * most)
    assert it.segments[1].endswith("(length)")
    it.feed(C, C, C)
    assert it.state.ends[-1] < 30


def test_pruned_paths_deepen_the_others():
    it = fed(controller="prune_and_deepen", max_path_tokens=5).feed("<Parallel>", (A, A, B), (A, A, B))
    assert [branch.limit for _, branch in it.inputs.wanted] == [3 + 1, 3 + 1]  # 3 left by the pruned one, 1 is over


# --- what may be given


def test_the_answer_of_a_path():
    assert last_answer(r"<Path> so \boxed{ 2 } or 3</Path>") == "2"
    assert answer_of(any_word, "<Path>b c</Path>") == "some"
    assert answer_of(any_word, "<Path></Path>") == ""
    with pytest.raises(UserError, match="path_answer 'builtins:len' returned 3; it must return text"):
        answer_of(len, "abc")


@pytest.mark.parametrize("texts", [("12,000", "45,000", "7,000"), ("1/2", "3/2", "5/2"), (".5", "5", "1.5")])
def test_paths_with_other_numbers_do_not_agree(texts):
    paths = tuple(ProbedPath((1,), (last_answer(text),), 5, 5, "") for text in texts)
    assert CONTROLLERS.function("agreement")(Probe((1,), paths, 0, 1, str)) == Decision()


def test_what_a_controller_may_decide():
    path = ProbedPath((1,), ("a",), 5, 9, "")
    probe = Probe((7,), (path, path), 6, 1, str)
    assert decided(longest_lead, probe) == Decision()
    for controller, message in (
        (no_decision, "returned {0: 'pruned'}; it must return a Decision"),
        (too_much, r"gives \[100\] tokens; there are 6 to give"),
        (by_mood, "stops a path as 'bored'; a reason is one of agreed, pruned"),
        (twice, r"stops or deepens path 0; each of the running \[0, 1\] once"),
    ):
        with pytest.raises(UserError, match=message):
            decided(controller, probe)
    assert set(REASONS) < set(STOPPED)


def test_what_a_controller_may_be():
    params = SamplingParams(controller=longest_lead, path_answer=any_word)
    names = [f"{__name__}:longest_lead", f"{__name__}:any_word"]
    assert params.functions() == names
    dumped = params.model_dump(mode="json")
    assert [dumped["controller"], dumped["path_answer"]] == names
    assert CONTROLLERS.function(SamplingParams.model_validate(dumped).controller) is longest_lead
    for changes, message in (
        ({"controller": "agreemnet"}, "no controller 'agreemnet'"),
        ({"path_answer": "first"}, "no path_answer 'first'"),
        ({"controller": "prune", "mode": "sequential"}, "mode=sequential draws paths one after another"),
        ({"controller": "prune", "max_depth": 2}, "with max_depth=2 a path may hold a block"),
        ({"controller": "prune", "path_position_stride": "auto"}, "a path cannot be deepened"),
    ):
        with pytest.raises(ValidationError, match=message):
            SamplingParams(**changes)


# --- the engine and its slow twin

CASES = {  # parameters, and a finish_reason that must be found; "" where a path must be longer than it may be alone
    "majority": ({"controller": "majority"}, "agreed"),
    "agreement": ({"controller": "agreement", "mode": "reread"}, "agreed"),
    "prune": ({"controller": "prune", "path_answer": "last"}, "pruned"),
    "parallel_probe": ({"controller": "parallel_probe", "mode": "reread", "probe_patience": 2}, "agreed"),
    "deepen": ({"controller": "deepen"}, ""),
    "prune_and_deepen": ({"controller": "prune_and_deepen", "mode": "reread", "path_answer": "last"}, ""),
    "own": ({"controller": longest_lead, "max_trace_tokens": 45}, "pruned"),
    "pruned or half": ({"controller": "prune", "path_answer": "last", "join_when": "half"}, "joined"),
    "as wide as needed": ({"controller": "deepen", "width": "agreement", "path_answer": "last"}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_twin_and_one_masked_forward_agree(case):
    changes, found = CASES[case]
    lm = lean_towards(tiny(seed=3, num_hidden_layers=1), {"</Path>": 0.5})
    params = SamplingParams(**BUDGETS | {"probe_every": 1, "probe_patience": 1, "path_answer": any_word} | changes)
    wanted = requests(lm, 2)
    fast = Engine(lm, max_num_seqs=2).generate(wanted, params, seed=16)
    assert [drawn(r) for r in fast] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=16)]
    assert max(gaps(lm, fast)) < 1e-4
    paths = [s for r in fast for s in r.segments if s.kind == "path"]
    if found:
        assert sum(rollout_statistics(r)[found] for r in fast) == sum(s.finish_reason == found for s in paths) > 0
    else:
        assert max(sum(s.sampled) for s in paths) > params.max_path_tokens
    assert max(r.tokens for r in fast) <= params.max_trace_tokens


def test_paths_with_numbers_and_prefixes_are_controlled_as_well():
    lm = thinker(seed=3, num_hidden_layers=1)
    (request, *_), a = requests(lm, 1), lm.encode("a a b")
    wanted = [replace(request, sample=i, path_prefixes=(tuple(a), (), tuple(a[:1]))) for i in range(2)]
    changes = {"controller": "prune_and_deepen", "probe_every": 1, "probe_patience": 1, "labels": "random"}
    params = SamplingParams(**BUDGETS | changes)
    fast = Engine(lm).generate(wanted, params, seed=5)
    assert [drawn(r) for r in fast] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=5)]
    assert max(gaps(lm, fast)) < 1e-4
