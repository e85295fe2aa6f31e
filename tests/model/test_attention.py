"""The attention written out and PyTorch's kernel are the same function."""

import pytest
import torch

from model.attention import MultiHeadAttention, explicit_attention, fused_attention
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
