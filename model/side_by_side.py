"""Owns the measuring of several networks on the same text, by turns: what each loses window by window, and how fast it is."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from model.batches import to_tensor
from model.device import ChosenPrecision, autocast
from model.evaluation import LOGITS_PER_BATCH, losses_of, pieces_of
from model.generation import generate
from model.network import LanguageModel, device_of
from model.sampling import Sampling
from model.tokenizer import TokenArray

_WRITING_REPEATS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A network, and the arithmetic in which it predicts."""

    network: LanguageModel
    precision: ChosenPrecision = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a network came to on a text cut into windows of block_size; the last may be shorter."""

    window_nats: npt.NDArray[np.float64]  # [windows], summed over the window's tokens
    window_tokens: npt.NDArray[np.int64]  # [windows]
    tokens_per_second: float  # median of the batches

    @property
    def loss(self) -> float:
        """Nats per token, the same as `model.evaluation` has it."""
        return float(self.window_nats.sum()) / int(self.window_tokens.sum())

    def bits_per_byte(self, text_bytes: int) -> float:
        """For a text of so many bytes of UTF-8."""
        return float(self.window_nats.sum()) / math.log(2) / text_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySideProgress:
    """How far the measuring is; the last one, and only it, has what it came to."""

    tokens_done: int
    tokens_total: int
    measured: Mapping[str, Measured] | None = None


@dataclass(slots=True)
class _Tally:
    nats: list[npt.NDArray[np.float64]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # tokens a second, of each batch


def measure_losses(
    contenders: Mapping[str, Contender], tokens: TokenArray, *, end_of_text: int
) -> Iterator[SideBySideProgress]:
    """Each predicts every token, in the windows of `model.evaluation.evaluate`; batch by batch they take turns, so that a machine
    that is busy for a while is so for all. Yields after each batch. All have the same block_size and vocabulary.

    ValueError if there is nothing to predict.
    """
    if len(tokens) == 0:
        raise ValueError("the split to measure on has no tokens; give it some")
    config = next(iter(contenders.values())).network.config
    length = config.block_size
    windows = max(1, LOGITS_PER_BATCH // (length * config.vocabulary_size))
    tallies = {name: _Tally() for name in contenders}
    sizes = list[int]()
    for done, rows, piece in pieces_of(tokens, length, windows, end_of_text=end_of_text):
        count = len(piece) - 1
        sizes += [count // rows] * rows
        for name, contender in contenders.items():
            if not tallies[name].rates:
                _nats(contender, piece, rows)  # the first is slower: memory is asked for, kernels are chosen
            began = time.perf_counter()
            tallies[name].nats.append(_nats(contender, piece, rows))
            if count % length == 0 or not tallies[name].rates:
                tallies[name].rates.append(count / (time.perf_counter() - began))
        measured = _measured(tallies, sizes) if done == len(tokens) else None
        yield SideBySideProgress(tokens_done=done, tokens_total=len(tokens), measured=measured)


def measure_writing(
    contenders: Mapping[str, Contender], prompt: npt.ArrayLike, *, tokens: int
) -> dict[str, float]:
    """Tokens a second of each when it continues the prompt, one text at a time: the median of some turns after the first."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + _WRITING_REPEATS):
        for name, contender in contenders.items():
            began = time.perf_counter()
            with autocast(device_of(contender.network), contender.precision):
                for _ in generate(contender.network, prompt, tokens=tokens, sampling=Sampling(temperature=0)):
                    pass
            rates[name].append(tokens / (time.perf_counter() - began))
    return {name: statistics.median(each[1:]) for name, each in rates.items()}


def _nats(contender: Contender, piece: TokenArray, rows: int) -> npt.NDArray[np.float64]:
    """The summed loss of each of so many windows, [rows]."""
    network = contender.network
    ids = to_tensor(piece, vocabulary_size=network.config.vocabulary_size, device=device_of(network))
    losses = losses_of(network, ids[:-1].view(rows, -1), ids[1:], contender.precision)
    nats: npt.NDArray[np.float64] = losses.view(rows, -1).sum(dim=1).numpy()
    return nats


def _measured(tallies: Mapping[str, _Tally], sizes: list[int]) -> dict[str, Measured]:
    return {
        name: Measured(
            window_nats=np.concatenate(tally.nats),
            window_tokens=np.array(sizes, dtype=np.int64),
            tokens_per_second=statistics.median(tally.rates),
        )
        for name, tally in tallies.items()
    }
