"""Every token of a split counts exactly once, whatever the batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.config import NetworkConfig
from model.evaluation import estimate_loss, evaluate, final_report
from model.network import LanguageModel, build_network

CONFIG = NetworkConfig(vocabulary_size=30, block_size=16, layers=1, heads=2, width=32, dropout=0.5)
TOKENS = np.random.default_rng(0).integers(0, 29, 1_003).astype(np.uint16)
END = 29


def sharp_network() -> LanguageModel:
    """Weights far larger than at first, so that a wrong pairing of inputs and targets shows."""
    network = build_network(replace(CONFIG, tied_head=False), seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10)
    return network


@torch.no_grad()
def loss_one_by_one(network: LanguageModel, tokens: np.ndarray) -> float:
    """The definition, in a plain loop: each window starts anew, each token is predicted from those before."""
    network.eval()
    nats, inputs = 0.0, np.concatenate([[END], tokens[:-1]])
    for position, token in enumerate(tokens):
        window = position // CONFIG.block_size * CONFIG.block_size
        context = torch.from_numpy(inputs[window : position + 1].astype(np.int64))
        logits = network(context[None])[0, -1].double()
        nats -= float(functional.log_softmax(logits, dim=-1)[int(token)])
    return nats / len(tokens)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 203])
def test_the_loss_is_the_definition(length: int) -> None:
    network = sharp_network()
    report = final_report(evaluate(network, TOKENS[:length], end_of_text=END, text_bytes=length))
    assert report.loss == pytest.approx(loss_one_by_one(network, TOKENS[:length]), abs=1e-5)
    assert report.tokens == length


def test_the_batch_size_does_not_matter() -> None:
    network = sharp_network()
    losses = [
        final_report(evaluate(network, TOKENS, end_of_text=END, text_bytes=1, batch_size=size)).loss
        for size in (1, 2, 7, 62, 63, 1000, None)
    ]
    assert max(losses) - min(losses) < 1e-6


def test_the_report_agrees_with_itself() -> None:
    report = final_report(evaluate(sharp_network(), TOKENS, end_of_text=END, text_bytes=2_000))
    assert report.perplexity == pytest.approx(math.exp(report.loss))
    assert report.bits_per_byte == pytest.approx(report.loss * 1_003 / math.log(2) / 2_000)


def test_progress_reaches_the_end_and_only_the_last_has_the_report() -> None:
    progress = list(evaluate(sharp_network(), TOKENS, end_of_text=END, text_bytes=1, batch_size=20))
    assert [item.tokens_done for item in progress] == [320, 640, 960, 992, 1_003]
    assert {item.tokens_total for item in progress} == {1_003}
    assert [item.report is not None for item in progress] == [False, False, False, False, True]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept_even_if_nobody_reads_on(training: bool) -> None:
    network = build_network(CONFIG, seed=1).train(training)
    next(iter(evaluate(network, TOKENS, end_of_text=END, text_bytes=1, batch_size=1)))
    estimate_loss(network, TOKENS, windows=2)
    assert network.training == training


def test_the_estimate_is_deterministic_and_near() -> None:
    network = sharp_network().train()
    estimate = estimate_loss(network, TOKENS, windows=62)
    assert estimate == estimate_loss(network, TOKENS, windows=62)
    exact = final_report(evaluate(network, TOKENS, end_of_text=END, text_bytes=1)).loss
    assert estimate == pytest.approx(exact, rel=0.05)
    shorter_than_a_window = final_report(
        evaluate(network, TOKENS[1:5], end_of_text=TOKENS[0], text_bytes=1)
    ).loss
    assert estimate_loss(network, TOKENS[:5], windows=1) == pytest.approx(shorter_than_a_window)


def test_nothing_to_predict_is_refused_at_once() -> None:
    network = build_network(CONFIG, seed=1)
    with pytest.raises(ValueError, match="0 tokens"):
        evaluate(network, TOKENS[:0], end_of_text=END, text_bytes=1)
    with pytest.raises(ValueError, match="0 bytes"):
        evaluate(network, TOKENS, end_of_text=END, text_bytes=0)
    with pytest.raises(ValueError, match="too few"):
        estimate_loss(network, TOKENS[:1])
    with pytest.raises(ValueError, match="id 30"):
        final_report(evaluate(network, TOKENS + 2, end_of_text=END, text_bytes=1))
