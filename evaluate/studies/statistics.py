"""Mean and spread over seeds, paired differences with a bootstrap interval, and what a t test can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Difference:
    """An arm minus its baseline, seed by seed."""

    mean: float
    """Mean of the differences."""
    low: float
    """Lower end of the bootstrap interval of the mean."""
    high: float
    """Upper end of it."""
    significant: float
    """Smallest mean that is significant with this spread in a two-sided paired t test at 1 - `CONFIDENCE`."""
    detectable: float
    """Smallest true difference for which that test finds one in `POWER` of all studies of so many seeds."""
    seeds: int
    """Pairs."""

    @property
    def clear(self) -> bool:
        """True if the mean is significant in the paired t test."""
        return abs(self.mean) > self.significant


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for one value."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Of values of the same seeds in the same order.

    The interval is the percentile bootstrap over seeds (Efron 1979): all resamples where they are few, else
    RESAMPLES drawn. `significant` and `detectable` are those of the paired t test with this standard deviation s:
    t(.975) s / sqrt(n), and δ s / sqrt(n) with the δ for which the test has POWER.
    """
    from scipy.stats import t

    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    count = len(differences)
    if count < 2:
        return Difference(float(differences.mean()), -math.inf, math.inf, math.inf, math.inf, count)
    if count**count <= RESAMPLES:
        drawn = np.stack(np.meshgrid(*[np.arange(count)] * count, indexing="ij"), -1).reshape(-1, count)
    else:
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = differences[drawn].mean(1)
    low, high = np.quantile(means, [_TAIL, 1 - _TAIL])
    error = differences.std(ddof=1) / math.sqrt(count)
    significant = t.ppf(1 - _TAIL, count - 1) * error
    return Difference(
        float(differences.mean()),
        float(low),
        float(high),
        float(significant),
        float(_noncentrality(count - 1) * error),
        count,
    )


@cache
def _noncentrality(freedom: int) -> float:
    """True mean in standard errors for which the t test with so many degrees of freedom has POWER.

    The noncentral t distribution as the mean of a normal one over the estimated deviation: scipy's own is NaN here for
    one degree of freedom.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi, t

    limit, root = float(t.ppf(1 - _TAIL, freedom)), math.sqrt(freedom)
    estimate = np.linspace(0, 8, 8001)  # the estimated deviation over the true one
    density = chi.pdf(estimate * root, freedom) * root

    def power(shift: float) -> float:
        beyond = ndtr(shift - limit * estimate) + ndtr(-shift - limit * estimate)
        return float(np.trapezoid(beyond * density, estimate))

    return float(brentq(lambda shift: power(shift) - POWER, 0.1, 10 * limit))
