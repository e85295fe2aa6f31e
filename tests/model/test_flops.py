"""Arithmetic is counted as it is said to be, and a device that is not known gives no number."""

import pytest

from model.config import NetworkConfig, preset
from model.flops import flops_per_token, peak_flops, utilisation
from model.network import build_network


@pytest.mark.parametrize("name", ["pocket", "baby", "modern"])
def test_operations_are_six_for_each_weight_of_a_matrix_and_those_of_attention(name: str) -> None:
    config = preset(name, vocabulary_size=300, depth=2 if name == "modern" else None).network
    network = build_network(config, seed=1)
    multiplied = [
        weight.numel()
        for place, weight in network.named_parameters()
        if weight.dim() == 2 and (place.startswith("blocks.") or place == "head.weight")
    ]
    if config.tied_head:
        multiplied.append(config.vocabulary_size * config.width)
    expected = 6 * sum(multiplied) + 12 * config.layers * config.block_size * config.width
    assert flops_per_token(config) == expected


def test_gpt2_has_the_published_figure() -> None:
    """nanoGPT's estimate_mfu: 6 N + 12 L H Q T, with N all weights but the positions."""
    config = preset("gpt2", vocabulary_size=50257).network
    assert flops_per_token(config) == pytest.approx(
        6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024, rel=1e-3
    )


def test_a_table_multiplies_nothing() -> None:
    assert flops_per_token(NetworkConfig(kind="bigram", vocabulary_size=300)) == 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4e12), ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12), ("NVIDIA GeForce RTX 4090", 165.2e12), ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("AMD EPYC", None), ("", None),
    ],
)  # fmt: skip
def test_peaks_are_those_of_devices_that_are_known(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_utilisation_is_a_share_of_the_peak() -> None:
    config = preset("gpt2", vocabulary_size=50257).network
    assert utilisation(989.4e12 / flops_per_token(config), config, "NVIDIA H200") == pytest.approx(1)
    assert utilisation(489_700, config, "NVIDIA H200") == pytest.approx(0.42, abs=0.01)  # the published log's
    assert utilisation(1e9, config, "a device of tomorrow") is None
