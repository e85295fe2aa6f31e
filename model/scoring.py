"""Owns the score of given continuations: how likely a network finds what might come next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.device import ChosenPrecision, autocast
from model.evaluation import LOGITS_PER_BATCH
from model.network import LanguageModel, device_of, predicting

Ids = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a network makes of a continuation."""

    nats: float  # -ln of its probability after the context
    tokens: int  # that it has
    is_likeliest: bool  # whether each of its tokens was the likeliest one


def score_continuations(
    network: LanguageModel, pairs: Sequence[tuple[Ids, Ids]], *, precision: ChosenPrecision = "float32"
) -> Iterator[Score]:
    """The score of each (context, continuation), both of ids, in their order.

    Every token is predicted from as many before it as the window holds; a continuation longer than a window is scored window by
    window, each after the last token of the one before. The context begins a document if it begins with the end-of-text id.
    ValueError for an empty context.
    """
    if any(len(context) == 0 for context, _ in pairs):
        raise ValueError(
            "a context is empty; begin it with the end-of-text id, which stands before every document"
        )
    block_size = network.config.block_size
    windows = [
        (number, window) for number, pair in enumerate(pairs) for window in _windows(*pair, block_size)
    ]
    by_length = sorted(windows, key=lambda each: -len(each[1].inputs))
    nats, likeliest = np.zeros(len(pairs)), np.ones(len(pairs), np.bool_)
    batch = max(1, LOGITS_PER_BATCH // (block_size * network.config.vocabulary_size))
    for begin in range(0, len(by_length), batch):
        numbers, some = zip(*by_length[begin : begin + batch], strict=True)
        for number, (found_nats, found_likeliest) in zip(
            numbers, _score(network, some, precision), strict=True
        ):
            nats[number] += found_nats
            likeliest[number] &= found_likeliest
    for (_, continuation), each, is_likeliest in zip(pairs, nats.tolist(), likeliest.tolist(), strict=True):
        yield Score(nats=each, tokens=len(continuation), is_likeliest=is_likeliest)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Window:
    """Ids to read, [T], and the ids that are to come after the last of them, [scored]."""

    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


def _windows(context: Ids, continuation: Ids, block_size: int) -> Iterator[_Window]:
    ids = np.concatenate([np.asarray(context, np.int64), np.asarray(continuation, np.int64)])
    for begin in range(len(context), len(ids), block_size):
        end = min(begin + block_size, len(ids))
        yield _Window(inputs=ids[max(0, end - 1 - block_size) : end - 1], targets=ids[begin:end])


def _score(
    network: LanguageModel, windows: Sequence[_Window], precision: ChosenPrecision
) -> Iterator[tuple[float, bool]]:
    """Nats of each window's targets, and whether they were the likeliest. Shorter windows are filled up behind, where nothing
    that counts can see it."""
    inputs = np.zeros((len(windows), max(len(window.inputs) for window in windows)), np.int64)
    for row, window in zip(inputs, windows, strict=True):
        row[: len(window.inputs)] = window.inputs
    device = device_of(network)
    with predicting(network), autocast(device, precision):
        logits: Tensor = network(torch.from_numpy(inputs).to(device)).float()
    for row_logits, window in zip(logits, windows, strict=True):
        scored = row_logits[len(window.inputs) - len(window.targets) : len(window.inputs)]
        targets = torch.from_numpy(window.targets).to(device)
        found = scored.gather(-1, targets[:, None])[:, 0]
        nats = (scored.logsumexp(dim=-1) - found).cpu().double().sum()
        yield float(nats), bool((scored.argmax(dim=-1) == targets).all())
