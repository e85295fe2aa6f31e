"""Owns the measure of a network: its exact loss on a split, perplexity, and bits per byte."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.batches import gather, to_tensor
from model.device import ChosenPrecision, autocast
from model.network import LanguageModel, device_of, predicting
from model.tokenizer import TokenArray

# Logits of one batch at most: 2^23 float32 are 32 MiB. Four times as many were slower on a CPU, by 1.4 times.
LOGITS_PER_BATCH: Final = 2**23


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """How well a network predicts a whole split."""

    loss: float  # nats per token
    perplexity: float  # e^loss: as unsure as a fair choice among so many tokens
    bits_per_byte: float  # of the split's UTF-8 text: comparable across tokenizers
    tokens: int  # predicted, each exactly once
    text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProgress:
    """How far an evaluation is; the last one, and only it, has the report."""

    tokens_done: int
    tokens_total: int
    report: EvaluationReport | None = None


def evaluate(
    network: LanguageModel,
    tokens: TokenArray,
    *,
    end_of_text: int,
    text_bytes: int,
    batch_size: int | None = None,
    precision: ChosenPrecision = "float32",
) -> Iterator[EvaluationProgress]:
    """Predicts every token of a split exactly once, in windows of block_size; yields after each batch.

    The first token is predicted from `end_of_text`, as if a document had ended before it; the first of each
    later window from the token before alone. The last window may be shorter. Losses are summed in float64, so
    `batch_size` (windows; default: what fits in memory) does not matter. `text_bytes` is the UTF-8 size of the
    split's text. The network stays on its device and in its mode; no random numbers are used.

    ValueError at once if there is nothing to predict.
    """
    if len(tokens) == 0 or text_bytes <= 0:
        raise ValueError(
            f"the split to evaluate has {len(tokens)} tokens and {text_bytes} bytes of text; give it some"
        )
    config = network.config
    windows = batch_size or max(1, LOGITS_PER_BATCH // (config.block_size * config.vocabulary_size))
    return _evaluate(network, tokens, end_of_text, text_bytes, windows * config.block_size, precision)


def final_report(progress: Iterable[EvaluationProgress]) -> EvaluationReport:
    """Runs an evaluation to its end, for callers that do not watch."""
    *_, last = progress
    assert last.report is not None
    return last.report


def _evaluate(
    network: LanguageModel,
    tokens: TokenArray,
    end_of_text: int,
    text_bytes: int,
    batch_tokens: int,
    precision: ChosenPrecision,
) -> Iterator[EvaluationProgress]:
    device = device_of(network)
    total, nats = len(tokens), 0.0
    for begin in range(0, total, batch_tokens):
        # The tokens of this batch, and the one before them: input and target of each are neighbours.
        piece = np.asarray(tokens[max(begin - 1, 0) : begin + batch_tokens])
        if begin == 0:
            piece = np.concatenate([np.array([end_of_text], dtype=piece.dtype), piece])
        on_device = to_tensor(piece, vocabulary_size=network.config.vocabulary_size, device=device)
        nats += _total_nats(network, on_device[:-1], on_device[1:], precision)
        done = min(begin + batch_tokens, total)
        report = _report(nats, total, text_bytes) if done == total else None
        yield EvaluationProgress(tokens_done=done, tokens_total=total, report=report)


def estimate_loss(
    network: LanguageModel, tokens: TokenArray, *, windows: int = 64, precision: ChosenPrecision = "float32"
) -> float:
    """Nats per token on a few windows, the same ones each time, spread evenly over the split: a curve's points.

    ValueError if the split has fewer than two tokens.
    """
    config = network.config
    length = min(config.block_size, len(tokens) - 1)
    if length < 1 or windows < 1:
        raise ValueError(
            f"{len(tokens)} tokens and {windows} windows are too few for a loss; give at least 2 and 1"
        )
    starts = np.linspace(0, len(tokens) - 1 - length, windows).astype(np.int64)
    batch = max(1, LOGITS_PER_BATCH // (length * config.vocabulary_size))
    nats = 0.0
    for begin in range(0, windows, batch):
        inputs, targets = gather(
            tokens,
            starts[begin : begin + batch],
            block_size=length,
            vocabulary_size=config.vocabulary_size,
            device=device_of(network),
        )
        nats += float(_losses(network, inputs, targets, precision).sum())
    return nats / (windows * length)


def _total_nats(network: LanguageModel, inputs: Tensor, targets: Tensor, precision: ChosenPrecision) -> float:
    """The summed loss of consecutive tokens [N], cut into windows; a shorter last one goes by itself."""
    block_size = network.config.block_size
    whole = len(inputs) // block_size * block_size
    nats = 0.0
    for part, length in ((slice(0, whole), block_size), (slice(whole, None), len(inputs) - whole)):
        if inputs[part].numel():
            windows = inputs[part].view(-1, length), targets[part].view(-1, length)
            nats += float(_losses(network, *windows, precision).sum())
    return nats


def _losses(network: LanguageModel, inputs: Tensor, targets: Tensor, precision: ChosenPrecision) -> Tensor:
    """The loss of each target [B, T] in nats, [B * T], float64 on the CPU (MPS has no float64)."""
    with predicting(network), autocast(inputs.device, precision):
        logits = network(inputs).flatten(0, 1)
        return functional.cross_entropy(logits, targets.flatten(), reduction="none").to("cpu", torch.float64)


def _report(nats: float, tokens: int, text_bytes: int) -> EvaluationReport:
    loss = nats / tokens
    return EvaluationReport(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),  # beyond that a float overflows
        bits_per_byte=nats / math.log(2) / text_bytes,
        tokens=tokens,
        text_bytes=text_bytes,
    )
