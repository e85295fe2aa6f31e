"""Scores of continuations are the network's own probabilities, however the pairs are put together."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.config import NetworkConfig
from model.network import LanguageModel, build_network
from model.scoring import score_continuations

CONFIG = NetworkConfig(vocabulary_size=20, block_size=8, layers=1, heads=2, width=16)


@pytest.fixture(scope="module")
def network() -> LanguageModel:
    network = build_network(CONFIG, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10)
    return network


def by_hand(network: LanguageModel, context: list[int], continuation: list[int]) -> float:
    """-ln p, token by token; all fits one window."""
    nats, ids = 0.0, list(context)
    for token in continuation:
        with torch.no_grad():
            logits = network.eval()(torch.tensor([ids]))[0, -1].double()
        nats -= float(functional.log_softmax(logits, dim=-1)[token])
        ids.append(token)
    return nats


def test_each_score_is_the_definition_whatever_stands_beside_it(network: LanguageModel) -> None:
    pairs = [([1, 2, 3], [4, 5]), ([7], [1, 2, 3, 4, 5, 6, 7]), ([9, 9], []), ([3, 1, 4, 1, 5], [9])]
    together = list(score_continuations(network, pairs))
    for pair, score in zip(pairs, together, strict=True):
        assert score.nats == pytest.approx(by_hand(network, *pair), abs=1e-4)
        assert score.tokens == len(pair[1])
        (alone,) = score_continuations(network, [pair])
        assert alone.nats == pytest.approx(score.nats, abs=1e-4)


def test_a_long_context_is_cut_in_front(network: LanguageModel) -> None:
    context = np.arange(19).tolist()
    (score,) = score_continuations(network, [(context, [5, 6])])
    assert score.nats == pytest.approx(by_hand(network, context[-7:], [5, 6]), abs=1e-4)


def test_a_continuation_longer_than_the_window_is_scored_whole(network: LanguageModel) -> None:
    continuation = np.random.default_rng(0).integers(0, 20, 21).tolist()
    (score,) = score_continuations(network, [([2], continuation)])
    ids = [2, *continuation]
    pieces = [(1, 9), (9, 17), (17, 22)]  # targets of each window, read from up to 8 ids
    expected = 0.0
    for begin, end in pieces:
        read = ids[max(0, end - 9) : end - 1]
        with torch.no_grad():
            logits = network.eval()(torch.tensor([read]))[0].double()
        scored = functional.log_softmax(logits[len(read) - (end - begin) :], dim=-1)
        expected -= float(scored[range(end - begin), ids[begin:end]].sum())
    assert score.nats == pytest.approx(expected, abs=1e-4)
    assert score.tokens == 21


def test_the_likeliest_continuation_knows_that_it_is(network: LanguageModel) -> None:
    ids = [1, 2]
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(network.eval()(torch.tensor([ids]))[0, -1].argmax()))
    best, other = score_continuations(network, [([1, 2], ids[2:]), ([1, 2], [*ids[2:4], (ids[4] + 1) % 20])])
    assert best.is_likeliest
    assert not other.is_likeliest


def test_an_empty_context_is_refused(network: LanguageModel) -> None:
    with pytest.raises(ValueError, match="context is empty"):
        list(score_continuations(network, [([], [1])]))
