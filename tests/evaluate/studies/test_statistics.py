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


@pytest.mark.parametrize("seeds", [2, 3, 5, 11])
def test_the_detectable_difference_is_clear_in_four_of_five_studies(seeds: int) -> None:
    one = list(np.random.default_rng(1).normal(size=seeds))
    found = paired_difference(one, [0.0] * seeds)
    error = np.std(one, ddof=1) / math.sqrt(seeds)
    true, significant = found.detectable / error / math.sqrt(seeds), found.significant / error  # for a spread of 1
    drawn = np.random.default_rng(0).normal(true, 1, (100_000, seeds))
    clear = np.abs(drawn.mean(1)) > significant * drawn.std(1, ddof=1) / math.sqrt(seeds)
    assert clear.mean() == pytest.approx(POWER, abs=0.005)
    assert (clear == (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)).all()
    assert (
        np.abs(drawn.mean(1) - true) > significant * drawn.std(1, ddof=1) / math.sqrt(seeds)
    ).mean() == pytest.approx(0.05, abs=0.003)


def test_a_difference_is_clear_where_a_paired_t_test_is() -> None:
    for arm in ([3.0, 5.0, 4.0], [3.0, 5.0, 5.0], [3.0, 5.2, 5.4]):
        baseline = [1.0, 4.0, 3.5]
        assert paired_difference(arm, baseline).clear == (stats.ttest_rel(arm, baseline).pvalue < 0.05)
    assert paired_difference([3.0, 4.0], [1.0, 2.0]).clear, "the same difference with both seeds"


def test_one_seed_ranks_nothing() -> None:
    found = paired_difference([9.0], [1.0])
    assert found.mean == 8
    assert not found.clear
