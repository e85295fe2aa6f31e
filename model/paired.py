"""Owns the comparison of two networks on the same text: how much better one is, and how sure that is."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The loss of the second less that of the first, in nats per token, with its standard error."""

    difference: float
    standard_error: float  # infinite where there are not two documents to tell it from

    @property
    def deviations(self) -> float:
        """How many standard errors the difference is away from none."""
        if self.difference == 0:
            return 0.0
        return (
            self.difference / self.standard_error
            if self.standard_error
            else math.copysign(math.inf, self.difference)
        )


def paired_difference(
    first_nats: npt.NDArray[np.float64], second_nats: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]
) -> PairedDifference:
    """Compares summed losses of the same documents, [documents] each, under two networks.

    What is drawn by chance are documents, not tokens: those of one document rise and fall together. So the error is that of a
    ratio of sums over clusters (Cochran 1977, "Sampling Techniques", equation 2.46), and since both networks are measured on
    the same documents, what makes a document hard falls out. ValueError if the arrays do not match.
    """
    if not first_nats.shape == second_nats.shape == tokens.shape:
        raise ValueError(
            f"losses of {len(first_nats)} and {len(second_nats)} documents cannot be paired; measure both on one split"
        )
    documents, total = len(tokens), int(tokens.sum())
    differences = second_nats - first_nats
    mean = float(differences.sum()) / total
    if documents < 2:
        return PairedDifference(difference=mean, standard_error=math.inf)
    residuals = differences - mean * tokens
    variance = documents / (documents - 1) * float(residuals @ residuals) / total**2
    return PairedDifference(difference=mean, standard_error=math.sqrt(variance))
