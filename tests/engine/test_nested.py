"""Plans, blocks in blocks and joins that read again, fed by hand; and every budget at every boundary, by script."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from helpers.productions import random_dialect
from helpers.simulated import bytes_of, simulate
from helpers.states import END, A, B, C, Fed
from polythink.engine.params import SamplingParams
from polythink.engine.sequential import SequentialState
from polythink.engine.structured import StructuredState
from polythink.errors import UserError
from polythink.trace.dialect import DIALECTS
from polythink.trace.modes import MODES

PLAN = ("<Parallel>", "<Goal>", "<Outline>", A, "</Outline>", "<Outline>", B, "</Outline>")
HEAD = "[NL] [<Path>] [NL] [NL] [NL]"  # a gap, the tag, and the heading `\n1:`


def fed(*args, **params) -> Fed:
    return Fed(StructuredState, *args, **params)


def test_a_block_forks_at_the_end_of_its_plan_into_as_many_paths_as_it_has_outlines():
    it = fed("multiverse", paths=5).feed(C, *PLAN, "</Goal>", (A, B), ("</Path>", "</Path>"), C, "</Conclusion>")
    it.feed("</Parallel>", END)
    assert it.segments == [
        "main: c <Parallel> <Goal> <Outline> a </Outline> <Outline> b </Outline> </Goal> (fork)",
        f"path: {HEAD} a </Path> (tag)",
        f"path: {HEAD} b </Path> (tag)",
        "summary: [NL] [<Conclusion>] c </Conclusion> (tag)",
        "main: </Parallel> end (eos)",
    ]


def test_a_heading_has_the_number_that_the_outline_declares():
    it = fed("multiverse")  # its spelling has no digits, so the outline is given here
    assert it.state.tags.dialect.heading(2, "1.2: try it") == "\n1.2:"
    assert len(it.state.tags.head(0, 2, "1.2: try it")) == 2 + len("\n1.2:")


def test_outlines_beyond_max_paths_close_the_plan():
    it = fed("multiverse", max_paths=2).feed(*PLAN, "<Outline>")
    assert it.segments[0].endswith("<Outline> b </Outline> [</Goal>] (fork)")
    assert [s.kind for s in it.state.records[2:]] == ["path", "path"]
    assert [s.bounded for s in it.state.records[:3]] == [False, True, False]


def test_a_plan_without_outlines_does_not_fork():
    it = fed("multiverse").feed("<Parallel>", "<Goal>", A, "</Goal>", B, *PLAN, "</Goal>")
    assert it.kinds == ["fork", "fork"]
    assert it.state.records[1].empty_plans == 1
    assert fed("npr").feed("<guideline>", "</guideline>", A).segments == ["main: <guideline> </guideline> a ()"]


def test_a_dialect_without_a_summary_goes_on_after_its_joining_tags():
    it = fed("threadweaver").feed(
        "<Parallel>", "<Outlines>", "<Outline>", A, "</Outline>", "</Outlines>", "</Thread>", C
    )
    assert it.segments[2:] == ["summary: [NL] [</Parallel>] (tag)", "main: c ()"]
    assert it.state.follows[3:] == [(2,), (3,)]
    with pytest.raises(UserError, match="summary_prefix: the blocks of dialect threadweaver have no summary"):
        fed("threadweaver", summary_prefix="so")


def test_a_nested_block_goes_on_in_the_path_that_it_stands_in():
    it = fed(paths=2, max_depth=2).feed("<Parallel>", ("<Parallel>", A), (B, C, A), ("</Path>", "</Path>", "</Path>"))
    it.feed(C, "</Summary>")
    assert [len(it.inputs.wanted)] == [1]
    it.feed("</Path>", "</Summary>", END)
    rollout = it.state.rollout()
    shown = [(s.kind, s.block, s.path, s.finish_reason) for s in rollout.segments]
    assert shown == [
        ("main", -1, 0, "fork"), ("path", 0, 1, "fork"), ("path", 1, 1, "tag"), ("path", 1, 2, "tag"),
        ("summary", 1, 0, "tag"), ("path", 0, 1, "tag"), ("path", 0, 2, "tag"), ("summary", 0, 0, "tag"),
        ("main", -1, 0, "eos"),
    ]  # fmt: skip
    assert rollout.layout().position.max() == it.state.ends[-1]


def test_blocks_deeper_than_allowed_are_text():
    it = fed(paths=1, max_depth=2).feed("<Parallel>", "<Parallel>", "<Parallel>", "</Path>")
    assert it.segments[2] == "path: [<Path>] <Parallel> </Path> (tag)"
    assert fed(paths=1).feed("<Parallel>", "<Parallel>", A).segments[1] == "path: [<Path>] <Parallel> a ()"


def test_a_nested_block_without_room_closes_its_path():
    it = fed(paths=1, max_depth=2, max_trace_tokens=16).feed("<Parallel>", "<Parallel>")
    assert it.segments[1] == "path: [<Path>] <Parallel> [</Path>] (trace_length)"
    it = fed(paths=1, max_depth=2, max_blocks=1).feed("<Parallel>", "<Parallel>", "</Path>", "</Summary>", "<Parallel>")
    assert it.segments[4] == "path: <Parallel> [</Path>] (max_blocks)"  # blocks are counted for each text


def test_the_own_budget_of_a_path_counts_over_all_its_segments():
    it = fed(paths=1, max_depth=2, max_path_tokens=3).feed("<Parallel>", A, "<Parallel>", B, "</Path>", "</Summary>", C)
    assert it.segments[4] == "path: c [</Path>] (length)"
    it = fed(paths=1, max_depth=2, max_path_tokens=2).feed("<Parallel>", A, "<Parallel>", B, "</Path>", "</Summary>")
    assert it.segments[4] == "path: [</Path>] (length)"


def test_streams_of_the_outermost_level_do_not_know_of_nested_blocks_or_copies():
    def keys(**params) -> list[int]:
        it = fed(paths=2, **params).feed("<Parallel>", (A, A), ("</Path>", "</Path>"))
        return [branch.key for _, branch in it.inputs.wanted]

    assert keys() == keys(mode="reread") == keys(max_depth=3)
    flat = fed(paths=2).feed("<Parallel>", (A, A), ("</Path>", "</Path>"))
    nested = fed(paths=2, max_depth=2).feed(
        "<Parallel>", ("<Parallel>", A), ("</Path>", "</Path>", "</Path>"), "</Summary>"
    )
    nested.feed("</Path>")
    assert [b.key for _, b in nested.inputs.wanted] == [b.key for _, b in flat.inputs.wanted]


def test_a_reread_join_runs_the_paths_again_at_flat_positions():
    it = fed(paths=2, mode="reread", prompt=3).feed("<Parallel>", (A, "</Path>"), "</Path>")
    path, close, opened = (it.ids[tag] for tag in ("<Path>", "</Path>", "<Path>"))
    assert it.inputs.tokens == [close, opened, A, close, path, close, it.ids["</Parallel>"], 10, it.ids["<Summary>"]]
    assert it.inputs.positions == [6, 4, 5, 6, 7, 8, 9, 10, 11]
    assert it.state.follows[4:] == [(1,), (4,)]
    assert not [event for event in it.events if event.segment == 4]  # a copy is no text
    it.feed("</Summary>", END)
    assert [s.kind for s in it.state.rollout().segments] == ["main", "path", "path", "copy", "summary", "main"]
    assert it.state.rollout().tokens == 1 + 3 + 2 + 5 + 4 + 1


def test_what_cannot_be_combined_is_refused_in_one_sentence():
    for params, words in (
        ({"max_depth": 2, "join_when": "first"}, "join_when=first truncates paths"),
        ({"width": "agreement", "join_when": "half"}, "join_when=half truncates paths"),
        ({"max_depth": 2, "path_position_stride": "auto"}, "path_position_stride=auto cannot set apart"),
        ({"width": "agrement"}, "no width 'agrement'; did you mean"),
    ):
        with pytest.raises(ValidationError, match=words):
            SamplingParams(**params)
    with pytest.raises(UserError, match="path_position_stride=auto: in dialect multiverse paths begin with a heading"):
        fed("multiverse", path_position_stride="auto")


def test_a_flat_text_follows_nested_blocks_as_deep_as_allowed():
    block = ("<Parallel>", "<Path>", "<Parallel>", "<Path>", A, "</Path>", "</Parallel>", "<Summary>", "</Summary>")
    it = Fed(SequentialState, max_depth=2).feed(*block, B, "</Path>", "</Parallel>", "<Summary>", C, "</Summary>", END)
    assert it.segments == [
        "main: <Parallel> (fork)",
        "path: <Path> <Parallel> (fork)",
        "path: <Path> a </Path> (tag)",
        "summary: </Parallel> <Summary> </Summary> (tag)",
        "path: b </Path> (tag)",
        "summary: </Parallel> <Summary> c </Summary> (tag)",
        "main: end (eos)",
    ]
    assert [s.block for s in it.state.records[1:]] == [-1, 0, 1, 1, 0, 0, -1]
    assert Fed(SequentialState).feed(*block).segments[1].startswith("path: <Path> <Parallel> <Path> a </Path> (tag)")


def closed(state, kind: str, close) -> bool:
    """Does every path (or summary) end with its tag, after its last stretch?"""
    last = {(s.block, s.path): s for s in state.rollout().segments if s.kind == kind}
    return all(s.tokens[-1] == close(s) for s in last.values() if s.tokens)


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if mode.exact])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_budgets_hold_at_every_boundary(dialect, mode):
    """Of the trace, the context and each text, with tags where they do not belong; whatever is opened is closed."""
    stops: Counter[str] = Counter()
    for total in [*range(1, 40), *range(40, 400, 23)]:
        params = SamplingParams(mode=mode, paths=1 + total % 3, max_paths=1 + total % 4, max_depth=1 + total % 3,
                                max_blocks=1 + total % 2, max_trace_tokens=total, max_main_tokens=40,
                                max_path_tokens=1 + total % 23, max_summary_tokens=1 + total % 7)  # fmt: skip
        for context in (100_000, 40 + total // 2):
            try:
                state = simulate(dialect, params, total, 0.1 * (total % 2), context=context)
            except UserError as error:
                assert "leave no room" in str(error)  # noqa: PT017
                assert DIALECTS[dialect].runtime_forks
                continue
            rollout = state.rollout()
            assert rollout.tokens == state.written <= total
            assert max(state.ends) < context
            assert rollout.layout().position.max() < context
            stops.update(s.finish_reason for s in rollout.segments)
            spent: Counter[tuple] = Counter()
            for s in rollout.segments:
                spent[s.kind, s.block, s.path] += sum(s.sampled)
            if MODES[mode].isolated:
                assert all(n <= params.max_path_tokens for (kind, *_), n in spent.items() if kind == "path")
                assert all(n <= params.max_summary_tokens for (kind, *_), n in spent.items() if kind == "summary")
                assert closed(state, "path", lambda s: state.tags.tags_of(s)[1])  # noqa: B023
                finish = state.tags.finish or (state.tags.joined,)
                assert closed(state, "summary", lambda s: finish[-1])  # noqa: B023
            assert all(s.finish_reason for s in rollout.segments[:-1])
    expected = {"trace_length", "length", "eos"} | ({"fork"} if not DIALECTS[dialect].runtime_forks else set())
    assert expected <= set(stops), stops


def check_context(seeds: range) -> Counter[str]:
    """Dialects that were made up, drawn up to the end of the context: tags of the runtime stand after the summary."""
    stops: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        d, mode = random_dialect(rng), rng.choice(("structured", "reread"))
        codec, ids, _ = bytes_of(d)
        if any(codec.decode([id]) != tag for tag, id in ids.items()) or (d.plan and not d.plan.item[0]):
            continue  # a byte tokenizer does not spell it; the simulation writes plans with outlines only
        params = SamplingParams(mode=mode, paths=rng.randint(1, 3), max_depth=rng.choice((1, 1, 3)) if d.nests else 1,
                                fork_at=rng.choice((None, 2)), max_path_tokens=rng.choice((3, 30)),
                                max_summary_tokens=rng.choice((4, 200)), max_trace_tokens=1000)  # fmt: skip
        context = rng.randint(20, 70)
        try:
            state = simulate(d, params, seed, noise=rng.choice((0, 0.02)), blocks=0.2, context=context)
        except UserError:
            continue
        assert max(state.ends) < context, seed
        assert state.rollout().layout().position.max() < context, seed
        cut = [s for s in state.rollout().segments if s.finish_reason == "context" and s.kind == "summary"]
        stops["before tags of the runtime"] += bool(cut and state.tags.finish)
        stops["at the last position"] += max(state.ends) == context - 1
    return stops


def test_no_position_reaches_the_context_in_dialects_that_were_made_up():
    found = check_context(range(150))
    assert found["before tags of the runtime"] > 3
    assert found["at the last position"] > 10


@pytest.mark.long
def test_no_position_reaches_the_context_in_many_dialects_that_were_made_up():
    assert check_context(range(150, 10_000))["before tags of the runtime"] > 50
