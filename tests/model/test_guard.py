"""Which updates are left out: those of no number, and spikes; and no others."""

import math

import pytest
import torch

from model.guard import WINDOW_STEPS, Guard

CPU = torch.device("cpu")


def skips(guard: Guard, loss: float, gradient_norm: float = 1.0) -> int:
    return int(guard.skips(torch.tensor(loss), torch.tensor(gradient_norm)))


def seasoned(steps: int = WINDOW_STEPS, deviations: float = 6.0) -> Guard:
    """A guard that has seen losses about 3 with a deviation of 0.1, and gradient norms about 1 with one of 0.01."""
    guard, generator = Guard(deviations, CPU), torch.Generator().manual_seed(0)
    for noise in torch.randn(steps, generator=generator).tolist():
        assert skips(guard, 3 + noise / 10, 1 + noise / 100) == 0
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_left_out_from_the_first_step_on(value: float) -> None:
    assert skips(Guard(6.0, CPU), value) == 1
    assert skips(Guard(0.0, CPU), 3.0, value) == 1


@pytest.mark.parametrize("steps", [64, 127, 128, 129, 500])
def test_a_spike_of_either_is_left_out(steps: int) -> None:
    assert skips(seasoned(steps), 3.5) == 0
    assert skips(seasoned(steps), 3.9) == 1
    assert skips(seasoned(steps), 3.0, 1.09) == 0
    assert skips(seasoned(steps), 3.0, 1.15) == 1
    assert skips(seasoned(steps), 0.1, 0.001) == 0, "below is no spike"


def test_there_are_no_spikes_before_half_a_window_and_without_a_limit() -> None:
    assert skips(seasoned(63), 1e6) == 0
    assert skips(seasoned(deviations=0.0), 1e6) == 0


def test_one_spike_does_not_hide_the_next() -> None:
    guard = seasoned()
    assert [skips(guard, 1000.0), skips(guard, 3.0), skips(guard, 10.0), skips(guard, 3.0)] == [1, 0, 1, 0]


def test_they_are_counted_in_a_row() -> None:
    guard = seasoned()
    assert [skips(guard, value) for value in (math.nan, 9.0, math.inf, 3.0, math.nan)] == [1, 2, 3, 0, 1]


def test_a_falling_loss_and_a_constant_one_are_none() -> None:
    falling, constant = Guard(6.0, CPU), [Guard(6.0, CPU) for _ in range(20)]
    for step in range(300):
        assert skips(falling, 1 + 9 * math.exp(-step / 30)) == 0
        assert all(skips(one, 0.1 * number, 0.7) == 0 for number, one in enumerate(constant))


def test_it_goes_on_from_its_tensors() -> None:
    first, second = seasoned(200), Guard(6.0, CPU)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    for value in (3.1, math.nan, 8.0, 2.9, 3.5):
        assert skips(first, value) == skips(second, value)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
