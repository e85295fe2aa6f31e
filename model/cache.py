"""Owns the key-value cache: what each layer's attention has computed of the tokens it has read, so that a next token costs one token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the T new tokens of each row stand, from the row's own place on, and which of S tokens they may see."""

    positions: Tensor  # int64 [B, T]
    in_use: int  # S: tokens that the longest row has, the new ones among them
    causal: bool  # the new tokens are all there is: each sees those up to itself
    visible: Tensor | None  # bool [B, 1, T, S], or None: all of them, or what `causal` says


class LayerCache:
    """The keys and values of one layer, each [B, heads, block_size, d]; they take no memory until the first are there."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.keys = self.values = torch.empty(0)
        self.places: Places | None = None  # of the forward pass that is going on

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the new tokens [B, heads, T, d] -> of all tokens so far [B, heads, S, d]."""
        assert self.places is not None, "the cache has not begun a forward pass"
        if not self.keys.numel():  # 0, not anything: what a mask hides is still multiplied, by 0
            batch, heads, _, head_width = key.shape
            self.keys = key.new_zeros(batch, heads, self.block_size, head_width)
            self.values = value.new_zeros(batch, heads, self.block_size, head_width)
        index = self.places.positions[:, None, :, None].expand_as(key)
        self.keys.scatter_(2, index, key)
        self.values.scatter_(2, index, value)
        return self.keys[:, :, : self.places.in_use], self.values[:, :, : self.places.in_use]


class KeyValueCache:
    """What a network has read of several texts, one a row, each with a length of its own: `network(ids, cache)` reads on.

    Keys hold the position of their token, and so does all that is above the first layer: a text that outgrows block_size cannot
    slide on by one, but is read anew from where its context shall begin.
    """

    def __init__(self, block_size: int, *, layers: int, rows: int) -> None:
        self.block_size = block_size
        self.lengths = [0] * rows  # tokens that each row has
        self.layers = [LayerCache(block_size) for _ in range(layers)]

    def begin(self, ids: Tensor) -> Places:
        """Makes room for new ids [B, T]. ValueError if one of the rows has none, or there are not as many rows."""
        rows, new = ids.shape
        if rows != len(self.lengths):
            raise ValueError(f"{rows} rows of ids do not fit a cache of {len(self.lengths)} rows")
        longest = max(self.lengths) + new
        if longest > self.block_size:
            raise ValueError(
                f"{longest} tokens do not fit the network's context of {self.block_size}; read the last ones anew"
            )
        starts = torch.tensor(self.lengths, device=ids.device)
        positions = starts[:, None] + torch.arange(new, device=ids.device)
        is_first = max(self.lengths) == 0
        sees_all = new == 1 and min(self.lengths) == max(self.lengths)
        visible = None
        if not is_first and not sees_all:
            visible = torch.arange(longest, device=ids.device) <= positions[:, None, :, None]
        places = Places(positions=positions, in_use=longest, causal=is_first, visible=visible)
        for layer in self.layers:
            layer.places = places
        self.lengths = [length + new for length in self.lengths]
        return places

    def select(self, rows: Sequence[int]) -> "KeyValueCache":
        """Some of the rows, in the order given, as a cache of their own."""
        selected = KeyValueCache(self.block_size, layers=len(self.layers), rows=len(rows))
        selected.lengths = [self.lengths[row] for row in rows]
        for own, layer in zip(self.layers, selected.layers, strict=True):
            if own.keys.numel():
                layer.keys, layer.values = own.keys[list(rows)], own.values[list(rows)]
        return selected


def joined(caches: Sequence[KeyValueCache]) -> KeyValueCache:
    """The rows of several caches of one network, one after another."""
    if len(caches) == 1:
        return caches[0]
    lengths = [length for cache in caches for length in cache.lengths]
    together = KeyValueCache(caches[0].block_size, layers=len(caches[0].layers), rows=len(lengths))
    together.lengths = lengths
    for number, layer in enumerate(together.layers):
        layer.keys = torch.cat([cache.layers[number].keys for cache in caches])
        layer.values = torch.cat([cache.layers[number].values for cache in caches])
    return together
