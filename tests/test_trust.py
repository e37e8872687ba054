from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from autoprune.predictor import (
    Outcome,
    TrustLog,
    better_than_prior,
    coverage,
    kendall_tau,
    recalibration,
    same_cost_concordance,
)
from autoprune.report import document


def outcomes(n: int, *, noise: float, std: float = 1.0, seed: int = 0, fidelity: str = "proxy") -> list[Outcome]:
    """Measured values that fall with cost, predicted with an error of `noise`."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(1.0, 4.0, n)
    measured = -np.log(cost) + rng.normal(0, 1.0, n)
    mean = measured + rng.normal(0, 1.0, n) * noise
    rows = zip(mean, measured, cost, strict=True)
    return [
        Outcome(float(m), std, float(y), float(c), evaluation=10 + i, fidelity=fidelity)
        for i, (m, y, c) in enumerate(rows)
    ]


def test_tau_is_one_for_the_same_order_and_nothing_for_constants() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 40]) == pytest.approx(1.0)
    assert kendall_tau([3, 2, 1], [10, 20, 40]) == pytest.approx(-1.0)
    assert kendall_tau([1, 2, 3], [5, 5, 5]) is None
    assert kendall_tau([1], [1]) is None


def test_only_pairs_of_about_equal_cost_count() -> None:
    predicted, measured, cost = [1.0, 2.0, 0.0], [1.0, 2.0, 3.0], [100.0, 110.0, 200.0]
    assert same_cost_concordance(predicted, measured, cost) == 1.0
    assert same_cost_concordance(predicted, measured, cost, tolerance=2.0) == pytest.approx(1 / 3)


def test_equal_measurements_do_not_count_and_equal_predictions_count_half() -> None:
    assert same_cost_concordance([1, 2], [5, 5], [1, 1]) is None
    assert same_cost_concordance([1, 1], [5, 6], [1, 1]) == 0.5
    assert same_cost_concordance([1, 1, 2], [5, 6, 6], [1, 1, 1]) == 0.75


def test_coverage_is_the_share_inside_the_scaled_interval() -> None:
    assert coverage([0, 0, 0, 0], [1, 1, 1, 1], [0, 1.6, 1.7, -5]) == 0.5
    assert coverage([0, 0, 0, 0], [1, 1, 1, 1], [0, 1.6, 1.7, -5], scale=2.0) == 0.75
    assert coverage([], [], []) is None


@pytest.mark.parametrize("true_scale", [0.3, 1.0, 4.0])
def test_recalibration_finds_the_scale_of_the_residuals_on_the_wide_side(true_scale: float) -> None:
    rng = np.random.default_rng(0)
    residuals = rng.normal(0, true_scale, 60)
    scale = recalibration(residuals, np.ones(60), np.zeros(60))
    assert true_scale * 0.8 < scale < true_scale * 1.5
    assert np.mean(np.abs(residuals) <= 1.645 * scale) >= 0.9


def test_recalibration_never_narrows_intervals_by_few_residuals() -> None:
    assert recalibration([], [], []) == 1.0
    assert recalibration([0.1] * 5, [1.0] * 5, [0.0] * 5) == 1.0
    assert recalibration([3.29] * 5, [1.0] * 5, [0.0] * 5) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("overconfidence", [0.3, 1.0, 3.0])
def test_coverage_after_recalibration_is_near_90_percent_whatever_the_predictor_claimed(overconfidence: float) -> None:
    shares = []
    for seed in range(5):
        log = TrustLog(outcomes(150, noise=1.0, std=1.0 / overconfidence, seed=seed))
        figures = log.figures()
        assert figures is not None
        assert figures.coverage_90 is not None
        shares.append(figures.coverage_90)
    assert 0.85 <= np.mean(shares) <= 0.95


def test_coverage_of_an_outcome_uses_earlier_residuals_alone() -> None:
    wild = Outcome(100.0, 1.0, 0.0, 1.0, 99, "proxy")
    calm = [Outcome(0.5, 1.0, 0.0, 1.0, i, "proxy") for i in range(19)]
    after, before = TrustLog([*calm, wild]).figures(), TrustLog([wild, *calm]).figures()
    assert after is not None
    assert after.coverage_90 == pytest.approx(19 / 20)
    assert before is not None
    assert before.coverage_90 == pytest.approx(19 / 20)
    assert TrustLog(calm).scale() < TrustLog([wild, *calm[:5]]).scale()


def test_figures_tell_a_good_predictor_from_cost_alone() -> None:
    figures = TrustLog(outcomes(120, noise=0.2)).figures()
    assert figures is not None
    assert (figures.n, figures.evaluation, figures.fidelity) == (120, 129, "proxy")
    assert figures.same_cost_concordance is not None
    assert figures.cost_only.concordance is not None
    assert figures.same_cost_concordance > 0.85 > figures.cost_only.concordance
    assert figures.kendall_tau is not None
    assert figures.cost_only.kendall_tau is not None
    assert figures.kendall_tau > figures.cost_only.kendall_tau > 0
    assert figures.mean_absolute_error == pytest.approx(0.2 * 0.8, rel=0.3)


def test_rounds_grow_by_ten_within_each_fidelity_and_fit_the_report() -> None:
    log = TrustLog([*outcomes(23, noise=0.5), *outcomes(10, noise=0.5, fidelity="short")])
    rounds = log.rounds()
    assert [(r.fidelity, r.n) for r in rounds] == [("proxy", 10), ("proxy", 20), ("proxy", 23), ("short", 10)]
    assert rounds[0] == TrustLog(outcomes(23, noise=0.5)[:10]).figures()
    for item in rounds:
        read = document.TrustRound.model_validate(asdict(item))
        assert read.coverage_90 == item.coverage_90
        assert read.cost_only.concordance == item.cost_only.concordance


def test_figures_are_of_the_newest_fidelity_unless_another_is_named() -> None:
    log = TrustLog([*outcomes(12, noise=0.5), *outcomes(4, noise=0.5, fidelity="short")])
    newest, proxy = log.figures(), log.figures("proxy")
    assert newest is not None
    assert (newest.fidelity, newest.n) == ("short", 4)
    assert proxy is not None
    assert (proxy.fidelity, proxy.n) == ("proxy", 12)
    assert log.figures("full") is None


def test_an_empty_log_has_no_figures_and_values_that_are_not_finite_are_left_out() -> None:
    log = TrustLog()
    assert (log.figures(), log.rounds(), log.scale()) == (None, (), 1.0)
    log.append(Outcome(0.0, 1.0, float("nan"), 1.0, 0, "proxy"))
    assert len(log) == 0


def test_a_predictor_worse_than_the_prior_is_told_with_the_reason() -> None:
    log = outcomes(80, noise=3.0)
    measured = np.array([o.measured for o in log])
    cost = np.array([o.cost for o in log])
    predicted = np.array([o.mean for o in log])
    verdict = better_than_prior(predicted, measured, cost, {"the additive prior": measured * 2})
    assert verdict.better is False
    assert verdict.reason is not None
    assert "the additive prior 1.00" in verdict.reason
    assert better_than_prior(measured, measured, cost, {"the additive prior": predicted}).better is True


def test_too_few_pairs_say_nothing() -> None:
    verdict = better_than_prior([3, 2, 1], [1, 2, 3], [1, 1, 1], {})
    assert (verdict.better, verdict.pairs, verdict.baseline, verdict.reason) == (None, 3, "cost alone", None)
