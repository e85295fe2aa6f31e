"""Owns what keeps numbers in bounds between the parts of a network."""

from torch import nn

from model.config import NetworkConfig


def norm_of(config: NetworkConfig) -> nn.Module:
    """The norm over the width that a config asks for.

    "layer" (Ba, Kiros and Hinton 2016, arXiv:1607.06450) moves the mean to 0 and the deviation to 1, then scales and perhaps
    shifts by what is learned. "rms" (Zhang and Sennrich 2019, arXiv:1910.07467) divides by the root of the mean square, and
    learns nothing here: the matrix that follows can scale as well.
    """
    if config.norm_kind == "rms":
        return unit_length(config.width)
    return nn.LayerNorm(config.width, bias=config.bias)


def unit_length(width: int) -> nn.RMSNorm:
    """Gives vectors of `width` numbers a mean square of 1, in every precision: PyTorch's own epsilon is 0.008 in bfloat16."""
    return nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
