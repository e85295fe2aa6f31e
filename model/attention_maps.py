"""Owns what attention looked at: the weights of every head, which a network otherwise uses and forgets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.attention import MultiHeadAttention, explicit_attention
from model.network import LanguageModel, predicting


def attention_maps(network: LanguageModel, ids: Tensor) -> Tensor:
    """How much each position took from each: [layers, heads, T, T] for ids int64 [T], T at most block_size.

    Row t adds up to 1, and is 0 beyond t. A network without attention has no layers.
    """
    maps: list[Tensor] = []
    with predicting(network), _recording(network, maps):
        network(ids[None])
    return torch.stack(maps) if maps else torch.empty(0, 0, len(ids), len(ids))


@contextmanager
def _recording(network: LanguageModel, maps: list[Tensor]) -> Iterator[None]:
    """Inside, every self-attention also leaves its weights in `maps`."""

    def attend(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        ones = torch.eye(key.shape[-2], device=key.device, dtype=key.dtype)
        maps.append(explicit_attention(query, key, ones, **how)[0])  # weights @ 1 = weights
        return explicit_attention(query, key, value, **how)

    parts = [part for part in network.modules() if isinstance(part, MultiHeadAttention)]
    before = [part.attend for part in parts]
    for part in parts:
        part.attend = attend
    try:
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            part.attend = own
