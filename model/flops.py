"""Owns how much arithmetic a training is, and which share of a device's that makes: model FLOPs utilisation, MFU.

The convention is that of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): a token takes 6 operations for each weight
that it is multiplied with, and 12 x layers x block_size x width for its attention, as if it saw the whole window; what is done
twice to save memory does not count. The peak is the device's for dense matrices in bfloat16.
"""

import re
from typing import Final

from model.config import NetworkConfig

#: Operations a second of dense bfloat16 matrices, from NVIDIA's data sheets, by a pattern of the device's name.
PEAK_FLOPS: Final = (
    (r"\bB200\b", 2250e12),
    (r"\bH200\b", 989.4e12),
    (r"\bH100\b(?!.*\b(PCIe|NVL)\b)", 989.4e12),
    (r"\bH100\b.*\bNVL\b", 835.5e12),
    (r"\bH100\b.*\bPCIe\b", 756e12),
    (r"\bA100\b", 312e12),
    (r"\bL4\b", 121e12),
    (r"\bRTX 4090\b(?! (D|Laptop))", 165.2e12),
)


def flops_per_token(config: NetworkConfig) -> int:
    """Operations that one token takes forward and backward, by the convention above; 0 for a table, which multiplies nothing."""
    if config.kind == "bigram":
        return 0
    attention_and_feed_forward = 12 * config.width * config.width  # weights of the matrices of a layer
    head = config.width * config.vocabulary_size
    weights = config.layers * attention_and_feed_forward + head
    return 6 * weights + 12 * config.layers * config.block_size * config.width


def peak_flops(device_name: str) -> float | None:
    """Operations a second at most of the device of this name, or None if it is not known here."""
    return next((peak for pattern, peak in PEAK_FLOPS if re.search(pattern, device_name)), None)


def utilisation(tokens_per_second: float, config: NetworkConfig, device_name: str) -> float | None:
    """MFU: the share of the device's peak that a training makes use of, or None if the device is not known here."""
    peak = peak_flops(device_name)
    return tokens_per_second * flops_per_token(config) / peak if peak else None
