"""Owns the decision, before each update, whether it may be made: on the device, so that the loop need not wait for it."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

WINDOW_STEPS: Final = 128
SKIPS_THAT_ARE_DIVERGENCE: Final = 10  # in a row


class Guard:
    """Looks at a step's loss and gradient norm, and says whether its update must be left out.

    It must if one of them is no finite number, or a spike: a loss further above the mean of the last WINDOW_STEPS than
    `deviations` times their standard deviation, or a gradient norm whose logarithm is by twice as many. (OLMo-core's
    SkipStepOptimizer has one rule for both; but in trainings here in which nothing was wrong losses got to 3.8 deviations,
    gradient norms to 9.7, and their logarithms to 6.4.) A spike enters the window cut down to the limit, so that one outlier
    does not blind the guard to the next. There are no spikes before half a window was seen, nor with `deviations` 0.

    What it knows is in tensors, `tensors()`, and belongs to what a training goes on from.
    """

    def __init__(self, deviations: float, device: torch.device) -> None:
        self._deviations = deviations
        self._losses = torch.zeros(WINDOW_STEPS, device=device)
        self._log_gradient_norms = torch.zeros(WINDOW_STEPS, device=device)
        self._seen = torch.zeros((), dtype=torch.int64, device=device)  # steps with finite numbers
        self._skips = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.arange(WINDOW_STEPS, device=device)

    def skips(self, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """Both 0-d, of this step -> int64 0-d: how many updates in a row must be left out by now; 0 if this one may be made."""
        is_finite = loss.isfinite() & gradient_norm.isfinite()
        is_spike = torch.zeros_like(is_finite)
        here = self._places == self._seen % WINDOW_STEPS
        log_norm = gradient_norm.clamp(min=1e-30).log()
        for value, window, deviations in (
            (loss, self._losses, self._deviations),
            (log_norm, self._log_gradient_norms, 2 * self._deviations),
        ):
            limit = self._limit(window, deviations)
            is_spike |= value > limit
            window.copy_(torch.where(here & is_finite, torch.minimum(value, limit), window))
        self._seen += is_finite
        self._skips.copy_((self._skips + 1) * (~is_finite | is_spike))
        return self._skips.clone()

    def _limit(self, window: Tensor, deviations: float) -> Tensor:
        """0-d: what is above it is a spike."""
        count = self._seen.clamp(max=WINDOW_STEPS)
        is_filled = self._places < count
        mean = (window * is_filled).sum() / count
        variance = ((window - mean).square() * is_filled).sum() / (count - 1)
        is_judging = (self._seen >= WINDOW_STEPS // 2) & (deviations > 0)
        return torch.where(is_judging, mean + deviations * variance.sqrt(), torch.inf)

    def tensors(self) -> dict[str, Tensor]:
        """All that it knows, by name."""
        return {
            "guard.losses": self._losses,
            "guard.log_gradient_norms": self._log_gradient_norms,
            "guard.seen": self._seen,
            "guard.skips": self._skips,
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `tensors()` gave."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
