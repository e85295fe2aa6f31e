"""Owns the measure of a network: its exact loss on a split, where in it the losses are, and whether its certainty is right."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model.batches import IGNORED, gather, to_tensor
from model.device import ChosenPrecision, autocast
from model.network import LanguageModel, device_of, predicting
from model.tokenizer import TokenArray

# Logits of one batch at most: 2^23 float32 are 32 MiB. Four times as many were slower on a CPU, by 1.4 times.
LOGITS_PER_BATCH: Final = 2**23
CERTAINTY_BINS: Final = 15  # as Guo et al. have them

Sums = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationReport:
    """How well a network predicts a whole split: sums over groups of tokens, from which all else follows.

    A token belongs to one place in the window (how many tokens before it the network saw, less one), one document (its end of
    text included; in the order of the split), and one bin by the probability of the likeliest token.
    """

    text_bytes: int
    position_nats: Sums  # [block_size]
    position_tokens: Counts  # [block_size]
    document_nats: Sums  # [documents]
    document_tokens: Counts  # [documents]
    bin_tokens: Counts  # [CERTAINTY_BINS]
    bin_certainty: Sums  # [CERTAINTY_BINS]: probabilities of the likeliest token, summed
    bin_right: Counts  # [CERTAINTY_BINS]: how often it was the one

    @property
    def tokens(self) -> int:
        """Predicted, each exactly once."""
        return int(self.document_tokens.sum())

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.document_nats.sum()) / self.tokens

    @property
    def perplexity(self) -> float:
        """e^loss: as unsure as a fair choice among so many tokens."""
        return math.exp(min(self.loss, 700.0))  # beyond that a float overflows

    @property
    def bits_per_byte(self) -> float:
        """Of the split's UTF-8 text: comparable across tokenizers."""
        return float(self.document_nats.sum()) / math.log(2) / self.text_bytes

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the likeliest."""
        return int(self.bin_right.sum()) / self.tokens

    @property
    def calibration_error(self) -> float:
        """How far the network's certainty is from how often it is right: equation 3 of Guo et al. 2017, arXiv:1706.04599."""
        return float(np.abs(self.bin_right - self.bin_certainty).sum()) / self.tokens


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
    return _evaluate(network, tokens, end_of_text, text_bytes, windows, precision)


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
    windows: int,
    precision: ChosenPrecision,
) -> Iterator[EvaluationProgress]:
    config, total = network.config, len(tokens)
    tally = Tally(config.block_size, end_of_text)
    for done, rows, piece in pieces_of(tokens, config.block_size, windows, end_of_text=end_of_text):
        ids = to_tensor(piece, vocabulary_size=config.vocabulary_size, device=device_of(network))
        tally.add(predict(network, ids[:-1].view(rows, -1), ids[1:].view(rows, -1), precision))
        report = tally.report(text_bytes) if done == total else None
        yield EvaluationProgress(tokens_done=done, tokens_total=total, report=report)


def pieces_of(
    tokens: TokenArray, block_size: int, windows: int, *, end_of_text: int
) -> Iterator[tuple[int, int, TokenArray]]:
    """A split cut into pieces of at most so many windows of block_size, and what is left over as a shorter window by itself.

    Yields where a piece ends, its windows, and its tokens [windows * length + 1], of which the first is the one before them:
    input and target of each are neighbours. Before the first token of all it is `end_of_text`.
    """
    whole, begin = len(tokens) // block_size * block_size, 0
    while begin < len(tokens):
        end = min(begin + windows * block_size, whole) if begin < whole else len(tokens)
        piece = np.asarray(tokens[max(begin - 1, 0) : end])
        if begin == 0:
            piece = np.concatenate([np.array([end_of_text], dtype=piece.dtype), piece])
        yield end, max(1, (end - begin) // block_size), piece
        begin = end


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What became of N tokens, [N] each."""

    ids: Counts
    places: Counts  # in the window
    nats: Sums
    certainty: Sums  # probability of the likeliest token
    right: npt.NDArray[np.bool_]  # whether it was the one


def predict(
    network: LanguageModel, inputs: Tensor, targets: Tensor, precision: ChosenPrecision
) -> Predictions:
    """Of the targets [B, T] of windows [B, T], row by row; those of IGNORED are left out."""
    logits, wanted = _logits(network, inputs, precision), targets.flatten()
    normaliser, (top, likeliest) = logits.logsumexp(dim=-1), logits.max(dim=-1)
    nats = normaliser - logits.gather(-1, wanted.clamp(min=0)[:, None])[:, 0]
    places = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs).flatten()
    counted = wanted != IGNORED
    ids, where, losses, certainty, right = (
        each[counted].cpu().numpy()
        for each in (wanted, places, nats, (top - normaliser).exp(), likeliest == wanted)
    )
    return Predictions(
        ids=ids,
        places=where,
        nats=losses.astype(np.float64),
        certainty=certainty.astype(np.float64),
        right=right,
    )


class Tally:
    """Sums over groups of tokens, batch by batch in the order of the split."""

    def __init__(self, block_size: int, end_of_text: int) -> None:
        self._end_of_text = end_of_text
        self._position = np.zeros((2, block_size))
        self._bins = np.zeros((3, CERTAINTY_BINS))
        self._documents: list[npt.NDArray[np.float64]] = []  # of each batch; its last may go on in the next
        self._is_open = False

    def add(self, found: Predictions) -> None:
        """Counts the predictions of the next tokens."""
        if not len(found.ids):
            return
        ones = np.ones(len(found.ids))
        self._position += _sums(found.places, self._position.shape[1], found.nats, ones)
        bins = np.minimum((found.certainty * CERTAINTY_BINS).astype(np.int64), CERTAINTY_BINS - 1)
        self._bins += _sums(bins, CERTAINTY_BINS, ones, found.certainty, found.right)
        ends = found.ids == self._end_of_text
        documents = np.cumsum(ends) - ends  # a document's end of text is its own
        sums = _sums(documents, int(documents[-1]) + 1, found.nats, ones)
        if self._is_open:
            self._documents[-1][:, -1] += sums[:, 0]
            sums = sums[:, 1:]
        if sums.size:
            self._documents.append(sums)
        self._is_open = not ends[-1]

    def report(self, text_bytes: int) -> EvaluationReport:
        """All of it."""
        documents = np.concatenate(self._documents, axis=1)
        return EvaluationReport(
            text_bytes=text_bytes,
            position_nats=self._position[0],
            position_tokens=self._position[1].astype(np.int64),
            document_nats=documents[0],
            document_tokens=documents[1].astype(np.int64),
            bin_tokens=self._bins[0].astype(np.int64),
            bin_certainty=self._bins[1],
            bin_right=self._bins[2].astype(np.int64),
        )


def _sums(groups: Counts, count: int, *values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> Sums:
    """The sums of each of `values` by group, [values, count]."""
    return np.stack([np.bincount(groups, weights=each, minlength=count) for each in values])


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
        nats += float(losses_of(network, inputs, targets, precision).sum())
    return nats / (windows * length)


def _logits(network: LanguageModel, inputs: Tensor, precision: ChosenPrecision) -> Tensor:
    """The scores after windows of inputs [B, T], float32 [B * T, vocabulary_size]."""
    with predicting(network), autocast(inputs.device, precision):
        logits: Tensor = network(inputs).flatten(0, 1).float()
        return logits


def losses_of(network: LanguageModel, inputs: Tensor, targets: Tensor, precision: ChosenPrecision) -> Tensor:
    """The loss of each target [B, T] in nats, [B * T], float64 on the CPU (MPS has no float64)."""
    logits = _logits(network, inputs, precision)
    return functional.cross_entropy(logits, targets.flatten(), reduction="none").to("cpu", torch.float64)
