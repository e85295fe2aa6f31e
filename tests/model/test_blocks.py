"""A block normalises where its config says, and bends as its config says."""

import pytest
import torch

from model.blocks import Block, FeedForward
from model.config import NetworkConfig
from model.norms import norm_of


def config(**changes: object) -> NetworkConfig:
    return NetworkConfig(**({"vocabulary_size": 10, "width": 16, "heads": 2} | changes))  # type: ignore[arg-type]


def test_post_norm_normalises_the_sum_and_pre_norm_leaves_the_residual_alone() -> None:
    hidden = 100 * torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    post = Block(config(norm="post"), causal=True)(hidden)
    torch.testing.assert_close(post.std(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=1e-3)
    pre = Block(config(norm="pre"), causal=True)(hidden)
    assert (pre - hidden).abs().max() < 0.1 * hidden.abs().max()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("gelu", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        ("relu_squared", lambda x: torch.where(x > 0, x * x, 0 * x)),
    ],
)
def test_the_activations_of_the_course(name: str, function: torch.nn.Module) -> None:
    feed_forward = FeedForward(config(activation=name))
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    expected = function(hidden @ feed_forward.expand.weight.T) @ feed_forward.projection.weight.T
    torch.testing.assert_close(feed_forward(hidden), expected)


def test_an_rms_norm_leaves_the_direction_and_learns_nothing() -> None:
    norm = norm_of(config(norm_kind="rms"))
    hidden = 5 + torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    expected = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(hidden), expected)
    small = (0.01 * hidden).bfloat16()
    torch.testing.assert_close(norm(small).float(), expected, atol=0.02, rtol=0.02)
    assert not list(norm.parameters())


def test_cross_attention_reads_the_memory() -> None:
    block = Block(config(), causal=True, cross_attention=True)
    hidden, memory = torch.randn(1, 4, 16), torch.randn(1, 6, 16)
    assert not torch.allclose(block(hidden, memory), block(hidden, memory + torch.randn(1, 6, 16)))
