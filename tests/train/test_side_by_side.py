"""Micro-batches in threads of their own: the very gradients of one after another, and only where that is so."""

from __future__ import annotations

import threading

import pytest
import torch

from helpers.tiny import family as tiny_family
from helpers.training import PROMPT, gradients, make_lm, mixture, same_bits, sft_config, weights_of, without_times
from polythink.run.jsonl import read_jsonl
from polythink.train import sft
from polythink.train.sft import accumulate_gradient, train_sft
from polythink.train.side_by_side import add_gradients, side_by_side


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("autocast", [False, True])
def test_loss_and_gradient_are_those_of_one_thread_to_the_last_bit(lm, mini, autocast):
    config = sft_config(micro_batch=4, autocast=autocast)  # three parts for two threads
    layouts, found = mixture(lm, config, mini).batch(0), []
    with side_by_side(lm.model, config) as pool:
        assert pool is not None
        assert torch.get_num_threads() == 1
        for own in (pool, None):
            lm.model.zero_grad(set_to_none=True)
            for _ in range(2):  # gradients add up
                loss, tokens = accumulate_gradient(lm, config, layouts, None, own)
            found.append((loss, tokens, gradients(lm.model).clone()))
    lm.model.zero_grad(set_to_none=True)
    assert torch.get_num_threads() == 2
    assert found[0][:2] == found[1][:2]
    assert torch.equal(found[0][2], found[1][2])


def test_a_stage_computes_the_same_with_one_core_and_with_two(mini, tmp_path):
    weights, rows = [], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        lm, config = make_lm(), sft_config(micro_batch=6, steps=3)
        train_sft(lm, config, mixture(lm, config, mini), tmp_path / str(threads), prompt=PROMPT)
        weights.append(weights_of(lm.model))
        rows.append(without_times(read_jsonl(tmp_path / str(threads) / "metrics.jsonl")))
        assert torch.get_num_threads() == threads
    assert same_bits(*weights)
    assert rows[0] == rows[1]


def test_parts_run_at_the_same_time_in_threads_of_one_core_each(lm):
    both, weight = threading.Barrier(2, timeout=60), next(lm.model.parameters())

    def loss() -> torch.Tensor:
        both.wait()
        assert torch.get_num_threads() == 1
        return weight.sum()

    with side_by_side(lm.model, sft_config(micro_batch=6)) as pool:
        lm.model.zero_grad(set_to_none=True)
        add_gradients(pool, lm.model, [loss, loss])
        assert torch.equal(weight.grad, torch.full_like(weight, 2.0))
        lm.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("changes", [{"micro_batch": 12}, {"pack": 150}])
def test_where_it_would_not_pay_or_not_be_the_same_all_cores_take_each_part(lm, changes):
    with side_by_side(lm.model, sft_config(**changes)) as pool:
        assert pool is None
        assert torch.get_num_threads() == 2


def test_products_that_are_long_enough_are_shared_out_and_gradients_held_once():
    wide = tiny_family("llama", hidden_size=384, intermediate_size=512)
    with side_by_side(wide.model, sft_config()) as pool:
        assert pool is None


def test_rows_that_go_through_the_module_are_not_taken_in_two_threads(lm, mini, monkeypatch):
    config, threads = sft_config(micro_batch=4), set()
    layouts = mixture(lm, config, mini).batch(0)
    monkeypatch.setattr(sft, "LONGEST", max(map(len, layouts)) - 1)
    score = sft.token_logprobs
    monkeypatch.setattr(
        sft, "token_logprobs", lambda *given, **more: threads.add(threading.get_ident()) or score(*given, **more)
    )
    with side_by_side(lm.model, config) as pool:
        accumulate_gradient(lm, config, layouts, None, pool)
        assert threads == {threading.get_ident()}
        monkeypatch.setattr(sft, "LONGEST", max(map(len, layouts)))
        accumulate_gradient(lm, config, layouts, None, pool)
    assert len(threads) > 1
    lm.model.zero_grad(set_to_none=True)


def test_a_model_that_is_trained_by_its_own_forward_is_not_called_in_two_threads(lm):
    handle = lm.model.model.layers[0].register_forward_hook(lambda *given: None)
    with side_by_side(lm.model, sft_config()) as pool:
        assert pool is None
    handle.remove()


def test_an_error_in_a_part_is_raised(lm):
    def fails() -> torch.Tensor:
        raise RuntimeError("told")

    with side_by_side(lm.model, sft_config()) as pool, pytest.raises(RuntimeError, match="told"):
        add_gradients(pool, lm.model, [fails, fails])
    assert torch.get_num_threads() == 2
