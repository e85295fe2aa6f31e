"""Muon: PyTorch's, but for many matrices at once, and for updates that are left out."""

import pytest
import torch
from torch import nn

from model.muon import Muon, orthogonal

SHAPES = [(16, 16), (16, 16), (64, 16), (16, 64), (64, 16)]


def matrices() -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [(str(i), nn.Parameter(torch.randn(shape, generator=generator))) for i, shape in enumerate(SHAPES)]


def give_gradients(named: list[tuple[str, nn.Parameter]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_it_does_what_pytorchs_does(weight_decay: float) -> None:
    ours, theirs = matrices(), matrices()
    our = Muon(ours, learning_rate=0.02, momentum=0.95, weight_decay=weight_decay)
    their = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=weight_decay)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        our.step()
        their.step()
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5e-4, rtol=0)  # bfloat16 inside, in another order
        torch.testing.assert_close(our.state[one]["momentum_buffer"], their.state[other]["momentum_buffer"])


@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf])
def test_an_update_that_is_left_out_changes_nothing(value: float) -> None:
    named = matrices()
    optimizer = Muon(named, learning_rate=0.02, momentum=0.95, weight_decay=0.3)
    give_gradients(named, 0)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    weights = [parameter.detach().clone() for _, parameter in named]
    buffers = [optimizer.state[parameter]["momentum_buffer"].clone() for _, parameter in named]
    for _, parameter in named:
        parameter.grad = torch.full(parameter.shape, value)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for (_, parameter), weight, buffer in zip(named, weights, buffers, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], buffer)


def test_orthogonal_keeps_the_directions_and_gives_them_one_length() -> None:
    given = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    for matrix, found in zip(given, orthogonal(given).float(), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        lengths = (u.T @ found @ v.T).diagonal()
        assert lengths.min() > 0.6
        assert lengths.max() < 1.3
    tall = orthogonal(given.mT)
    torch.testing.assert_close(tall, orthogonal(given).mT)
