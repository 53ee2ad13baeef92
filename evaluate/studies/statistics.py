"""Mean and spread over seeds, paired differences with a bootstrap interval, and the smallest difference to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """An arm minus its baseline, seed by seed."""

    mean: float
    """Mean of the differences."""
    low: float
    """Lower end of the bootstrap interval of the mean."""
    high: float
    """Upper end of it."""
    detectable: float
    """Smallest true difference that so many seeds with this spread show in `POWER` of all studies."""
    seeds: int
    """Pairs."""

    @property
    def clear(self) -> bool:
        """True if the interval excludes 0 and the mean is at least the smallest difference to be seen."""
        return (self.low > 0 or self.high < 0) and abs(self.mean) >= self.detectable


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for one value."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Of values of the same seeds in the same order.

    The interval is the percentile bootstrap over seeds (Efron 1979): all resamples where they are few, else
    RESAMPLES drawn. The smallest difference is that of a two-sided paired t test, (t(.975) + t(POWER)) s / sqrt(n).
    """
    from scipy.stats import t

    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    count = len(differences)
    if count < 2:
        return Difference(float(differences.mean()), -math.inf, math.inf, math.inf, count)
    if count**count <= RESAMPLES:
        drawn = np.stack(np.meshgrid(*[np.arange(count)] * count, indexing="ij"), -1).reshape(-1, count)
    else:
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = differences[drawn].mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    error = differences.std(ddof=1) / math.sqrt(count)
    detectable = (t.ppf(1 - tail, count - 1) + t.ppf(POWER, count - 1)) * error
    return Difference(float(differences.mean()), float(low), float(high), float(detectable), count)
