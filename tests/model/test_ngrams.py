"""Runs of tokens: what repeats itself, and what was seen before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import ngrams
from model.ngrams import SeenRuns, repetition


def runs(ids: list[int], length: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_repetition_is_the_definition(ids: list[int], length: int) -> None:
    all_runs = runs(ids, length)
    expected = 1 - len(set(all_runs)) / len(all_runs) if all_runs else 0.0
    assert repetition(np.array(ids, np.int64), length) == pytest.approx(expected)


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=60),
    st.integers(1, 7),
)
def test_the_seen_share_is_the_definition_whatever_the_pieces(
    texts: list[list[int]], split: list[int], length: int
) -> None:
    seen = set(runs(split, length))
    wanted = [run for text in texts for run in runs(text, length)]
    expected = sum(run in seen for run in wanted) / len(wanted) if wanted else 0.0
    before, ngrams._PIECE_TOKENS = ngrams._PIECE_TOKENS, 11
    try:
        found = SeenRuns([np.array(text, np.int64) for text in texts], length)
        assert sum(found.look_in(np.array(split, np.uint16))) == len(split)
    finally:
        ngrams._PIECE_TOKENS = before
    assert found.share == pytest.approx(expected)


def test_ids_of_every_kind_of_token_file_are_the_same_run() -> None:
    ids = np.arange(60_000, 60_050)
    found = SeenRuns([ids.astype(np.int64)], 13)
    list(found.look_in(ids.astype(np.uint32)))
    assert found.share == 1
    list(found.look_in(np.zeros(5, np.uint16)))  # shorter than a run
    assert found.share == 1
