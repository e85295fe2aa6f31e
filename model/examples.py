"""Owns rows of examples: prompts with responses, several a row while they fit, of which the responses alone are learnt.

A row has block_size + 1 tokens, so that a window is a row: its inputs, and one token further its targets. No example goes from one
row into the next, since its response would be without its prompt. What is left of a row is end-of-text, and not learnt.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model.batches import Integers, Learnt, targets_to_learn, windows_of
from model.device import ChosenPrecision
from model.evaluation import LOGITS_PER_BATCH, EvaluationProgress, Tally, losses_of, predict
from model.network import LanguageModel, device_of
from model.tokenizer import TokenArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A split of examples: `tokens` and, of each, whether it is `learnt`; both 1-D, of the same length."""

    tokens: TokenArray
    learnt: Learnt


def paddings(lengths: Integers, *, row_tokens: int) -> Integers:
    """How many tokens must follow each example, of so many tokens, for none to go beyond its row; all rows are then whole.

    An example is put into the row of the one before, or begins the next: their order stays.
    """
    assert (lengths <= row_tokens).all(), "longer ones were cut"
    added, used = np.zeros_like(lengths), 0
    for place, length in enumerate(lengths):
        if used + length > row_tokens:
            added[place - 1] = row_tokens - used
            used = 0
        used += int(length)
    if len(lengths):
        added[-1] = row_tokens - used
    return added


def evaluate_rows(
    network: LanguageModel,
    rows: Rows,
    *,
    end_of_text: int,
    text_bytes: int,
    precision: ChosenPrecision = "float32",
) -> Iterator[EvaluationProgress]:
    """Predicts every token of a split that is to be learnt exactly once, from its own row; yields after each batch.

    As `evaluate`, but that the report counts those tokens alone, and a response is a document; `text_bytes` is the UTF-8 size of
    the responses.
    """
    total, tally = len(rows.tokens), Tally(network.config.block_size, end_of_text)
    for starts in _batches(network, _row_starts(network, rows)):
        tally.add(predict(network, *_windows(network, rows)(starts), precision))
        done = int(starts[-1]) + network.config.block_size + 1
        report = tally.report(text_bytes) if done == total else None
        yield EvaluationProgress(tokens_done=done, tokens_total=total, report=report)


def estimate_rows_loss(
    network: LanguageModel, rows: Rows, *, most_rows: int = 64, precision: ChosenPrecision = "float32"
) -> float:
    """Nats per token that is to be learnt, on a few rows, the same ones each time, spread evenly: a curve's points."""
    starts = _row_starts(network, rows)
    places = np.unique(np.linspace(0, len(starts) - 1, min(most_rows, len(starts))).astype(np.int64))
    nats, counted = 0.0, 0
    for some in _batches(network, starts[places]):
        more_nats, more = _nats(network, rows, some, precision)
        nats, counted = nats + more_nats, counted + more
    return nats / counted


def _row_starts(network: LanguageModel, rows: Rows) -> Integers:
    row_tokens = network.config.block_size + 1
    if len(rows.tokens) % row_tokens or not len(rows.tokens):
        raise ValueError(
            f"{len(rows.tokens):,} tokens are no whole rows of {row_tokens}: the examples were made for another block_size"
        )
    return np.arange(0, len(rows.tokens), row_tokens, dtype=np.int64)


def _batches(network: LanguageModel, starts: Integers) -> Iterator[Integers]:
    config = network.config
    size = max(1, LOGITS_PER_BATCH // (config.block_size * config.vocabulary_size))
    return iter(np.split(starts, range(size, len(starts), size)))


def _nats(
    network: LanguageModel, rows: Rows, starts: Integers, precision: ChosenPrecision
) -> tuple[float, int]:
    """The summed loss of the rows at `starts`, and how many targets it is of."""
    losses = losses_of(network, *_windows(network, rows)(starts), precision)
    return float(losses.sum()), targets_to_learn(rows.learnt, starts, block_size=network.config.block_size)


def _windows(network: LanguageModel, rows: Rows) -> Callable[[Integers], tuple[Tensor, Tensor]]:
    config = network.config
    return windows_of(
        rows.tokens,
        block_size=config.block_size,
        vocabulary_size=config.vocabulary_size,
        device=device_of(network),
        learnt=rows.learnt,
    )
