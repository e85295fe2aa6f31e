"""The attention written out and PyTorch's kernel are the same function."""

import math

import pytest
import torch

from model.attention import MultiHeadAttention, Rotary, explicit_attention, fused_attention
from model.config import NetworkConfig


def random_tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("causal", "source_length"), [(True, 7), (False, 7), (False, 11)])
def test_explicit_equals_fused_in_values_and_gradients(causal: bool, source_length: int) -> None:
    results = []
    for attend in (explicit_attention, fused_attention):
        query = random_tensor(2, 3, 7, 8, seed=1).requires_grad_()
        key = random_tensor(2, 3, source_length, 8, seed=2).requires_grad_()
        value = random_tensor(2, 3, source_length, 8, seed=3).requires_grad_()
        gathered = attend(query, key, value, causal=causal)
        (gathered * random_tensor(2, 3, 7, 8, seed=4)).sum().backward()
        results.append((gathered, query.grad, key.grad, value.grad))
    for explicit, fused in zip(*results, strict=True):
        torch.testing.assert_close(explicit, fused, atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_bfloat16_and_close() -> None:
    inputs = [random_tensor(2, 3, 7, 8, seed=seed) for seed in (1, 2, 3)]
    exact = explicit_attention(*inputs, causal=True)
    rounded = fused_attention(*(tensor.bfloat16() for tensor in inputs), causal=True)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


def test_attention_weights_drop_out_in_training_only() -> None:
    config = NetworkConfig(vocabulary_size=10, width=16, heads=2, dropout=0.5)
    for kernel in ("explicit", "sdpa"):
        attention = MultiHeadAttention(
            NetworkConfig(vocabulary_size=10, width=16, heads=2, dropout=0.5, attention=kernel), causal=True
        )
        hidden = random_tensor(1, 8, config.width, seed=5)
        torch.manual_seed(0)
        assert not torch.equal(attention(hidden), attention(hidden))
        attention.eval()
        assert torch.equal(attention(hidden), attention(hidden))


def test_turned_vectors_know_their_distance_and_nothing_else() -> None:
    rotary = Rotary(64, 8)
    query, key = random_tensor(8, seed=1), random_tensor(8, seed=2)
    turned_query, turned_key = (rotary(one.expand(1, 1, 64, 8))[0, 0] for one in (query, key))
    scores = turned_query @ turned_key.T  # [64, 64]: by the places of both
    for distance in (0, 1, 13):
        same = scores.diagonal(distance)
        torch.testing.assert_close(same, same[0].expand_as(same), atol=1e-4, rtol=1e-4)
    assert scores[0, 0] == pytest.approx(float(query @ key), abs=1e-5)
    assert not torch.allclose(scores[0, 1], scores[0, 5])
    torch.testing.assert_close(turned_query.norm(dim=-1), query.norm().expand(64))


def test_rotary_positions_are_those_of_the_paper() -> None:
    """Equation 34 of Su et al. 2021, with numbers i and i + d/2 in the place of 2i and 2i + 1."""
    turned = Rotary(5, 4)(torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 5, 4))[0, 0, 3]
    fast, slow = 3.0, 3.0 / 100
    expected = [
        math.cos(fast) - 3 * math.sin(fast), 2 * math.cos(slow) - 4 * math.sin(slow),
        3 * math.cos(fast) + math.sin(fast), 4 * math.cos(slow) + 2 * math.sin(slow),
    ]  # fmt: skip
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_scores_of_normed_queries_and_keys_are_bounded() -> None:
    config = NetworkConfig(vocabulary_size=10, width=16, heads=2, query_key_norm=True, attention="explicit")
    attention = MultiHeadAttention(config, causal=True)
    hidden = random_tensor(1, 8, 16, seed=5)
    torch.testing.assert_close(attention(hidden), attention(hidden), atol=0, rtol=0)
    attention.query.weight.data *= 1000  # without the norm each position would see one other alone
    before = attention(hidden)
    attention.query.weight.data *= 1000
    torch.testing.assert_close(attention(hidden), before)
