"""Owns the choice of the next token: what may be set, and how an id is drawn from a network's scores."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_GREEDY_BELOW: Final = 1e-5  # scores over less than this leave float32
_LEAST_PENALTY, _MOST_PENALTY = 0.01, 100.0  # far beyond what is of use, and far from what leaves float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. ValueError for a value that cannot be meant.

    Applied in this order:

    `repetition_penalty` makes ids less likely that the text has already, by so many times (Keskar et al. 2019, "CTRL",
    arXiv:1909.05858, section 4.1, which suggests 1.2); 1 is none.
    `temperature` 0 takes the likeliest id each time; below 1 the network is bolder, above 1 wilder than it learnt to be.
    `top_k` keeps the k likeliest ids.
    `top_p` keeps the fewest likeliest ids that together have at least probability p (Holtzman et al. 2020, arXiv:1904.09751).
    `min_p` keeps the ids that have at least p times the probability of the likeliest (Nguyen et al. 2024, arXiv:2407.01082).
    The same `seed` draws the same, on every device.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be a number of at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or none for no limit")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1, or none for no limit")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must be from 0 to 1, or none for no limit")
        if not _LEAST_PENALTY <= self.repetition_penalty <= _MOST_PENALTY:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be from {_LEAST_PENALTY:g} to "
                f"{_MOST_PENALTY:g}, and 1 for none"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be a whole number of 64 bits")


class Sampler:
    """Chooses the ids of one text, on the CPU in float32, so that a seed means the same on every device."""

    def __init__(self, sampling: Sampling, *, never_penalised: int | None = None) -> None:
        """`never_penalised` is an id that separates texts rather than being part of one."""
        self.sampling = sampling
        self._never_penalised = never_penalised
        self._seen: set[int] = set()
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def see(self, ids: Iterable[int]) -> None:
        """Notes ids that the text has."""
        self._seen.update(token for token in ids if token != self._never_penalised)

    def choose(self, logits: Tensor) -> int:
        """The next id by its scores [vocabulary_size], noted as seen. ValueError if the scores are not numbers."""
        highest = logits.max()
        if not highest.isfinite():
            raise ValueError(
                f"the network's highest score is {highest}: it has diverged; take an earlier checkpoint"
            )
        if self.sampling.repetition_penalty != 1 and self._seen:
            logits = self._penalised(logits)
        chosen = int(logits.argmax()) if self.sampling.temperature < _GREEDY_BELOW else self._draw(logits)
        self.see([chosen])
        return chosen

    def _penalised(self, logits: Tensor) -> Tensor:
        """CTRL divides a score by the penalty, which would favour one below 0: those are multiplied, as is usual since."""
        places = torch.tensor(sorted(self._seen))
        scores, penalty = logits[places], self.sampling.repetition_penalty
        return logits.scatter(0, places, torch.where(scores > 0, scores / penalty, scores * penalty))

    def _draw(self, logits: Tensor) -> int:
        top_k, top_p, min_p = self.sampling.top_k, self.sampling.top_p, self.sampling.min_p
        logits = (logits - logits.max()) / self.sampling.temperature
        if top_k is not None and top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
        probabilities = logits.softmax(dim=-1)
        if top_p is not None:
            probabilities = _nucleus(probabilities, top_p)
        if min_p is not None:
            probabilities = probabilities.where(probabilities >= min_p * probabilities.max(), 0.0)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities with all but the fewest likeliest ids that reach `top_p` set to 0."""
    ordered, places = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # what those likelier than this one have together
    return torch.zeros_like(probabilities).scatter(0, places, ordered.where(before < top_p, 0.0))
