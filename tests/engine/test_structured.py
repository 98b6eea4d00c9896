"""The rules of `structured` mode, fed by hand: forks, joins, truncation, misplaced tags, shared budgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.states import END, A, B, C, Fed
from polythink.engine.structured import StructuredState
from polythink.errors import UserError
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.production import PathTags


def fed(*args, **params) -> Fed:
    return Fed(StructuredState, *args, **params)


def test_a_block_from_fork_to_the_text_after_it():
    it = fed(paths=2).feed(A, "<Parallel>", (A, B), (B, "</Path>"), "</Path>", C, "</Summary>", A, END)
    assert it.segments == [
        "main: a <Parallel> (fork)",
        "path: [<Path>] a b </Path> (tag)",
        "path: [<Path>] b </Path> (tag)",
        "summary: [</Parallel>] [NL] [<Summary>] c </Summary> (tag)",
        "main: a end (eos)",
    ]
    assert it.state.follows == [(), (0,), (1,), (1,), (2, 3), (4,)]
    assert it.kinds == ["fork", "fork", "join"]
    assert {event.request for event in it.events} == {7}


def test_siblings_restart_together_and_the_summary_resumes_after_the_longest():
    it = fed(prompt=3, paths=2).feed("<Parallel>")  # at position 3
    assert it.inputs.positions == [3, 4, 4]
    assert [index for index, _ in it.inputs.wanted] == [1, 2]
    it.feed((A, "</Path>"))
    assert it.inputs.positions == [5, 5]
    it.feed(A, "</Path>")
    assert it.inputs.positions == [7, 8, 9, 10]  # the tag of the longer path, then the summary's forced head
    assert len({branch.key for _, branch in it.inputs.wanted}) == 1


def test_a_stride_sets_paths_apart():
    it = fed(prompt=3, paths=3, path_position_stride="auto", max_path_tokens=5).feed("<Parallel>")
    assert it.inputs.positions == [3, 4, 11, 18]


@pytest.mark.parametrize(("join_when", "finished"), [("first", 1), ("half", 2), ("all", 3)])
def test_the_summary_starts_when_enough_paths_have_finished(join_when, finished):
    it = fed(paths=3, join_when=join_when).feed("<Parallel>", (A, A, A))
    for n in range(1, finished + 1):
        it.feed(["</Path>"] + [B] * (3 - n))
    assert it.kinds[-1] == "join"
    assert [s.finish_reason for s in it.state.records if s.kind == "path"] == ["tag"] * finished + ["joined"] * (
        3 - finished
    )
    joined = [text for text in it.segments if text.endswith("(joined)")]
    assert joined == [f"path: [<Path>] a {'b ' * finished}[</Path>] (joined)"] * (3 - finished)
    assert len(it.inputs.wanted) == 1  # the joined paths want no more
    assert it.kinds.count("cut") == 3 - finished


def test_paths_that_finish_in_one_step_are_all_counted():
    it = fed(paths=3, join_when="first").feed("<Parallel>", ("</Path>", A, "</Path>"))
    assert [s.finish_reason for s in it.state.records if s.kind == "path"] == ["tag", "joined", "tag"]


@pytest.mark.parametrize("at", [0, 2])
def test_a_forced_fork_writes_the_blocks_tag(at):
    it = fed(paths=2, fork_at=at).feed(*[A] * at)
    assert it.segments[0] == f"main: {'a ' * at}[<Parallel>] (fork)"
    it.feed(("</Path>", "</Path>"), "</Summary>", A, A, A)
    assert it.segments[-1] == "main: a a a ()"  # only the first fork is forced


def test_a_fork_that_is_sampled_in_time_is_not_forced_again():
    it = fed(paths=1, fork_at=2).feed("<Parallel>", "</Path>", "</Summary>", A, B, C)
    assert [s.kind for s in it.state.records[1:]] == ["main", "path", "summary", "main"]


def test_a_dialect_without_block_tags_forks_at_the_end_of_the_prompt():
    it = fed("parathinker", paths=2)
    assert it.segments == ["path: [<think1>] ()", "path: [<think2>] ()"]
    assert it.state.follows == [(), (0,), (0,)]
    assert it.inputs.positions == [0, 1, 2, 3, 3]
    later = fed("parathinker", paths=2, fork_at=1).feed(A)
    assert later.segments == ["main: a (fork)", "path: [<think1>] ()", "path: [<think2>] ()"]
    assert later.inputs.tokens == [A, later.ids["<think1>"], later.ids["<think2>"]]


def test_one_block_too_many_ends_the_trace():
    it = fed(paths=1, max_blocks=1).feed("<Parallel>", "</Path>", "</Summary>", A, "<Parallel>")
    assert it.segments[-1] == "main: a <Parallel> (max_blocks)"
    assert it.state.done
    with pytest.raises(UserError, match="max_blocks is 0, but the dialect forks"):
        fed("parathinker", max_blocks=0)


def test_inner_segments_are_closed_by_force_at_their_budget_and_at_the_end_token():
    it = fed(paths=2, max_path_tokens=2, max_summary_tokens=1).feed("<Parallel>", (A, END), B, C)
    assert it.segments[1:] == [
        "path: [<Path>] a b [</Path>] (length)",
        "path: [<Path>] end [</Path>] (eos)",
        "summary: [</Parallel>] [NL] [<Summary>] c [</Summary>] (length)",
        "main:  ()",
    ]
    assert it.kinds == ["fork", "fork", "cut", "join", "cut"]


def test_a_closing_tag_may_be_the_last_token_of_a_budget():
    it = fed(paths=1, max_path_tokens=2).feed("<Parallel>", A, "</Path>")
    assert it.segments[1] == "path: [<Path>] a </Path> (tag)"


def test_paths_share_what_the_trace_has_left():
    """Of 30 tokens: 1 for the fork, 2 tags of each path, the summary's 3 forced tokens and its closing tag."""
    it = fed(paths=2, max_trace_tokens=30, max_summary_tokens=4, max_path_tokens=100).feed("<Parallel>")
    limits = [branch.limit for _, branch in it.inputs.wanted]
    assert limits == [(30 - 1 - 4 - 4 - 4) // 2] * 2
    it.feed(*[(A, A)] * limits[0])
    assert {s.finish_reason for s in it.state.records if s.kind == "path"} == {"trace_length"}
    assert it.inputs.wanted[0][1].limit >= 4  # the summary has what was set aside
    it.feed(A, A, A, A)
    assert it.state.written <= 30


def ends(*tokens: str | int, **params) -> list[str]:
    """Why each segment stopped, where the model says nothing more than these and then `A` until all is cut."""
    it = fed(**{"max_path_tokens": 500, "max_summary_tokens": 500, "max_main_tokens": 500, **params}).feed(*tokens)
    while it.inputs.wanted:
        it.feed((A,) * len(it.inputs.wanted))
    return [s.finish_reason for s in it.state.rollout().segments if s.kind != "copy"]


@pytest.mark.parametrize("mode", ["structured", "reread"])
@pytest.mark.parametrize(
    ("room", "reason"),
    [({"context": 60, "max_trace_tokens": 900}, "context"), ({"max_trace_tokens": 60}, "trace_length")],
)
def test_what_ran_out_is_named_positions_or_tokens(mode, room, reason):
    block, params = ["fork", *[reason] * 4], {"mode": mode, "paths": 2, **room}
    assert ends("<Parallel>", **params) == block
    inner = {**params, "paths": 1, "max_depth": 2}
    assert ends("<Parallel>", "<Parallel>", **inner) == ["fork", "fork", *[reason] * 5]  # handed down to all inside
    assert ends("<Parallel>", **params | {"max_path_tokens": 3}) == ["fork", "length", "length", reason, reason]
    assert ends(A, **params) == [reason]


@pytest.mark.parametrize(
    ("room", "reason"),
    [({"context": 12, "max_trace_tokens": 900}, "context"), ({"max_trace_tokens": 9}, "trace_length")],
)
def test_a_block_for_which_there_is_no_room_names_what_lacks(room, reason):
    assert fed(paths=2, **room).feed(A, "<Parallel>").segments == [f"main: a <Parallel> ({reason})"]
    late = {"context": 6, "max_trace_tokens": 900} if reason == "context" else {"max_trace_tokens": 3}
    it = fed(paths=2, fork_at=3, **late).feed(A, A, A)
    assert it.segments == [f"main: a a a ({reason})"]  # not even its first tag fits


def test_a_fork_without_room_ends_the_trace():
    it = fed(paths=4, max_trace_tokens=14).feed("<Parallel>")
    assert it.segments == ["main: <Parallel> (trace_length)"]
    assert it.state.done
    with pytest.raises(UserError, match="leave no room for 8 paths"):
        fed("parathinker", paths=8, max_trace_tokens=20)


def test_main_text_after_a_summary_without_room_is_cut_and_empty():
    it = fed(paths=1, max_trace_tokens=9, max_summary_tokens=1).feed("<Parallel>", "</Path>", A)
    assert it.state.written == 8
    it.feed(A)
    assert it.segments[-1] == "main: a (trace_length)"
    shorter = fed(paths=1, max_trace_tokens=9, max_path_tokens=1, max_summary_tokens=1).feed("<Parallel>", A, A)
    assert shorter.segments[-1] == "main:  (trace_length)"
    assert shorter.state.done


def test_a_stride_that_lets_paths_with_a_gap_overlap_is_refused():
    block = (replace(e, gap="\n\n") if isinstance(e, PathTags) else e for e in PARALLEL_R1.block)
    gapped = replace(PARALLEL_R1, name="gapped", block=tuple(block), published_check=False)
    with pytest.raises(UserError, match=r"path_position_stride=auto: in dialect gapped .* 2 tokens .* at least 6"):
        fed(gapped, fork_at=0, max_path_tokens=2, path_position_stride="auto")
    it = fed(gapped, fork_at=0, max_path_tokens=2, path_position_stride=6).feed((A, A), (A, A))
    first, second = (i for i, record in enumerate(it.state.records) if record.kind == "path")
    assert it.state.ends[second] - len(it.state.records[second].tokens) == it.state.ends[first]


def test_misplaced_tags_are_kept_or_replaced_as_the_dialect_says():
    kept = fed(paths=1).feed("<Parallel>", "<Summary>", "</Summary>", "<Path>", "</Path>")
    assert kept.segments[1] == "path: [<Path>] <Summary> </Summary> <Path> </Path> (tag)"
    assert kept.state.records[2].misplaced_tags == 0
    it = fed("parathinker", paths=2).feed(("<summary>", A), (B, "</think1>"), "</think1>")
    assert it.segments[:2] == [
        "path: [<think1>] [<think1>] b </think1> (tag)",  # an opening tag stands as text
        "path: [<think2>] a [</think2>] (tag)",  # a closing tag closes
    ]
    assert [s.misplaced_tags for s in it.state.records] == [0, 1, 1, 0]
    it.feed("</summary>", A, "<think1>")
    assert it.segments[-1] == "main: a [end] (eos)"
    assert it.state.records[-1].misplaced_tags == 1


def test_prefixes_are_forced_on_the_paths_of_the_first_block_and_count():
    it = fed(paths=3, prefixes=((A, B), (C,)), max_path_tokens=4).feed("<Parallel>")
    assert it.segments[1:] == ["path: [<Path>] [a] [b] ()", "path: [<Path>] [c] ()", "path: [<Path>] ()"]
    assert [branch.limit for _, branch in it.inputs.wanted] == [2, 3, 4]
    it.feed(("</Path>",) * 3, "</Summary>", "<Parallel>")
    assert it.segments[-3:] == ["path: [<Path>] ()"] * 3
    with pytest.raises(UserError, match="force 3 tokens on a path, and max_path_tokens=2"):
        fed(paths=1, prefixes=((A, B, C),), max_path_tokens=2)
    with pytest.raises(UserError, match="path_prefixes are given for 3 paths, and the block has at most 2"):
        fed(paths=2, prefixes=((A,), (), (C,)))


def test_more_paths_than_numbers_are_refused_before_drawing_wherever_the_block_opens():
    for changes in ({}, {"fork_at": 0}, {"fork_at": 3}, {"paths": 99, "labels": "random", "fork_at": 3}):
        with pytest.raises(UserError, match="paths are more than the 4 numbers of dialect parathinker:4"):
            fed("parathinker:4", **{"paths": 5, **changes})
    assert fed("parathinker:4", paths=5, fork_at=3, max_blocks=0).feed(A, B, C).segments == ["main: a b c (max_blocks)"]
    assert len(fed("parathinker:4", paths=5, width="agreement").inputs.wanted) == 2  # never more than numbers


def test_a_join_of_more_paths_than_trained_is_scaled_and_so_is_what_follows():
    it = fed(paths=3, trained_paths=1).feed("<Parallel>", ("</Path>",) * 3, "</Summary>")
    assert it.state.scales[:5] == [1.0] * 5
    assert it.state.scales[5] == it.state.scales[6] > 1.0
    assert set(fed(paths=3, trained_paths=3).feed("<Parallel>", ("</Path>",) * 3).state.scales) == {1.0}


def test_random_labels_are_those_of_the_stream_and_ordered_ones_count():
    ordered = fed("parathinker", paths=3).state
    random = fed("parathinker", paths=3, labels="random").state
    assert ordered.labels == [0, 1, 2, 3]
    assert random.labels == fed("parathinker", paths=3, labels="random").state.labels
    assert random.labels != ordered.labels
    assert len(set(random.labels[1:])) == 3
