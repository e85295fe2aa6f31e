"""Owns what runs of tokens tell about a text that a network wrote: whether it repeats itself, or what it was trained on."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from model.tokenizer import TokenArray

_PIECE_TOKENS: Final = 1 << 20  # hashed at a time: 8 MiB
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)  # odd: every power of it can be undone
_TABLE_BITS: Final = 16

Hashes = npt.NDArray[np.uint64]


def repetition(ids: npt.ArrayLike, length: int) -> float:
    """Share of a text's runs of `length` tokens that stand earlier in it: "seq-rep-n" of Welleck et al. 2019, arXiv:1908.04319.

    0 for a text with no such run.
    """
    hashes = _hashes(np.asarray(ids), length)
    return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


class SeenRuns:
    """Counts which runs of `length` tokens of some texts stand in a split; the split goes by piece by piece.

    Runs are told apart by 64-bit hashes: of 10,000 runs against 10 billion tokens, one is wrongly found once in 200,000 times.
    """

    def __init__(self, texts: list[npt.NDArray[np.int64]], length: int) -> None:
        self.length = length
        self._hashes = np.concatenate([_hashes(ids, length) for ids in texts])
        self._wanted = np.unique(self._hashes)
        # Most runs of a split are none of the wanted ones, which 16 of their bits tell in most cases.
        self._may_be_wanted = np.zeros(1 << _TABLE_BITS, np.bool_)
        self._may_be_wanted[_top_bits(self._wanted)] = True
        self._found = np.zeros(len(self._wanted), np.bool_)

    @property
    def share(self) -> float:
        """Share of the texts' runs that were found by now; 0 if they have none."""
        if not len(self._hashes):
            return 0.0
        return float(self._found[np.searchsorted(self._wanted, self._hashes)].mean())

    def look_in(self, tokens: TokenArray) -> Iterator[int]:
        """Goes through a split, a memory map usually; yields after each piece how many tokens it had."""
        for begin in range(0, len(tokens), _PIECE_TOKENS):
            piece = np.asarray(tokens[begin : begin + _PIECE_TOKENS + self.length - 1])
            hashes = _hashes(piece, self.length)
            candidates = hashes[self._may_be_wanted[_top_bits(hashes)]]
            self._found |= np.isin(self._wanted, candidates)
            yield min(_PIECE_TOKENS, len(tokens) - begin)


def _hashes(ids: npt.NDArray[np.generic], length: int) -> Hashes:
    """A hash of each run of `length` ids, [len(ids) - length + 1], or none.

    Polynomials modulo 2^64 over mixed ids; those of 2, 4, 8 … ids are made of two of half the length.
    """
    if len(ids) < length:
        return np.empty(0, np.uint64)
    power_hashes, power = _mixed(ids.astype(np.uint64)), 1
    hashes, done = np.zeros(len(ids) + 1, np.uint64), 0
    while True:
        if length & power:  # what is done is followed by the next `power` ids
            behind = power_hashes[done:]
            hashes = hashes[: len(behind)] * _power(power) + behind
            done += power
        power *= 2
        if power > length:
            return hashes
        half = power // 2
        power_hashes = power_hashes[:-half] * _power(half) + power_hashes[half:]


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_BASE), exponent, 1 << 64))


def _mixed(numbers: Hashes) -> Hashes:
    """Ids are small and near one another; these are not."""
    numbers = (numbers + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    return numbers ^ (numbers >> np.uint64(29))


def _top_bits(hashes: Hashes) -> npt.NDArray[np.int64]:
    return ((hashes * _BASE) >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
