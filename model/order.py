"""Owns the order of the data: which windows of the tokens make the batch of a step, as a pure function."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FEISTEL_ROUNDS: Final = (
    6  # 4 suffice for a pseudorandom permutation (Luby and Rackoff 1988); tiny halves like more
)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOrder:
    """The windows of every step, from (dataset_digest, seed, step) alone.

    Each epoch cuts the `tokens` into windows that do not overlap, from an offset of its own in [0, block_size),
    so that epochs do not repeat the same cuts; and takes every window exactly once, in an order of its own. A
    batch may run across the end of an epoch. Nothing is stored and nothing is drawn, so a resumed run, another
    number of ranks or of micro-batches sees the same global batch.

    Where the tokens `are_rows`, each of block_size + 1 tokens, a row is a window: the inputs and, one token further, the targets.

    ValueError if the tokens are fewer than two windows, or the windows fewer than a batch.
    """

    dataset_digest: str
    seed: int
    tokens: int
    block_size: int
    batch_size: int  # windows a step
    are_rows: bool = False

    def __post_init__(self) -> None:
        if not self.are_rows and self.tokens < 2 * self.block_size:
            raise ValueError(
                f"the train split has {self.tokens:,} tokens, fewer than two windows of block_size "
                f"{self.block_size}; set network.block_size to at most {self.tokens // 2}, or take more text"
            )
        if self.windows_per_epoch < self.batch_size:
            raise ValueError(
                f"the train split has {self.windows_per_epoch:,} windows of block_size {self.block_size}, fewer than a batch of "
                f"{self.batch_size:,}; set training.batch_size to at most {self.windows_per_epoch:,}, or take more text"
            )

    @property
    def windows_per_epoch(self) -> int:
        """The same for every offset: what the largest offset leaves whole, with one token beyond as last target."""
        if self.are_rows:
            return self.tokens // self._stride
        return (self.tokens - self.block_size) // self.block_size

    @property
    def _stride(self) -> int:
        """Tokens from the beginning of a window to that of the next."""
        return self.block_size + self.are_rows

    def epoch(self, step: int) -> float:
        """Epochs of data that `step` steps consume; its whole part is the epoch that step `step` begins in."""
        return step * self.batch_size / self.windows_per_epoch

    def window_starts(self, step: int) -> Integers:
        """Where the windows of step `step` (from 0) begin, int64 [batch_size].

        A window is the block_size inputs from there on; its targets lie one token further.
        """
        first = step * self.batch_size
        epochs, indices = np.divmod(np.arange(first, first + self.batch_size), self.windows_per_epoch)
        starts = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            offset, keys = self._secrets(int(epoch))
            starts[here] = offset + self._stride * permuted(indices[here], self.windows_per_epoch, keys)
        return starts

    def _secrets(self, epoch: int) -> tuple[int, npt.NDArray[np.uint64]]:
        """The offset of an epoch's windows and the keys of its permutation."""
        name = f"{self.dataset_digest}/{self.seed}/{epoch}".encode()
        digest = hashlib.shake_256(name).digest(8 * (1 + FEISTEL_ROUNDS))
        words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        return 0 if self.are_rows else int(words[0]) % self.block_size, words[1:]


def permuted(indices: Integers, size: int, keys: npt.NDArray[np.uint64]) -> Integers:
    """The places of `indices` in a permutation of range(size), chosen by the keys, in O(1) memory.

    A Feistel network permutes the next power of 4 numbers; whoever lands outside range(size) walks on until
    inside again (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), 4 times at most on average.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    places = _feistel(indices.astype(np.uint64), half_bits, keys)
    while (outside := places >= size).any():
        places[outside] = _feistel(places[outside], half_bits, keys)
    return places.astype(np.int64)


def _feistel(
    numbers: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """One to one whatever `_mixed` is: each round can be undone, since it keeps one half as it was."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = numbers >> bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << bits) | right


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every bit of the input sways every bit of the output."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
