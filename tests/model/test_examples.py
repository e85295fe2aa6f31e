"""Of examples the responses alone are learnt: each whole in its row, averaged over all that count, however a batch is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.batches import IGNORED, windows_of
from model.config import NetworkConfig, Recipe, TrainingConfig
from model.evaluation import final_report
from model.examples import Rows, estimate_rows_loss, evaluate_rows, paddings
from model.network import build_network
from model.order import DataOrder
from model.references import reference_lines
from model.training import Training

RECIPE = Recipe(
    network=NetworkConfig(vocabulary_size=40, block_size=16, layers=1, heads=2, width=32),
    training=TrainingConfig(steps=6, batch_size=6, warmup_steps=1, device="cpu", precision="float32"),
)
ROW = RECIPE.network.block_size + 1
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 40, 20 * ROW).astype(np.uint16)
LEARNT = (RANDOM.random((20, ROW)) < RANDOM.random((20, 1))).astype(
    np.uint8
)  # of some rows much, of some little
LEARNT[:, 0], LEARNT[:, -1] = 0, 1
ROWS = Rows(tokens=TOKENS, learnt=LEARNT.ravel())


def row_losses() -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each target at the first weights, and which of them count: [rows, block_size], written out."""
    rows = torch.from_numpy(TOKENS.astype(np.int64)).view(-1, ROW)
    logits = build_network(RECIPE.network, seed=1337)(rows[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return losses.detach().view(20, -1), torch.from_numpy(LEARNT[:, 1:].astype(bool))


@pytest.mark.parametrize("row", [7, 8, 30])
def test_no_example_goes_beyond_its_row_and_all_rows_are_whole(row: int) -> None:
    lengths = np.random.default_rng(2).integers(1, 8, 100)
    whole = lengths + paddings(lengths, row_tokens=row)
    starts = np.cumsum(whole) - whole
    assert (starts // row == (starts + lengths - 1) // row).all()
    assert whole.sum() % row == 0
    assert (paddings(lengths, row_tokens=row) < row).all()
    assert paddings(np.array([], np.int64), row_tokens=row).tolist() == []


def test_a_window_is_a_row_and_each_comes_once_an_epoch() -> None:
    order = DataOrder(
        dataset_digest="d", seed=1, tokens=20 * ROW, block_size=ROW - 1, batch_size=5, are_rows=True
    )
    starts = np.concatenate([order.window_starts(step) for step in range(4)])
    assert sorted(starts.tolist()) == list(range(0, 20 * ROW, ROW))
    with pytest.raises(ValueError, match="has 20 windows of block_size 16, fewer than a batch of 21"):
        replace(order, batch_size=21)


def test_what_is_not_learnt_is_ignored_as_a_target_and_read_as_before() -> None:
    windows = windows_of(
        TOKENS, block_size=16, vocabulary_size=40, device=torch.device("cpu"), learnt=ROWS.learnt
    )
    inputs, targets = windows(np.array([ROW]))
    assert inputs[0].tolist() == TOKENS[ROW : 2 * ROW - 1].tolist()
    expected = np.where(LEARNT[1, 1:] == 1, TOKENS[ROW + 1 : 2 * ROW].astype(int), IGNORED)
    assert targets[0].tolist() == expected.tolist()


def test_the_loss_is_the_mean_over_all_that_counts_however_the_batch_is_cut() -> None:
    losses, counts = row_losses()
    results = []
    for parts in (1, 2, 6):
        recipe = replace(RECIPE, training=replace(RECIPE.training, gradient_accumulation_steps=parts))
        training = Training(recipe, TOKENS, dataset_digest="d", learnt=ROWS.learnt)
        rows = training.order.window_starts(0) // ROW
        reports = [report.train_loss for report in training.steps()]
        assert reports[0] == pytest.approx(float(losses[rows][counts[rows]].mean()), abs=1e-5)
        results.append((reports, training.state().tensors))
    for reports, tensors in results[1:]:
        assert reports == pytest.approx(results[0][0], abs=1e-5)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, results[0][1][name], atol=1e-4, rtol=1e-3)


def test_an_evaluation_predicts_each_response_token_once() -> None:
    losses, counts = row_losses()
    network = build_network(RECIPE.network, seed=1337)
    report = final_report(evaluate_rows(network, ROWS, end_of_text=0, text_bytes=100))
    assert report.tokens == int(counts.sum())
    assert report.loss == pytest.approx(float(losses[counts].mean()), abs=1e-5)
    assert report.bits_per_byte == pytest.approx(report.loss * report.tokens / np.log(2) / 100)
    assert estimate_rows_loss(network, ROWS) == pytest.approx(report.loss)
    assert estimate_rows_loss(network, ROWS, most_rows=3) == pytest.approx(
        float(losses[[0, 9, 19]][counts[[0, 9, 19]]].mean()), abs=1e-5
    )
    with pytest.raises(ValueError, match="are no whole rows of 17"):
        estimate_rows_loss(network, Rows(tokens=TOKENS[:-1], learnt=ROWS.learnt[:-1]))


def test_reference_lines_count_what_is_learnt() -> None:
    tokens, learnt = np.array([1, 2, 3, 1, 2, 3] * 9, np.uint16), np.array([0, 0, 1] * 18, np.uint8)
    lines = reference_lines(
        tokens, tokens, vocabulary_size=4, end_of_text=0, train_learnt=learnt, val_learnt=learnt
    )
    assert lines.unigram == pytest.approx(-np.log(18.1 / 18.4))
    assert lines.bigram == pytest.approx(-np.log(18.1 / 18.4))
