"""The reference lines are what a plain count says."""

import math
from collections import Counter

import numpy as np
import pytest

from model import references
from model.references import bigram_floor, reference_lines

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.choice(6, size=2_000, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05]).astype(np.uint16)
VAL = RANDOM.choice(7, size=500).astype(np.uint16)  # has a token that train never saw
V, END = 8, 7


def by_hand() -> tuple[float, float]:
    pairs = Counter(zip([END, *TRAIN[:-1].tolist()], TRAIN.tolist(), strict=True))
    firsts = Counter([END, *TRAIN[:-1].tolist()])
    seconds = Counter(TRAIN.tolist())
    unigram = bigram = 0.0
    for a, b in zip([END, *VAL[:-1].tolist()], VAL.tolist(), strict=True):
        unigram -= math.log((seconds[b] + 0.1) / (len(TRAIN) + 0.1 * V))
        bigram -= math.log((pairs[a, b] + 0.1) / (firsts[a] + 0.1 * V))
    return unigram / len(VAL), bigram / len(VAL)


@pytest.mark.parametrize("piece", [1 << 22, 100, 1])
def test_they_are_the_definitions_however_the_file_is_cut(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "COUNTING_PIECE", piece)
    lines = reference_lines(TRAIN, VAL, vocabulary_size=V, end_of_text=END)
    unigram, bigram = by_hand()
    assert lines.uniform == pytest.approx(math.log(8))
    assert lines.unigram == pytest.approx(unigram)
    assert lines.bigram == pytest.approx(bigram)
    assert bigram_floor(TRAIN, VAL, vocabulary_size=V, end_of_text=END) == lines.bigram


def test_a_large_vocabulary_needs_no_table_of_all_pairs() -> None:
    tokens = RANDOM.integers(0, 4_000_000_000, 5_000).astype(np.uint32) % 3_000_000
    lines = reference_lines(tokens, tokens, vocabulary_size=3_000_000, end_of_text=2_999_999)
    assert 0 < lines.bigram < lines.uniform


def test_empty_splits_and_unknown_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        reference_lines(TRAIN[:0], VAL, vocabulary_size=V, end_of_text=END)
    with pytest.raises(ValueError, match="the id 6, outside the vocabulary of 6"):
        reference_lines(TRAIN, VAL, vocabulary_size=6, end_of_text=5)
