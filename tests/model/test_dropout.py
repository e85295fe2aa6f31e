"""Dropout: how much it leaves out, that what is left weighs more, and that a seed means the same numbers."""

import pytest
import torch

from model.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_left_out_and_the_sum_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(400, 1001, dtype=dtype), share)
    assert dropped.dtype == dtype
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(dropped.float().mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5), (0, 4)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_no_two_numbers_share_their_fate() -> None:
    """Neighbours come from one 64-bit word; all 16 fates of four must come as often."""
    torch.manual_seed(1)
    kept = dropout(torch.ones(100_000, 4), 0.5) > 0
    fates = (kept * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16)
    expected = 100_000 / 16
    assert (
        float(((fates - expected) ** 2 / expected).sum()) < 37.7
    )  # chi-squared, 15 degrees of freedom, p = 0.001


def test_a_seed_repeats_it_and_the_gradient_goes_where_the_numbers_went() -> None:
    numbers = torch.randn(7, 9, requires_grad=True)
    torch.manual_seed(2)
    first = dropout(numbers, 0.3)
    torch.manual_seed(2)
    assert torch.equal(dropout(numbers, 0.3), first)
    first.sum().backward()
    assert numbers.grad is not None
    torch.testing.assert_close(numbers.grad * numbers, first)


def test_transposed_numbers_are_dropped_where_they_stand() -> None:
    numbers = torch.arange(1.0, 1001).view(10, 100).T
    dropped = dropout(numbers, 0.5)
    torch.testing.assert_close(dropped[dropped != 0], 2 * numbers[dropped != 0])


def test_nothing_is_dropped_outside_training_nor_at_a_share_of_zero() -> None:
    numbers = torch.randn(5, 5)
    assert Dropout(0.5).eval()(numbers) is numbers
    assert Dropout(0.0).train()(numbers) is numbers
