"""Spreads and paired differences of studies against closed forms, scipy and simulated studies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evaluate.studies.statistics import POWER, paired_difference, spread


def test_spread_is_the_samples() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    mean, deviation = spread([5.0])
    assert mean == 5
    assert math.isnan(deviation)


def test_the_interval_is_that_of_all_resamples_of_three_seeds() -> None:
    found = paired_difference([3.0, 5.0, 4.0], [1.0, 4.0, 4.5])
    differences = np.array([2.0, 1.0, -0.5])
    means = [np.mean(drawn) for drawn in itertools.product(differences, repeat=3)]
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert found.seeds == 3
    assert not found.clear


def test_the_interval_is_scipys_bootstrap_of_many_seeds() -> None:
    differences = np.random.default_rng(0).normal(1, 2, 30)
    found = paired_difference(list(differences), [0.0] * 30)
    theirs = stats.bootstrap(
        (differences,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.1)


def test_the_smallest_difference_is_found_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(0)
    seeds, deviation = 5, 2.0
    noise = rng.normal(0, deviation, (20_000, seeds))
    scale = paired_difference(
        [deviation * math.sqrt((seeds - 1) / seeds) * sign for sign in (1, -1, 1, -1, 0)], [0.0] * 5
    )
    assert np.std([1, -1, 1, -1, 0], ddof=1) == pytest.approx(1)
    true = scale.detectable / (deviation * math.sqrt((seeds - 1) / seeds)) * deviation
    detected = stats.ttest_1samp(noise + true, 0, axis=1).pvalue < 0.05
    assert detected.mean() == pytest.approx(POWER, abs=0.03)  # (t + t) s / sqrt(n) is an approximation


def test_one_seed_ranks_nothing() -> None:
    found = paired_difference([9.0], [1.0])
    assert found.mean == 8
    assert not found.clear
