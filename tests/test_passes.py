"""Passes: several short measurements become one that tells how far they disagree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoprune.evaluation import Latency, pool_passes

ONE = Latency(
    ms=1.0,
    low=0.9,
    high=1.1,
    samples=12,
    speedup=2.0,
    speedup_low=1.9,
    speedup_high=2.1,
    clean=True,
    polluted_share=0.1,
    dense_ms=2.0,
    quantiles_ms=(1.0, 1.1, 1.2, 1.3, 1.4),
)


def test_one_pass_is_itself() -> None:
    assert pool_passes([ONE]) == ONE


def test_speedup_is_the_geometric_mean_and_milliseconds_the_least() -> None:
    pooled = pool_passes([ONE, replace(ONE, ms=0.5, speedup=8.0, speedup_low=7.9, speedup_high=8.1)])
    assert pooled.speedup == pytest.approx(4.0)
    assert pooled.ms == 0.5
    assert pooled.samples == 24


def test_passes_that_disagree_widen_the_interval() -> None:
    agreeing = pool_passes([ONE] * 5)
    wide = pool_passes([replace(ONE, speedup=s, speedup_low=s * 0.95, speedup_high=s * 1.05) for s in (1, 2, 2, 2, 4)])
    assert agreeing.speedup_high / agreeing.speedup_low == pytest.approx(2.1 / 1.9)
    assert wide.speedup_low < 1.2 < 3.4 < wide.speedup_high
    assert math.sqrt(wide.speedup_low * wide.speedup_high) == pytest.approx(wide.speedup)


def test_a_majority_of_polluted_passes_is_not_clean() -> None:
    dirty = replace(ONE, clean=False, polluted_share=0.9)
    assert pool_passes([ONE, ONE, dirty]).clean
    assert not pool_passes([ONE, dirty, dirty]).clean
    assert pool_passes([ONE, dirty, dirty]).polluted_share == pytest.approx((0.1 + 0.9 + 0.9) / 3)


def test_quantiles_are_averaged_by_samples_and_absent_where_unknown() -> None:
    pooled = pool_passes([ONE, replace(ONE, samples=36, quantiles_ms=(2.0, 2.1, 2.2, 2.3, 2.4))])
    assert pooled.quantiles_ms == pytest.approx((1.75, 1.85, 1.95, 2.05, 2.15))
    assert pool_passes([replace(ONE, quantiles_ms=())] * 2).quantiles_ms == ()
