"""How long things took beside each other, in machines that change from minute to minute: ratios within the same repeat."""

import statistics
from collections.abc import Sequence


def ratios_over(baseline: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Median, least and greatest of what each repeat took over its baseline, in hundredths."""
    ratios = [one / other for one, other in zip(seconds, baseline, strict=True)]
    return [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))]
