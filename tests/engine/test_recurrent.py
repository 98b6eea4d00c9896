"""Models with recurrent, linear or convolutional layers: each branch has a cache of its own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from helpers.device import DEVICE, collate
from helpers.layouts import block_of, draw, piece
from helpers.recurrent import EACH, FAMILIES, decoded, hybrid, step_of
from helpers.sweep import sweep
from helpers.tiny import drawn, family, gaps, lean_towards, requests, tiny
from polythink.engine.backends.caches import Row, measure, signature, stack, tensors_of
from polythink.engine.backends.recurrent import RecurrentBackend
from polythink.engine.chain_check import SelfCheckFailed
from polythink.engine.engine import Engine
from polythink.engine.params import SamplingParams
from polythink.engine.reference import reference_generate
from polythink.engine.selfcheck import check
from polythink.errors import UserError
from polythink.models.unfold import chain_logits
from polythink.trace.layout import Layout, lay_out

ENDS = torch.tensor([1], device=DEVICE)
FLAT = SamplingParams(
    mode="sequential", max_blocks=2, max_main_tokens=10, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=40
)
REREAD = FLAT.model_copy(
    update={"mode": "reread", "paths": 3, "fork_at": 0, "max_path_tokens": 4, "max_main_tokens": 6}
)
SLOWLY = {"mamba": "token by token", "rwkv": "branch by branch"}  # families whose kernels lack something


def engine_of(lm, **options) -> Engine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it lacks
        return Engine(lm, **options)


def reread_layout(lm, paths: int, seed: int = 0) -> Layout:
    rng = np.random.default_rng(seed)
    size = lm.model.config.vocab_size

    def small(kind: str, n: int):
        return piece(kind, [t % size for t in draw(rng, n)])

    blocks = [block_of(rng, b, paths)[2] for b in (0, 1)]
    blocks = [[piece(p.kind, [t % size for t in p.tokens], p.block, p.path) for p in block] for block in blocks]
    return lay_out([small("prompt", 5), *blocks[0], small("main", 3), *blocks[1], small("main", 2)], "reread")


# ---- exactness ----


@pytest.mark.parametrize(
    ("name", "params"),
    sweep(  # of a flat text one of each kind of kernels
        [(name, params) for name in FAMILIES for params in (FLAT, REREAD)],
        [*((name, REREAD) for name in FAMILIES), *((name, FLAT) for name in ("mamba", "rwkv"))],
    ),
    ids=lambda x: getattr(x, "mode", x),
)
def test_what_is_drawn_is_what_is_trained(name, params):
    """Tokens as the slow twin draws them, log-probabilities as the training forward gives them."""
    lm = hybrid(name)
    wanted = requests(lm, 3)[1:]  # a prompt of three tokens, and one of twelve
    engine = engine_of(lm, max_num_seqs=2, prefill_chunk=4)
    assert engine.backend.kind == "recurrent"
    assert SLOWLY.get(name, "") in engine.backend.about
    rollouts = engine.generate(wanted, params, seed=3)
    assert [drawn(r) for r in rollouts] == [drawn(r) for r in reference_generate(lm, wanted, params, seed=3)]
    assert max(gaps(lm, rollouts)) < 1e-4
    kinds = {s.kind for r in rollouts for s in r.segments}
    assert kinds >= ({"main", "path", "copy", "summary"} if params.rules.rereads else {"main"})
    assert engine.backend.held_caches == 0


def test_blocks_in_paths_and_any_number_of_paths_are_exact():
    lm = lean_towards(hybrid("qwen3_next"), {"<Parallel>": 1.5})
    engine = engine_of(lm)
    wanted = requests(lm, 4)
    each = [
        REREAD.model_copy(update={"paths": paths, "max_depth": 2, "max_trace_tokens": 240}) for paths in (1, 2, 3, 8)
    ]
    rollouts = engine.generate(wanted, each, seed=1)
    assert max(gaps(lm, rollouts)) < 1e-4
    layouts = [r.layout() for r in rollouts]
    assert any(
        layout.kinds[f] == "path" and kind == "path"
        for layout in layouts
        for kind, follows in zip(layout.kinds, layout.follows, strict=True)
        for f in follows
    ), "no block in a path"


@pytest.mark.parametrize(
    ("name", "paths"),
    sweep(
        [(name, paths) for name in FAMILIES for paths in (1, 2, 3, 8)],
        [*((name, 2) for name in FAMILIES), ("qwen3_next", 8), ("mamba", 8)],
    ),
)
def test_forked_and_reread_logits_are_those_of_the_training_forward(name, paths):
    lm = hybrid(name)
    backend, layout = engine_of(lm).backend, reread_layout(lm, paths)
    found = decoded(backend, layout)
    batch = collate([layout])
    every = torch.arange(len(layout), device=DEVICE)
    with torch.no_grad():
        logits, rows, columns = chain_logits(lm.model, batch, torch.zeros_like(every), every)
    assert (found - logits[rows, columns]).abs().max() < 1e-4 * max(1, logits.abs().max())  # mamba's are large


@pytest.mark.parametrize("name", sweep(["qwen3_next", "mamba2"], ["qwen3_next"]))
def test_stacked_branches_and_branches_alone_agree(name):
    """The slow twin of the batches: every branch on its own, token by token."""
    lm = hybrid(name)
    layout = reread_layout(lm, 3)
    fast = decoded(RecurrentBackend(lm), layout)
    for stacks, pads, chunks in ((False, False, True), (True, False, True), (True, True, False), (False, False, False)):
        assert (decoded(RecurrentBackend(lm, stacks, pads, chunks), layout) - fast).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_text", "bamba"])
def test_a_path_inside_a_trace_is_the_path_alone(name):
    """Both after the same prompt, in calls that know no layouts."""
    lm = hybrid(name)
    layout = reread_layout(lm, 3)
    found = decoded(RecurrentBackend(lm), layout)
    prompt = layout.tokens[layout.segment == 0].tolist()
    for segment in (1, 2, 3):
        path = layout.tokens[layout.segment == segment].tolist()
        ids = torch.tensor([prompt + path], device=DEVICE)
        with torch.no_grad():
            alone = lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) :]
        assert (found[torch.from_numpy(layout.segment == segment)] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("name", sweep(["qwen3_5_text", "mamba"], ["qwen3_5_text"]))
def test_a_trace_does_not_depend_on_its_batch_or_on_chunks(name):
    lm = hybrid(name)
    wanted = requests(lm, 5)
    each = [FLAT, REREAD, REREAD, FLAT, REREAD]
    engine = engine_of(lm)
    alone = [drawn(engine.generate([request], own, seed=5)[0]) for request, own in zip(wanted, each, strict=True)]
    assert [drawn(r) for r in engine.generate(wanted, each, seed=5)] == alone
    assert [drawn(r) for r in engine_of(lm, max_num_seqs=3, prefill_chunk=2).generate(wanted, each, seed=5)] == alone


def test_prompts_are_read_as_a_whole_where_chunks_would_be_read_token_by_token():
    engine = engine_of(hybrid("mamba"), prefill_chunk=4)
    calls, forward = [], engine.backend._call_model
    engine.backend._call_model = lambda tokens, *rest: (calls.append(tokens.shape[1]), forward(tokens, *rest))[1]
    engine.add(requests(engine.lm, 3)[2], FLAT)
    engine.step()
    assert calls == [12]


# ---- memory ----


@pytest.mark.parametrize("params", [FLAT, REREAD], ids=lambda p: p.mode)
def test_a_trace_holds_no_more_caches_than_branches(params):
    """A flat one its open segment and the one before it; a forked one that of each branch, and of the fork point."""
    lm = hybrid("qwen3_5_text")
    engine = engine_of(lm, max_num_seqs=3)
    for request in requests(lm, 5):
        engine.add(request, params, seed=3)
    most, bound = 0, params.paths + 1 if params.rules.isolated else 2
    while engine.unfinished:
        engine.step()
        most = max(most, engine.backend.held_caches)
        for row, state in engine.scheduler.live.items():
            nested = sum(record.kind == "path" and record.finish_reason == "fork" for record in state.records)
            ended = 2  # what has ended in this very step is kept until the next
            own = [key for key in engine.backend._caches if key[0] == row]
            assert len(own) <= bound * (1 + nested) + ended, [state.records[s].kind for _, s in own]
    assert most > 1
    assert engine.backend.held_caches == 0


def test_a_segment_that_is_followed_after_it_was_given_up_is_noticed():
    """Rather than going on from the segment before it."""
    lm = hybrid("qwen3_next")
    backend, layout = RecurrentBackend(lm), reread_layout(lm, 2)
    for segment, follows in enumerate(layout.follows[:4]):
        backend.open(0, segment, follows)
    backend.logits(step_of(layout, np.flatnonzero(layout.segment == 0)))
    backend.logits(step_of(layout, np.flatnonzero(layout.segment == 1)))
    backend.keep(0, {1})
    with pytest.raises(AssertionError, match="segment 0 of row 0 is followed after it has been given up"):
        backend.logits(step_of(layout, np.flatnonzero(layout.segment == 2)))


def test_an_aborted_request_frees_its_caches_and_leaves_the_others_alone():
    lm = hybrid("qwen3_5_text")
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out.index_fill(-1, ENDS, -30.0))
    wanted = requests(lm, 3)
    alone = [drawn(r) for r in engine_of(lm).generate(wanted, FLAT, seed=3)]
    engine = engine_of(lm)
    ids = [engine.add(request, FLAT, seed=3) for request in wanted]
    for _ in range(3):
        engine.step()
    assert {key[0] for key in engine.backend._caches} == {0, 1, 2}
    engine.abort(ids[1])
    assert {key[0] for key in engine.backend._caches} == {0, 2}
    found = {}
    while engine.unfinished:
        found |= {e.request: drawn(e.rollout) for e in engine.step() if e.rollout}
    assert found == {ids[0]: alone[0], ids[2]: alone[2]}
    for id in [engine.add(request, FLAT) for request in wanted]:
        engine.step()
        engine.abort(id)
    assert engine.backend.held_caches == 0


def test_a_batch_that_a_branch_has_left_keeps_nothing_alive():
    """The fork point's cache is copied out of its batch, so that the caches of the others in it are freed."""
    lm = hybrid("qwen3_next")
    backend, layout = RecurrentBackend(lm), reread_layout(lm, 3)
    decoded(backend, layout)
    sizes = []
    clear, backend.clear = (
        backend.clear,
        lambda: sizes.extend((key, len(group.members)) for key, (group, _) in backend._caches.items()),
    )
    decoded(backend, layout)
    backend.clear = clear
    assert len(sizes) == len(layout.kinds)  # by hand nothing is given up
    assert all(size == 1 for (_, segment), size in sizes if layout.kinds[segment] != "path")
    backend.keep(0, {3})
    assert set(backend._caches) == {(0, 3)}
    backend.keep(0, ())
    assert (backend.held_caches, backend._follows) == (0, {})


# ---- what is refused ----


def test_structured_is_refused_with_the_reason():
    lm = hybrid("qwen3_next")
    engine = engine_of(lm)
    with pytest.raises(UserError, match=r"folds what it has read .*; use mode: reread .* or mode: sequential"):
        engine.generate(requests(lm, 1), SamplingParams())
    assert engine.unfinished == 0
    with pytest.raises(UserError, match="use mode: reread"):
        engine.backend.open(0, 3, (1, 2))
    with pytest.raises(UserError, match="use mode: reread"):
        engine.backend.check_scaling()


def test_a_model_that_keeps_its_state_to_itself_is_refused():
    """RecurrentGemma writes its state into its layers, where one cannot fork it."""
    lm = family(
        "recurrent_gemma", num_hidden_layers=3, block_types=["recurrent", "recurrent", "attention"], lru_width=32,
        attention_window_size=64,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"fails the fork/join self-check .*returns no cache"):
        Engine(lm)


@pytest.mark.parametrize(("name", "what"), SLOWLY.items())
def test_what_the_kernels_of_a_family_lack_is_said(name, what):
    with pytest.warns(UserWarning, match=f"{name} decodes slowly here, with the {what}, recurrent backend"):
        Engine(hybrid(name))


def test_the_other_backends_refuse_such_a_model():
    for kind in ("flat", "padded"):
        with pytest.raises(UserError, match="fails the fork/join self-check"):
            Engine(hybrid("qwen3_next"), backend=kind)


def test_an_ordinary_model_may_be_run_so_too():
    """The recurrent backend knows no kinds of layers."""
    lm = tiny()
    wanted = requests(lm, 4)
    engine = Engine(lm, backend="recurrent")
    assert [drawn(r) for r in engine.generate(wanted, FLAT)] == [drawn(r) for r in Engine(lm).generate(wanted, FLAT)]


# ---- the self-check ----


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2", "tiny"])
def test_a_leak_between_siblings_fails_the_check(name):
    backend = RecurrentBackend(tiny() if name == "tiny" else hybrid(name))
    check(backend)
    entered = backend.open
    backend.open = lambda row, segment, follows: entered(row, segment, (1,) if segment == 2 else follows)
    with pytest.raises(SelfCheckFailed, match="decoding and one plain forward"):
        check(backend)


def test_a_fork_that_shares_its_state_fails_the_check(monkeypatch):
    """Recurrent states are changed in place: what is not copied is spoilt by the first sibling."""
    monkeypatch.setattr("polythink.engine.backends.recurrent.copied", lambda cache: cache)
    backend = RecurrentBackend(hybrid("qwen3_next"), stacks=False)
    with pytest.raises(SelfCheckFailed):
        check(backend)


def test_nan_fails_the_check():
    lm = hybrid("qwen3_next")
    with torch.no_grad():
        lm.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="fails the fork/join self-check"):
        Engine(lm)


# ---- caches as trees ----


def maker(model):
    """Makes caches of the first rows and tokens of one batch."""
    ids = torch.randint(3, 10, (3, 6), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def make(rows: int, tokens: int):
        with torch.no_grad():
            out = model(input_ids=ids[:rows, :tokens], use_cache=True)
        return next(out[name] for name in ("past_key_values", "cache", "cache_params", "state") if out.get(name))

    return make


@pytest.mark.parametrize("name", EACH)
def test_rows_of_a_cache_are_the_caches_of_the_rows(name):
    make = maker(hybrid(name).model)
    one, three, dims = make(1, 4), make(3, 4), measure(make)
    assert dims.batch
    assert {path[-1] for path in dims.tokens} <= {"keys", "values"}
    again = stack([Row(three, 0, 4)], dims)
    assert signature(again, dims) == signature(one, dims) == signature(three, dims)
    for path, x in tensors_of(again).items():
        assert torch.allclose(x, tensors_of(one)[path], atol=1e-5, rtol=1e-4), path
    joined = stack([Row(three, 1, 4), Row(one, 0, 4)], dims)
    for path, x in tensors_of(joined).items():
        if path in dims.batch:
            dim = dims.batch[path]
            assert torch.equal(x.select(dim, 0), tensors_of(three)[path].select(dim, 1))
            assert torch.equal(x.select(dim, 1), tensors_of(one)[path].select(dim, 0))
    assert type(joined) is type(three)
    shared = {x.data_ptr() for x in tensors_of(three).values() if x.numel()}
    assert not shared & {x.data_ptr() for x in tensors_of(joined).values() if x.numel()}


def test_padding_of_shorter_rows_comes_and_goes():
    make = maker(hybrid("qwen3_next").model)
    dims, short, long = measure(make), make(2, 4), make(1, 6)
    assert dims.may_be_padded
    assert signature(short, dims) == signature(long, dims)
    both = stack([Row(short, 1, 4), Row(long, 0, 6)], dims)
    assert {tuple(x.shape[d] for d in (0, 2)) for x in (tensors_of(both)[p] for p in dims.tokens)} == {(2, 6)}
    for path, x in tensors_of(stack([Row(both, 0, 4)], dims)).items():
        if path in dims.batch:
            assert torch.equal(x[0], tensors_of(short)[path][1]), path


def test_each_dimension_is_found_by_growth():
    def make(rows: int, tokens: int):
        return {"states": [torch.zeros(rows, 4), (torch.ones(3, rows, tokens), torch.tensor(7))], "name": "x"}

    dims = measure(make)
    assert dims.batch == {("states", 0): 0, ("states", 1, 0): 1}
    assert dims.tokens == {("states", 1, 0): 2}
    assert not dims.may_be_padded  # an unknown tensor with a dimension of tokens
    found = tensors_of(stack([Row(make(2, 3), 1, 3)] * 5, dims))
    assert [tuple(x.shape) for x in found.values()] == [(5, 4), (3, 5, 3), ()]
    with pytest.raises(ValueError, match="for 2 and 3 rows or tokens"):
        measure(lambda rows, tokens: [torch.zeros(rows, rows)])


def test_traces_of_other_lengths_run_in_one_forward():
    """After their prompts, four traces that write in lock step take one forward a step, whatever their lengths."""
    lm = hybrid("qwen3_next")
    lm.model.get_output_embeddings().register_forward_hook(lambda module, args, out: out.index_fill(-1, ENDS, -30.0))
    engine = engine_of(lm)
    calls, forward = [], engine.backend._call_model
    engine.backend._call_model = lambda tokens, *rest: (calls.append(len(tokens)), forward(tokens, *rest))[1]
    for request in requests(lm, 4):
        engine.add(request, FLAT.model_copy(update={"max_blocks": 0}), seed=1)
    for _ in range(2):
        engine.step()
    calls.clear()
    live = engine.unfinished
    engine.step()
    assert calls == [live]
    assert live > 1
