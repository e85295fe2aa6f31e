"""Owns dropout: numbers left out at random while a network learns, so that it comes to rely on no single one."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_BITS: Final = 16


class Dropout(nn.Module):
    """Leaves numbers out in training, and does nothing otherwise."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, numbers: Tensor) -> Tensor:
        """Of any shape, number by number."""
        return dropout(numbers, self.share) if self.training else numbers


def dropout(numbers: Tensor, share: float) -> Tensor:
    """Sets a random `share` of the numbers to 0, and enlarges the others so that their sum stays what it was on average.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting". Draws from PyTorch's global
    generator of the device. On the CPU `share` is rounded to a whole number of 65,536ths.
    """
    if share == 0:
        return numbers
    if numbers.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(numbers, share)
    # PyTorch draws 64 bits for each number on a CPU: a quarter of baby's time. 16 do as well.
    dropped = round(share * 2**_BITS)
    kept = torch.ge(_random_bits(numbers.shape), dropped - 2 ** (_BITS - 1), out=torch.empty_like(numbers))
    return (numbers * kept).mul_(2**_BITS / (2**_BITS - dropped))


def _random_bits(shape: torch.Size) -> Tensor:
    """Every int16 equally likely."""
    count = shape.numel()
    words = torch.empty(-(-count * _BITS // 64), dtype=torch.int64)
    return words.random_(-(2**63), None).view(torch.int16)[:count].view(shape)
