"""Owns the reference lines: the losses that counting alone reaches, which a network must get below."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from model.batches import Learnt
from model.tokenizer import TokenArray

SMOOTHING: Final = 0.1  # added to every count, so that what was never seen is unlikely, not impossible
COUNTING_PIECE: Final = 1 << 22  # tokens counted at a time: 32 MiB of pairs
# Pairs are learnt from at most so many tokens, from the front. The memory is 16 bytes for each different pair:
# a megabyte for characters; for GPT-2's vocabulary some 200 MB here, and beyond any budget for a whole corpus.
MAXIMUM_TRAIN_TOKENS: Final = 100_000_000

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Losses of simple models on the val split, in nats per token."""

    uniform: float  # every token equally likely: ln(vocabulary size)
    unigram: float  # by how often each token occurs in train
    bigram: float  # by how often each token follows the one before in train


def reference_lines(
    train_tokens: TokenArray,
    val_tokens: TokenArray,
    *,
    vocabulary_size: int,
    end_of_text: int,
    train_learnt: Learnt | None = None,
    val_learnt: Learnt | None = None,
) -> References:
    """What counting on train predicts on val: the very predictions that `evaluate` scores; of examples, `evaluate_rows`, with
    which of the tokens are learnt.

    Pairs are learnt from the first MAXIMUM_TRAIN_TOKENS of train. ValueError for an empty split or unknown ids.
    """
    learnt = PairCounts.of(
        train_tokens[:MAXIMUM_TRAIN_TOKENS], vocabulary_size, end_of_text, seconds=train_learnt
    )
    wanted = PairCounts.of(val_tokens, vocabulary_size, end_of_text, seconds=val_learnt)
    return References(
        uniform=math.log(vocabulary_size),
        unigram=_unigram_loss(learnt, wanted),
        bigram=_bigram_loss(learnt, wanted),
    )


def bigram_floor(
    train_tokens: TokenArray, tokens: TokenArray, *, vocabulary_size: int, end_of_text: int
) -> float:
    """The loss on `tokens`, in nats per token, that a bigram table trained on `train_tokens` ends at."""
    learnt = PairCounts.of(train_tokens[:MAXIMUM_TRAIN_TOKENS], vocabulary_size, end_of_text)
    return _bigram_loss(learnt, PairCounts.of(tokens, vocabulary_size, end_of_text))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """How often each pair of neighbours occurs. A pair's code is first * vocabulary_size + second."""

    vocabulary_size: int
    codes: Integers  # ascending, each once
    counts: Integers

    @classmethod
    def of(
        cls, tokens: TokenArray, vocabulary_size: int, end_of_text: int, *, seconds: Learnt | None = None
    ) -> "PairCounts":
        """Counts a split, whose first token follows `end_of_text`; of `seconds` only pairs whose second token has a 1 there.

        ValueError if it is empty or has unknown ids.
        """
        if len(tokens) == 0:
            raise ValueError("the split has no tokens to count; give it some text")
        codes, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        for number, piece in enumerate(_pieces(tokens, end_of_text)):
            if piece.max() >= vocabulary_size or piece.min() < 0:
                raise ValueError(
                    f"the tokens hold the id {piece.max()}, outside the vocabulary of {vocabulary_size}"
                )
            pairs = piece[:-1] * vocabulary_size + piece[1:]
            if seconds is not None:
                place = number * COUNTING_PIECE
                pairs = pairs[np.asarray(seconds[place : place + len(pairs)]) == 1]
            more, occurrences = np.unique(pairs, return_counts=True)
            codes, places = np.unique(np.concatenate([codes, more]), return_inverse=True)
            merged = np.zeros(len(codes), np.int64)
            np.add.at(merged, places, np.concatenate([counts, occurrences]))
            counts = merged
        return cls(vocabulary_size=vocabulary_size, codes=codes, counts=counts)

    def firsts(self) -> Integers:
        """How often each token comes first in a pair, [vocabulary_size]."""
        return self._sum_by(self.codes // self.vocabulary_size)

    def seconds(self) -> Integers:
        """How often each token comes second, [vocabulary_size]: how often it occurs."""
        return self._sum_by(self.codes % self.vocabulary_size)

    def counts_of(self, codes: Integers) -> Integers:
        """How often each of these pairs occurs; 0 for those that never do."""
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.counts[places], 0)

    def _sum_by(self, tokens: Integers) -> Integers:
        sums = np.zeros(self.vocabulary_size, np.int64)
        np.add.at(sums, tokens, self.counts)
        return sums


def _pieces(tokens: TokenArray, end_of_text: int) -> Iterator[Integers]:
    """The tokens piece by piece, each with the token before it in front."""
    before = end_of_text
    for begin in range(0, len(tokens), COUNTING_PIECE):
        piece = np.asarray(tokens[begin : begin + COUNTING_PIECE], dtype=np.int64)
        yield np.concatenate([[before], piece])
        before = int(piece[-1])


def _unigram_loss(learnt: PairCounts, wanted: PairCounts) -> float:
    counts = learnt.seconds() + SMOOTHING
    return float(-np.average(np.log(counts / counts.sum()), weights=wanted.seconds()))


def _bigram_loss(learnt: PairCounts, wanted: PairCounts) -> float:
    """Mean of -ln((n(a, b) + 0.1) / (n(a) + 0.1 V)) over the wanted pairs (a, b)."""
    pair = learnt.counts_of(wanted.codes) + SMOOTHING
    first = learnt.firsts()[wanted.codes // wanted.vocabulary_size] + SMOOTHING * wanted.vocabulary_size
    return float(-np.average(np.log(pair / first), weights=wanted.counts))
