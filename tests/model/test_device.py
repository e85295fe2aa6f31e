"""Devices and precisions are chosen by what is there; random numbers are borrowed and given back."""

import pytest
import torch

from model.config import NetworkConfig
from model.device import autocast, choose_device, choose_precision, random_numbers_of

CPU = torch.device("cpu")


def test_auto_takes_a_device_that_is_there() -> None:
    assert choose_device("cpu") == CPU
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == best


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no device 'cuda'.*training.device=auto"):
        choose_device("cuda")


def test_precision_is_what_was_asked_for_or_what_pays() -> None:
    narrow = NetworkConfig(vocabulary_size=10, width=8)
    wide = NetworkConfig(vocabulary_size=10, width=4096)
    table = NetworkConfig(kind="bigram", vocabulary_size=10)
    assert choose_precision(CPU, "bfloat16", network=narrow) == "bfloat16"
    assert choose_precision(CPU, "float32", network=wide) == "float32"
    assert choose_precision(CPU, "auto", network=narrow) == "float32"
    assert choose_precision(CPU, "auto", network=table) == "float32"
    assert choose_precision(torch.device("mps"), "auto", network=wide) == "float32"


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_autocast_multiplies_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_random_numbers_are_a_function_of_seed_and_step() -> None:
    def drawn(seed: int, step: int) -> list[float]:
        with random_numbers_of(CPU, seed, step):
            return torch.rand(4).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(*pair)) for pair in ((1, 2), (2, 1), (1, 3), (0, 0))}) == 4


def test_the_global_generator_goes_on_untouched() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    with random_numbers_of(CPU, 1, 1):
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_has_random_numbers_of_its_own() -> None:
    cuda = choose_device("cuda")
    torch.manual_seed(7)
    expected = torch.rand(4, device=cuda)
    torch.manual_seed(7)
    with random_numbers_of(cuda, 1, 1):
        first = torch.rand(4, device=cuda)
    assert torch.equal(torch.rand(4, device=cuda), expected)
    with random_numbers_of(cuda, 1, 1):
        assert torch.equal(torch.rand(4, device=cuda), first)
