"""A trace as reasoning and content, and as items: as it is drawn, and from the finished rollout, by other code."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable

import pytest
from pydantic import ValidationError

from helpers.followed import byte_thinker, followed, random_traces
from helpers.productions import PUBLISHED, random_dialect, random_trace
from helpers.random_cases import MODELS, model_of
from helpers.simulated import bytes_of, simulate
from polythink.engine.engine import Engine
from polythink.engine.params import Event, Request, SamplingParams
from polythink.engine.tag_ids import TagIds
from polythink.errors import UserError
from polythink.problems.extract import extract, stated_answer
from polythink.serve.finished import shown
from polythink.serve.generation import Wanted
from polythink.serve.growing import Spelling
from polythink.serve.items import Item, Items, items_of
from polythink.serve.linear import Linear
from polythink.trace.production import Dialect
from polythink.trace.render import render
from polythink.trace.rollout import Rollout, Segment
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Trace
from polythink.trace.validity import check

PROMPT = (3,)


def spelling_of(dialect: Dialect, known: Container[str] | None = None) -> Spelling:
    """`known`: the tags that the tokenizer has; None: all."""
    codec, ids, end = bytes_of(dialect)
    if known is not None:
        ids = {tag: id if tag in known else -1 - i for i, (tag, id) in enumerate(ids.items())}
    tags = TagIds.of(dialect, ids, [end], codec.encode, codec.decode)
    return Spelling(tags, {id: tag for tag, id in ids.items()})


def told(spelling: Spelling, params: SamplingParams, updates: Iterable[tuple[Event, str]]):
    """The reasoning and the content that the deltas concatenate to, and the kinds in their order."""
    linear, text, kinds = Linear(spelling, params), {"reasoning": "", "content": ""}, []
    for event, piece in updates:
        for delta in linear.add(event, piece):
            text[delta.kind] += delta.text
            kinds.append(delta.kind)
    return text["reasoning"], text["content"], kinds


def facts(item: Item) -> tuple:
    return item.kind, item.index, item.path, item.label, item.text, item.cut, item.closed


def agree(spelling: Spelling, params: SamplingParams, updates: list[tuple[Event, str]], rollout: Rollout) -> None:
    whole = shown(rollout, spelling)
    reasoning, content, kinds = told(spelling, params, updates)
    assert (reasoning, content) == (whole.reasoning, whole.content), rollout.text
    assert kinds == sorted(kinds, reverse=True), "reasoning comes first"
    live, grown, closed = Items(spelling, params), {}, set()
    for change in (change for event, piece in updates for change in live.add(event, piece)):
        assert (change.item in grown) == (change.kind != "open")
        assert change.item not in closed
        closed |= {change.item} if change.kind == "close" else set()
        grown[change.item] = grown.get(change.item, "") + change.text
    assert len(closed) == len(grown)
    assert [facts(item) for item in live.items] == [facts(item) for item in items_of(whole)]
    assert [grown[item] for item in live.items] == [item.text for item in live.items]
    assert not any(tag in reasoning + content for tag in spelling.texts.values())


# --- streamed = not streamed


def check_drawn(model: str, seed: int, n: int) -> None:
    """Traces of a random model, some of them stopped or aborted."""
    for wanted, updates in random_traces(random.Random(seed), model, n):
        given = [(update.event, update.text) for update in updates]
        agree(Spelling.of(model_of(model)), wanted.params, given, updates[-1].event.rollout)


@pytest.mark.parametrize("model", MODELS)
def test_deltas_concatenate_to_what_the_finished_trace_shows(model):
    check_drawn(model, 0, 5)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["structured", "sequential"])
def test_characters_that_lie_in_several_tokens(mode):
    """The texts of a segment's updates are its text, also where it ends within a character."""
    lm, broken = byte_thinker(), 0
    params = SamplingParams(mode=mode, max_main_tokens=60, max_path_tokens=20, max_trace_tokens=90, max_depth=2)
    wanted = [Wanted(Request(tuple(lm.encode("a")), "p"), params, seed, ("\x05",)) for seed in range(6)]
    for each, updates in followed(Engine(lm), wanted, [0, 20] * 3):
        rollout = updates[-1].event.rollout
        texts: dict[int, str] = {}
        for update in updates[:-1]:
            texts[update.event.segment] = texts.get(update.event.segment, "") + update.text
        assert sorted(filter(None, texts.values())) == sorted(s.text for s in rollout.segments if s.text)
        agree(Spelling.of(lm), each.params, [(update.event, update.text) for update in updates], rollout)
        broken += rollout.text.count("\ufffd")
    assert broken > 10


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_deltas_concatenate_to_what_many_finished_traces_show(model):
    for seed in range(1, 11):
        check_drawn(model, seed, 40)


def check_simulated(seed: int) -> None:
    """One trace in a dialect that may be made up: shared closing tags, answers in nested summaries."""
    rng = random.Random(seed)
    d = rng.choice(PUBLISHED) if rng.random() < 0.5 else random_dialect(rng)
    codec, ids, _ = bytes_of(d)
    if any(codec.decode([id]) != tag for tag, id in ids.items()) or (d.plan and not d.plan.item[0]):
        return  # a byte tokenizer does not spell it; the simulation writes plans with outlines only
    mode = rng.choice(("structured", "reread", "sequential"))
    nests = d.nests and rng.random() < 0.7
    try:
        params = SamplingParams(
            mode=mode,
            paths=rng.randint(1, 4),
            max_paths=rng.randint(2, 5),
            max_blocks=rng.randint(1, 3),
            max_depth=3 if nests else 1,
            max_main_tokens=rng.choice((20, 60)),
            max_path_tokens=rng.choice((6, 30)),
            max_summary_tokens=rng.choice((4, 20)),
            max_trace_tokens=rng.choice((90, 400)),
            fork_at=rng.choice((None, None, 3)),
            join_when=rng.choice(("all", "all", "half")),
        )
    except ValidationError:
        return
    events: list[Event] = []
    try:
        state = simulate(d, params, seed, noise=rng.choice((0, 0.02, 0.1)), blocks=0.2, emit=events.append)
    except UserError:  # no room for a block
        return
    given = [(event, codec.decode([event.token]) if event.kind == "token" else "") for event in events]
    rollout = state.rollout()
    agree(spelling_of(d), params, [*given, (state.event("done", state.last, rollout=rollout), "")], rollout)


def test_deltas_agree_in_dialects_that_were_made_up():
    for seed in range(40):
        check_simulated(seed)


@pytest.mark.long
def test_deltas_agree_in_many_dialects_that_were_made_up():
    for seed in range(40, 10_000):
        check_simulated(seed)


# --- what is shown


def rollout_of(trace, dialect: Dialect, mode: str = "structured") -> Rollout:
    """A trace as if it had been drawn."""
    codec, _, end = bytes_of(dialect)
    segments = [
        Segment(p.kind, p.block, p.path, list(p.tokens), list(p.sampled), [0.0] * len(p.tokens), label=p.label,
                finish_reason="tag", text=codec.decode(p.tokens))
        for p in pieces_of(PROMPT, trace, dialect, codec.encode, mode, (end,))[1:]
    ]  # fmt: skip
    return Rollout("p", 0, mode, PROMPT, segments)


@pytest.mark.parametrize("dialect", PUBLISHED, ids=lambda d: d.name)
def test_the_answer_of_the_content_is_that_of_the_trace(dialect):
    rng, answers = random.Random(0), 0
    for i in range(60):
        trace = random_trace(rng, dialect)
        if not (trace.parts and isinstance(trace.parts[-1], str)) and rng.random() < 0.5:
            trace = Trace((*trace.parts, f" so \\boxed{{{i}}}"))
        try:
            text = render(trace, dialect)
        except UserError:  # a text part that happens to spell a tag
            continue
        if not check(text, "strict", dialect).valid:
            continue
        content = shown(rollout_of(trace, dialect), spelling_of(dialect)).content
        assert stated_answer(content) == extract(text, dialect), text
        answers += extract(text, dialect) is not None
    assert answers > 5


def draw(model: str, **params):
    """The updates of the longest of some traces."""
    lm, params = model_of(model), SamplingParams(**params)
    wanted = [Wanted(Request(tuple(lm.encode("a b")), "p"), params, seed) for seed in range(8)]
    return Spelling.of(lm), params, max((updates for _, updates in followed(Engine(lm), wanted)), key=len)


def test_the_first_open_path_is_told_as_it_grows_and_the_others_wait():
    spelling, params, updates = draw("parallel_r1", paths=3, max_blocks=1, fork_at=0, max_path_tokens=20)
    linear, reasoning, first, held = Linear(spelling, params), "", "", 0
    for update in updates:
        reasoning += "".join(d.text for d in linear.add(update.event, update.text) if d.kind == "reasoning")
        if update.event.path == 1 and update.event.kind == "token" and update.event.token not in spelling.texts:
            first += update.text
            assert reasoning.split() == ["Path", "1:", *first.split()]
        held += update.event.path > 1 and "Path 2" not in reasoning
    assert len(first) > 5
    assert held > 10


@pytest.mark.parametrize("model", ["parallel_r1", "parathinker"])
def test_content_comes_as_it_is_drawn_once_no_block_can_follow(model):
    spelling, params, updates = draw(model, max_blocks=1, fork_at=0, max_path_tokens=4, max_summary_tokens=9)
    linear = Linear(spelling, params)
    content = [i for i, u in enumerate(updates) for d in linear.add(u.event, u.text) if d.kind == "content"]
    assert len(content) > 3
    assert content[0] < len(updates) - 3


def test_text_that_a_block_may_follow_waits():
    spelling, params, updates = draw(
        "parallel_r1", max_blocks=50, max_trace_tokens=60, max_path_tokens=4, max_main_tokens=30
    )
    linear = Linear(spelling, params)
    for update in updates:
        deltas = linear.add(update.event, update.text)
        assert update.event.kind == "done" or not any(d.kind == "content" for d in deltas)


def test_without_thinking_all_is_content_at_once():
    spelling, params, updates = draw("parallel_r1", max_blocks=0, max_main_tokens=12)
    linear = Linear(spelling, params)
    kinds = [[d.kind for d in linear.add(u.event, u.text)] for u in updates]
    assert ["content"] in kinds[:2]
    assert not any("reasoning" in each for each in kinds)


@pytest.mark.parametrize("dialect", PUBLISHED, ids=lambda d: d.name)
def test_a_model_without_tags_is_told_as_it_writes(dialect):
    params, codec = SamplingParams(mode="sequential"), bytes_of(dialect)[0]
    events = [(Event("token", 0, 1, -1, 0, codec.encode(text)[0]), text) for text in "abc"]
    without = Linear(spelling_of(dialect, ()), params)
    assert [[(d.kind, d.text) for d in without.add(*each)] for each in events] == [[("content", x)] for x in "abc"]
    one = Linear(spelling_of(dialect, dialect.first_tags[-1:]), params)  # of numbered ones one is enough
    assert not any(one.add(*each) for each in events)


def test_the_whole_form_by_hand():
    """A plan as lines, a cut path, a block in a path, text after it, a summary, the answer."""
    d = PUBLISHED[2]
    codec = bytes_of(d)[0]
    parts = [
        (
            "main",
            -1,
            0,
            "So.<Parallel>\n<Goal>two\n<Outline>1: add</Outline>\n<Outline>2: try</Outline>\n</Goal>",
            "",
        ),
        ("path", 0, 1, "\n<Path>\n1: it is <Parallel>\n<Goal>\n<Outline>1.1: x</Outline>\n</Goal>", "fork"),
        ("path", 1, 1, "\n<Path>\n1.1: one</Path>", "tag"),
        ("summary", 1, 0, "\n<Conclusion> 1 </Conclusion>", "tag"),
        ("path", 0, 1, "\n</Parallel> then</Path>", "tag"),
        ("path", 0, 2, "\n<Path>\n2: or</Path>", "length"),
        ("summary", 0, 0, "\n<Conclusion>both</Conclusion>", "tag"),
        ("main", -1, 0, "\n</Parallel>\n\nIt is 4.", "eos"),
    ]
    segments = [
        Segment(kind, block, path, codec.encode(text), finish_reason=reason, text=text)
        for kind, block, path, text, reason in parts
    ]
    found = shown(Rollout("p", 0, "structured", PROMPT, segments), spelling_of(d))
    assert found.content == "It is 4."
    assert found.reasoning == (
        "So.\ntwo\n1: add\n2: try\n\n"
        "Path 1:\n1: it is\n1.1: x\n\nPath 1.1:\n1.1: one\n\nSummary of path 1:\n1\n\nPath 1, continued:\nthen\n\n"
        "Path 2:\n2: or (cut)\n\nSummary:\nboth"
    )
    kinds = [(e.kind, e.path, e.text.split("\n")[-1]) for e in found.elements]
    assert kinds == [("main", 0, "2: try"), ("path", 1, "then"), ("path", 2, "2: or (cut)"), ("summary", 0, "both")]
