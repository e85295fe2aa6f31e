"""What moves which weights, how far, and when."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.config import NetworkConfig, TrainingConfig
from model.network import build_network
from model.optimizers import Optimizers, learning_rate_share_at

NETWORK = NetworkConfig(vocabulary_size=40, block_size=16, layers=2, heads=2, width=32, bias=True)


def moved(config: TrainingConfig, *, share: float = 1.0) -> dict[str, torch.Tensor]:
    """How far each weight goes in a first step, with a gradient of random numbers."""
    network = build_network(NETWORK, seed=1)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    Optimizers(network, config).step(share, is_skipped=torch.tensor(False))
    assert all(weight.grad is None for weight in network.parameters())
    return {name: weight.detach() - before[name] for name, weight in network.named_parameters()}


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_all_else() -> None:
    plain = TrainingConfig(learning_rate=1e-3, minimum_learning_rate=0.0, weight_decay=0.0)
    by_adamw = moved(plain)
    by_both = moved(replace(plain, optimizer="muon", matrix_learning_rate=0.5))
    for name, step in by_both.items():
        if name.startswith("blocks.") and step.dim() == 2:
            size = torch.linalg.svdvals(step / 0.5) / max(1.0, step.shape[0] / step.shape[1]) ** 0.5
            assert size.max() < 1.5, "no direction is stretched more than another"
            assert size.median() > 0.5
        else:
            assert torch.equal(step, by_adamw[name]), name
            assert step.abs().max() == pytest.approx(1e-3, rel=1e-3), (
                "a first step of AdamW is the rate itself"
            )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_share_is_of_every_learning_rate(optimizer: str) -> None:
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.0)  # type: ignore[arg-type]
    whole, half = moved(config), moved(config, share=0.5)
    for name, step in whole.items():
        torch.testing.assert_close(half[name], step / 2, atol=1e-6, rtol=1e-3)


def test_norms_and_biases_do_not_decay() -> None:
    config = TrainingConfig(weight_decay=0.5)
    without, decayed = moved(replace(config, weight_decay=0.0)), moved(config)
    for name, step in decayed.items():
        has_decayed = not torch.equal(step, without[name])
        assert has_decayed == (step.dim() >= 2), name


def test_learning_rate_warms_up_and_then_falls_along_a_cosine() -> None:
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, minimum_learning_rate=0.1)
    shares = [learning_rate_share_at(step, config) for step in range(110)]
    assert shares[0] == pytest.approx(1 / 11)
    assert shares[9] == pytest.approx(10 / 11)
    assert shares[10] == 1.0
    assert shares[60] == pytest.approx(0.55)
    assert shares[109] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate_share_at(3, replace(config, steps=4, warmup_steps=8)) < 1  # only warm-up


def test_a_stable_learning_rate_falls_at_the_end_alone_whatever_the_length() -> None:
    config = TrainingConfig(
        steps=100,
        warmup_steps=10,
        learning_rate=2.0,
        minimum_learning_rate=0.2,
        schedule="stable",
        decay_share=0.2,
    )
    shares = [learning_rate_share_at(step, config) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert set(shares[10:81]) == {1.0}
    assert shares[90] == pytest.approx(0.1 + 0.9 * 0.5)
    assert shares[99] == pytest.approx(0.1 + 0.9 * 0.05)
    longer = replace(config, steps=1000)
    assert shares[:81] == [learning_rate_share_at(step, longer) for step in range(81)]
    assert learning_rate_share_at(99, replace(config, decay_share=0.0)) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_kept_has_the_names_and_shapes_that_are_expected(optimizer: str) -> None:
    network = build_network(NETWORK, seed=1)
    optimizers = Optimizers(network, TrainingConfig(optimizer=optimizer))  # type: ignore[arg-type]
    assert optimizers.tensors() == {}
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    optimizers.step(1.0, is_skipped=torch.tensor(False))
    kept, expected = optimizers.tensors(), optimizers.expected()
    assert kept.keys() == expected.keys()
    assert [one.shape for one in kept.values()] == [one.shape for one in expected.values()]


def test_a_network_without_blocks_has_no_matrices_for_muon() -> None:
    table = build_network(replace(NETWORK, kind="bigram"), seed=1)
    optimizers = Optimizers(table, TrainingConfig(optimizer="muon"))
    assert isinstance(table, nn.Module)
    assert {name.rsplit(".", 1)[1] for name in optimizers.expected()} == {"step", "exp_avg", "exp_avg_sq"}
