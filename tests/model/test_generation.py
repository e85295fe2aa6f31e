"""Sampling does what its settings say, repeats by seed, and disturbs nobody."""

from collections import Counter
from typing import Any

import pytest
import torch

from model.config import NetworkConfig
from model.generation import generate
from model.network import LanguageModel, build_network

CONFIG = NetworkConfig(vocabulary_size=30, block_size=8, layers=1, heads=2, width=32, dropout=0.5)


class Fixed(LanguageModel):
    """Always the same probabilities: 0.5, 0.3, 0.15, 0.05."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(kind="bigram", vocabulary_size=4, block_size=8))
        self.probabilities = torch.nn.Parameter(torch.tensor([0.3, 0.5, 0.05, 0.15]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.probabilities.log().expand(*ids.shape, 4)


def shares(**settings: Any) -> dict[int, float]:
    counts = Counter(generate(Fixed(), [0], tokens=2_000, **settings))
    return {token: count / 2_000 for token, count in counts.items()}


def test_temperature_1_samples_what_the_network_believes() -> None:
    assert shares(temperature=1.0) == pytest.approx({0: 0.3, 1: 0.5, 2: 0.05, 3: 0.15}, abs=0.04)


def test_temperature_sharpens_and_flattens() -> None:
    assert shares(temperature=0.5)[1] > 0.6
    assert shares(temperature=100.0)[2] > 0.2
    assert shares(temperature=0.0) == {1: 1.0}


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    assert set(shares(temperature=1.0, top_k=2)) == {0, 1}
    assert set(shares(temperature=1.0, top_k=99)) == {0, 1, 2, 3}
    assert set(shares(temperature=1.0, top_p=0.01)) == {1}
    assert set(shares(temperature=1.0, top_p=0.9)) == {0, 1, 3}
    assert set(shares(temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}


def test_a_seed_repeats_and_the_global_generator_is_left_alone() -> None:
    network = build_network(CONFIG, seed=1).train()
    state = torch.get_rng_state()
    first, again, other = (list(generate(network, [1, 2], tokens=20, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training


def test_it_streams_and_goes_on_beyond_the_context() -> None:
    network = build_network(CONFIG, seed=1)
    stream = generate(network, list(range(20)), tokens=30, temperature=0.0)
    assert isinstance(next(stream), int)
    assert len(list(stream)) == 29
    cropped = list(generate(network, list(range(12, 20)), tokens=30, temperature=0.0))
    assert cropped == list(generate(network, list(range(20)), tokens=30, temperature=0.0))


def test_the_stop_id_ends_the_text_and_is_not_part_of_it() -> None:
    written = list(generate(Fixed(), [0], tokens=500, temperature=1.0, stop_id=2))
    assert 2 not in written
    assert len(written) < 500
    assert list(generate(Fixed(), [0], tokens=0)) == []


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "the prompt is empty; start from the end-of-text id"),
        ([4], {}, "outside the network's vocabulary of 4"),
        ([-1], {}, "outside"),
        ([0.5], {}, "outside"),
        ([0], {"tokens": -1}, "tokens is -1"),
        ([0], {"temperature": -0.1}, "temperature is -0.1"),
        ([0], {"temperature": float("nan")}, "temperature is nan"),
        ([0], {"top_k": 0}, "top_k is 0"),
        ([0], {"top_p": 0.0}, "top_p is 0.0"),
        ([0], {"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_at_once(
    prompt: list[float], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(Fixed(), prompt, **({"tokens": 1} | settings))
