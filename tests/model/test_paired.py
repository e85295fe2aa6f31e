"""Two networks on the same documents: the difference, and how sure it is."""

import math

import numpy as np
import pytest

from model.paired import paired_difference


def test_the_error_covers_the_truth_as_often_as_it_says() -> None:
    """Documents drawn again and again: within two standard errors in 95 of 100 times."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        tokens = generator.integers(50, 400, 60)
        hardness = generator.normal(3, 1, 60)  # of a document, for both networks
        first = hardness * tokens
        second = first + (0.05 + generator.normal(0, 0.1, 60)) * tokens
        found = paired_difference(first, second, tokens)
        covered += abs(found.difference - 0.05) < 2 * found.standard_error
    assert 0.90 < covered / 400 < 0.985


def test_what_makes_documents_hard_falls_out() -> None:
    tokens = np.array([100, 200, 300])
    first = np.array([100.0, 900.0, 400.0])
    found = paired_difference(first, first - 0.01 * tokens, tokens)
    assert found.difference == pytest.approx(-0.01)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.deviations < -1e6


def test_equal_networks_do_not_differ() -> None:
    nats = np.array([1.0, 2.0])
    assert paired_difference(nats, nats, np.array([1, 1])).deviations == 0


def test_one_document_proves_nothing() -> None:
    found = paired_difference(np.array([10.0]), np.array([5.0]), np.array([10]))
    assert (found.difference, found.standard_error, found.deviations) == (-0.5, math.inf, 0)


def test_other_documents_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="2 and 3 documents"):
        paired_difference(np.ones(2), np.ones(3), np.ones(3, np.int64))
