"""The order of the data is a pure function that takes every window once an epoch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.order import DataOrder, permuted

ORDER = DataOrder(dataset_digest="d", seed=1, tokens=1_003, block_size=10, batch_size=7)


def starts_of_epoch(order: DataOrder, epoch: int) -> np.ndarray:
    """All windows of an epoch, gathered from the batches that overlap it."""
    first, last = epoch * order.windows_per_epoch, (epoch + 1) * order.windows_per_epoch
    steps = range(first // order.batch_size, -(-last // order.batch_size))
    starts = np.concatenate([order.window_starts(step) for step in steps])
    skipped = first - steps[0] * order.batch_size
    return starts[skipped : skipped + order.windows_per_epoch]


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_window_comes_once_an_epoch(epoch: int) -> None:
    starts = np.sort(starts_of_epoch(ORDER, epoch))
    offset = starts[0]
    assert 0 <= offset < 10
    assert starts.tolist() == list(range(offset, offset + 10 * ORDER.windows_per_epoch, 10))
    assert starts[-1] + 10 < 1_003  # the last target is there
    assert ORDER.windows_per_epoch >= 1_003 // 10 - 1


def test_epochs_are_cut_and_ordered_anew() -> None:
    offsets = {int(starts_of_epoch(ORDER, epoch).min()) for epoch in range(40)}
    assert offsets == set(range(10))
    first, second = starts_of_epoch(ORDER, 0), starts_of_epoch(ORDER, 1)
    assert (np.argsort(first) != np.argsort(second)).mean() > 0.9


def test_a_batch_depends_on_digest_seed_and_step_and_nothing_else() -> None:
    again = replace(ORDER)
    for step in (12, 3, 100_000, 3):  # in any order, any number of times
        assert np.array_equal(again.window_starts(step), ORDER.window_starts(step))
    for other in (replace(ORDER, dataset_digest="e"), replace(ORDER, seed=2)):
        assert not np.array_equal(other.window_starts(3), ORDER.window_starts(3))


def test_the_order_of_version_1_never_changes() -> None:
    """Resuming with another version of brickroad must see the same batches."""
    assert ORDER.window_starts(0).tolist() == [26, 336, 656, 276, 256, 296, 846]


def test_batch_size_only_cuts_the_stream() -> None:
    stream = np.concatenate([ORDER.window_starts(step) for step in range(30)])
    other = replace(ORDER, batch_size=21)
    assert np.array_equal(np.concatenate([other.window_starts(step) for step in range(10)]), stream)


def test_a_batch_may_be_an_epoch_and_no_more() -> None:
    tiny = DataOrder(dataset_digest="d", seed=1, tokens=40, block_size=10, batch_size=3)
    assert tiny.windows_per_epoch == 3
    assert np.unique(tiny.window_starts(0)).size == 3
    assert tiny.epoch(3) == 3.0
    with pytest.raises(
        ValueError, match=r"has 3 windows.*a batch of 4; set training\.batch_size to at most 3"
    ):
        replace(tiny, batch_size=4)


@given(size=st.integers(1, 3_000), key=st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=100)
def test_it_is_a_permutation_for_every_size(size: int, key: int) -> None:
    keys = np.array([key, 1, 2, 3, 4, key], dtype=np.uint64)
    assert np.array_equal(np.sort(permuted(np.arange(size), size, keys)), np.arange(size))


def test_neighbours_are_scattered() -> None:
    places = permuted(np.arange(10_000), 10_000, np.arange(6, dtype=np.uint64))
    assert abs(np.corrcoef(np.arange(10_000), places)[0, 1]) < 0.05
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.05


def test_a_corpus_of_the_real_size_costs_no_memory() -> None:
    corpus = DataOrder(dataset_digest="d", seed=1, tokens=9_035_582_198, block_size=1024, batch_size=480)
    starts = corpus.window_starts(600_000)
    assert starts.min() >= 0
    assert starts.max() + 1024 < 9_035_582_198


def test_fewer_than_two_windows_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"19 tokens.*block_size 10; set network.block_size to at most 9"):
        replace(ORDER, tokens=19)
    assert replace(ORDER, tokens=20, batch_size=1).window_starts(0).shape == (1,)
