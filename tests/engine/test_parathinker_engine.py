"""ParaThinker on the engine: forced forks, numbers, early joins, misplaced tags, budgets, two dialects in one batch."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from helpers.device import DEVICE, tensor
from helpers.sweep import sweep
from helpers.tiny import WORDS, drawn, gaps, lean_towards, requests, thinker, tiny
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.models.tags import add_tags
from polythink.problems.extract import extract
from polythink.trace.blocks import complete_blocks
from polythink.trace.dialect import PARALLEL_R1, PARATHINKER
from polythink.trace.parse import parse
from polythink.trace.render import render
from polythink.trace.statistics import count_blocks, rollout_statistics
from polythink.trace.tokens import pieces_of
from polythink.trace.validity import check

TOLERANCE = 1e-4  # float32; 1e-6 in practice
BUDGETS = {"max_main_tokens": 6, "max_path_tokens": 9, "max_summary_tokens": 6, "max_trace_tokens": 250}


@pytest.mark.slow
def test_a_block_in_sequential_mode_has_its_paths_and_summary():
    lm = lean_towards(thinker(seed=3), {"<think1>": 6.0, "<think4>": 5.0, "<summary>": 3.5, "</think1>": 2.5})
    rollouts = Engine(lm).generate(requests(lm, 12), SamplingParams(mode="sequential", **BUDGETS), seed=1)
    slow = reference_generate(lm, requests(lm, 12), SamplingParams(mode="sequential", **BUDGETS), seed=1)
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in slow]
    assert {s.kind for r in rollouts for s in r.segments} == {"main", "path", "summary"}
    for rollout in rollouts:
        for segment in rollout.segments:
            if segment.kind == "path":
                assert segment.text.startswith(f"<think{segment.label}>")


def test_the_fork_is_forced_at_the_end_of_the_prompt():
    lm = thinker()
    (rollout,) = Engine(lm).generate(requests(lm, 1), SamplingParams(paths=3, **BUDGETS), seed=0)
    assert [(s.kind, s.path, s.label) for s in rollout.segments[:4]] == [
        ("path", 1, 1), ("path", 2, 2), ("path", 3, 3), ("summary", 0, 0)
    ]  # fmt: skip
    for segment in rollout.segments[:3]:
        assert segment.sampled[0] is False
        assert segment.text.startswith(f"<think{segment.label}>")
        assert segment.text.endswith(f"</think{segment.label}>")


def test_only_the_cut_paths_are_cut_when_the_first_is_through():
    lm = lean_towards(thinker(seed=2), {"</think1>": 2.5, "</think2>": 2.0})
    decoding = SamplingParams(paths=6, join_when="first", **BUDGETS)
    rollouts = Engine(lm).generate(requests(lm, 20), decoding, seed=4)
    cut = 0
    for rollout in rollouts:
        paths = [s for s in rollout.segments if s.kind == "path"]
        through = [len(s.tokens) for s in paths if s.finish_reason == "tag"]
        for path in paths:
            assert path.finish_reason != "joined" or len(path.tokens) == min(through) + 1  # and the closing tag, forced
            cut += path.finish_reason == "joined"
            assert path.tokens[-1] == lm.tag_ids[f"</think{path.label}>"]
        assert rollout.truncated >= sum(s.finish_reason == "joined" for s in paths)
    assert cut > 20


def test_misplaced_tags_are_replaced_and_counted():
    lm = thinker(seed=2)
    rollouts = Engine(lm).generate(requests(lm, 20), SamplingParams(paths=4, **BUDGETS), seed=4)
    assert sum(r.misplaced_tags for r in rollouts) > 20
    for rollout in rollouts:
        for s in rollout.segments:
            own = {"path": PARATHINKER.path_tags(s.label), "summary": ("<summary>", "</summary>")}.get(s.kind)
            if own:
                tags = {lm.tag_ids[tag] for tag in PARATHINKER.tags}
                assert {t for t in s.tokens if t in tags} <= {lm.tag_ids[tag] for tag in own}
                assert lm.eos not in s.tokens


def test_what_is_drawn_with_misplaced_tags_is_valid_graded_and_laid_out_as_drawn():
    """It becomes the segment's own tag, which is text where it opens: for rules, grades, counts and training."""
    lm = from_config(ModelConfig(num_hidden_layers=2), "parathinker:4", (r"\boxed{1}", r"\boxed{2}"), seed=2)
    never = tensor([lm.tokenizer.unk_token_id, lm.tokenizer.pad_token_id])
    lean_towards(lm, {"<think3>": 1.0, "<summary>": 1.0})
    lm.model.get_output_embeddings().register_forward_hook(lambda *call: call[2].index_fill(-1, never, -100.0))
    requests = [Request(tuple(lm.encode(r"\boxed{1}")), str(i)) for i in range(200)]
    decoding, seen = SamplingParams(paths=4, **{**BUDGETS, "max_main_tokens": 2}), Counter()
    for rollout in Engine(lm).generate(requests, decoding, seed=4):
        *inner, main = rollout.segments
        if main.kind != "main" or "<" in main.text:
            continue
        repeated = sum(s.text.count("<think") + s.text.count("<summary>") - 1 for s in inner)
        seen["repeated"] += repeated
        assert check(rollout.text, "strict", lm.dialect).valid
        assert check(rollout.text, "stack", lm.dialect).valid
        assert (count_blocks(rollout.text, lm.dialect), complete_blocks(rollout.text, lm.dialect)) == (1, 1)
        assert rollout_statistics(rollout, lm.dialect)["paths"] == 4
        said = re.findall(r"\\boxed\{(\d)\}", inner[-1].text + main.text)
        assert extract(rollout.text, lm.dialect) == (said[-1] if said else None)
        seen["answered"] += bool(repeated and said)
        trace = parse(rollout.text, lm.dialect)
        assert render(trace, lm.dialect) == rollout.text.rstrip()
        end = main.tokens[-1:] if main.finish_reason == "eos" else ()
        pieces = pieces_of(rollout.prompt, trace, lm.dialect, lm.encode, "structured", end)
        assert [p.tokens for p in pieces] == [p.tokens for p in rollout.pieces()]
        for piece, segment in zip(pieces[1:], inner, strict=False):  # whether a closing tag was drawn, no text says
            assert list(piece.sampled[:-1]) == segment.sampled[:-1]
        flat = pieces_of(rollout.prompt, trace, lm.dialect, lm.encode, "sequential", end)
        assert all(all(piece.sampled) for piece in flat[1:])
    assert seen["repeated"] > 20
    assert seen["answered"] > 5


def test_a_misplaced_tag_ends_main_text():
    lm = lean_towards(thinker(), {"<think3>": 6.0, "<summary>": 5.0})
    rollouts = Engine(lm).generate(requests(lm, 12), SamplingParams(paths=2, **BUDGETS), seed=0)
    ended = [r.segments[-1] for r in rollouts if r.segments[-1].kind == "main" and r.segments[-1].misplaced_tags]
    assert len(ended) > 6
    for segment in ended:
        assert (segment.misplaced_tags, segment.finish_reason, segment.tokens[-1], segment.sampled[-1]) == (
            1,
            "eos",
            lm.eos,
            False,
        )
        assert not {lm.tag_ids[tag] for tag in PARATHINKER.tags} & set(segment.tokens)


def test_every_token_is_forwarded_once():
    """Prompt, paths and summary, each token once: nothing is computed again at the join, counted inside the model."""
    lm = thinker()
    seen = []
    lm.model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    engine = Engine(lm, max_num_seqs=3)
    seen.clear()  # the self-check forwards too
    for paths in (1, 2, 8, 16):
        seen.clear()
        wanted = requests(lm, 5)
        rollouts = engine.generate(wanted, SamplingParams(paths=paths, **BUDGETS), seed=2)
        ends = sum(
            r.finish_reason in ("eos", "length", "trace_length", "max_blocks") for r in rollouts
        )  # the last token is not fed
        expected = sum(len(r.prompt) + r.tokens for r in rollouts) - ends
        assert sum(seen) == expected


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type == "cuda", reason="keys and values in pages are counted in test_paged_memory.py")
@pytest.mark.parametrize("paths", sweep([1, 2, 8, 16], [1, 8]))
def test_the_cache_is_as_large_as_prompt_and_paths(paths):
    """Keys and values within 5% of k (L + P T): one slot a token, none for copies, at the end of full paths."""
    lm = thinker()
    lm = lean_towards(lm, {tag: -100.0 for tag in PARATHINKER.tags[1::2]})
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: _never(out, lm.eos))
    engine, prompt = Engine(lm, max_num_seqs=1), tuple(lm.encode("a b c " * 20))
    held = []
    step = engine.backend.step

    def watched(batch):
        found = step(batch)
        held.append(sum(engine.backend.cache.lengths.values()))
        return found

    engine.backend.step = watched
    decoding = SamplingParams(paths=paths, max_path_tokens=60, max_summary_tokens=1, max_main_tokens=1, max_blocks=1)
    (rollout,) = engine.generate([Request(prompt)], decoding, seed=2)
    assert all(s.finish_reason == "length" for s in rollout.segments if s.kind == "path")
    assert held[-1] <= 1.05 * (len(prompt) + paths * 62)


def _never(logits, token):
    return logits.index_fill(-1, tensor([token]), -100.0)


def test_both_dialects_in_one_batch():
    lm = tiny(seed=3)
    add_tags(lm.model, lm.tokenizer, PARATHINKER)
    decoding = SamplingParams(paths=3, max_blocks=2, **BUDGETS)
    mixed = [
        Request(r.prompt, r.problem, r.sample, dialect)
        for i, r in enumerate(requests(lm, 8))
        for dialect in (("", "parathinker")[i % 2],)
    ]
    engine = Engine(lm, max_num_seqs=3)
    together = engine.generate(mixed, decoding, seed=1)
    for dialect in ("", "parathinker"):
        alone = [r for r in mixed if r.dialect == dialect]
        kept = [drawn(r) for r, q in zip(together, mixed, strict=True) if q.dialect == dialect]
        assert kept == [drawn(r) for r in engine.generate(alone, decoding, seed=1)]
        assert kept == [drawn(r) for r in reference_generate(lm, alone, decoding, seed=1)]
    assert all("<think1>" in r.text for r, q in zip(together, mixed, strict=True) if q.dialect)
    assert not any("<think1>" in r.text and "<Path>" in r.segments[0].text for r in together)


def test_path_prefixes_are_forced_and_count():
    lm = thinker(seed=2)
    a, b = lm.encode("a b c a"), lm.encode("b")
    wanted = [Request(r.prompt, r.problem, r.sample, path_prefixes=(tuple(a), tuple(b))) for r in requests(lm, 6)]
    decoding = SamplingParams(paths=3, **BUDGETS)
    fast = Engine(lm, max_num_seqs=2).generate(wanted, decoding, seed=0)
    assert [drawn(r) for r in fast] == [drawn(r) for r in reference_generate(lm, wanted, decoding, seed=0)]
    assert max(gaps(lm, fast)) < TOLERANCE
    for rollout in fast:
        first, second, third = rollout.segments[:3]
        assert first.tokens[1:5] == a
        assert first.sampled[:5] == [False] * 5
        assert second.tokens[1:2] == b
        assert sum(first.sampled) <= 9 - 4
        assert third.sampled[1] or third.misplaced_tags
    long = Request(wanted[0].prompt, path_prefixes=(tuple(lm.encode("a b c a b c a b c")),))
    with pytest.raises(UserError, match="path_prefixes force 9 tokens"):
        Engine(lm).generate([long], decoding)
    for draw in (Engine(lm).generate, lambda *given: reference_generate(lm, *given)):
        with pytest.raises(UserError, match="path_prefixes"):
            draw(wanted, SamplingParams(mode="sequential", **BUDGETS))


@pytest.mark.slow
def test_parallel_r1_can_be_forced_to_fork():
    lm = tiny(seed=2)
    for at in (0, 3):
        decoding = SamplingParams(paths=2, fork_at=at, max_blocks=1, **BUDGETS)
        wanted = requests(lm, 4)
        rollouts = Engine(lm, max_num_seqs=3).generate(wanted, decoding, seed=2)
        assert [drawn(r) for r in rollouts] == [drawn(r) for r in reference_generate(lm, wanted, decoding, seed=2)]
        assert max(gaps(lm, rollouts)) < TOLERANCE
        forced = [r for r in rollouts if r.segments[0].finish_reason == "fork" and not r.segments[0].sampled[-1]]
        assert len(forced) == 4 if at == 0 else forced
        assert all(len(r.segments[0].tokens) == at + 1 for r in forced)


def test_greedy_paths_with_numbers_need_not_be_alike():
    """Unnumbered paths under greedy decoding are copies; here every path reads its own number."""
    lm = from_config(ModelConfig(num_hidden_layers=2), "parathinker", WORDS, seed=6)
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.mul_(20)
    decoding = SamplingParams(paths=8, temperature=0, path_temperature=0, **BUDGETS)
    (rollout,) = Engine(lm).generate(requests(lm, 1), decoding)
    assert len({tuple(s.tokens[1:-1]) for s in rollout.segments if s.kind == "path"}) > 1


def test_the_published_dialect_is_untouched():
    assert PARALLEL_R1.tags == ("<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>")
