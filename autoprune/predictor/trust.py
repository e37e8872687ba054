"""Predictions made before a measurement + the measurement -> how far a predictor can be trusted.

Everything is prequential: a figure never uses a prediction that was made after its candidate was measured. Predicted
and measured values are on one scale and smaller is better; cost alone, as a predictor, says that a larger candidate
is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SAME_COST = 0.25
LEVEL = 0.9
# Half-width of the central 90% of a normal distribution, in standard deviations.
NORMAL_90 = 1.6448536269514722
# A predictor gets better with every refit: residuals older than these say little about the next ones.
RECENT = 60
MIN_STD = 1e-9
MIN_PAIRS = 50
SLACK = 0.02


@dataclass(frozen=True)
class CostOnly:
    """How well cost alone orders the same candidates."""

    kendall_tau: float | None = None
    concordance: float | None = None


@dataclass(frozen=True)
class TrustRound:
    """How far predictions were right up to a round.

    Args:
        evaluation: Number of the newest candidate that took part.
        fidelity: How much training the candidates had.
        n: Predictions that took part.
        kendall_tau: Rank correlation of predicted and measured, in [-1, 1]; None where it does not exist.
        same_cost_concordance: Share of rightly ordered pairs among candidates of about equal cost; 0.5 is chance.
        cost_only: The same figures of cost alone.
        mean_absolute_error: On the scale of the values.
        coverage_90: Share of measurements inside the recalibrated 90% interval.
    """

    evaluation: int
    fidelity: str
    n: int
    kendall_tau: float | None = None
    same_cost_concordance: float | None = None
    cost_only: CostOnly = CostOnly()
    mean_absolute_error: float | None = None
    coverage_90: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One candidate, predicted first and then measured.

    Args:
        mean: Predicted value, smaller is better.
        std: Standard deviation that came with it, before any recalibration.
        measured: Measured value, on the same scale.
        cost: Such as MACs, > 0.
        evaluation: Number of the candidate in the run.
        fidelity: How much training it had.
    """

    mean: float
    std: float
    measured: float
    cost: float
    evaluation: int
    fidelity: str


@dataclass(frozen=True)
class PriorComparison:
    """Whether a predictor orders candidates of equal cost better than what is known without learning.

    Args:
        better: None while there are too few pairs to tell.
        pairs: Pairs of about equal cost with unequal measurements.
        concordance: The predictor's.
        baseline: Name of the best baseline.
        baseline_concordance: Its concordance.
    """

    better: bool | None
    pairs: int
    concordance: float | None
    baseline: str
    baseline_concordance: float | None

    @property
    def reason(self) -> str | None:
        """Why the predictor should be set aside; None while it need not."""
        if self.better is not False:
            return None
        return (
            f"of {self.pairs} pairs of about equal cost the predictor orders {self.concordance:.2f} rightly, "
            f"{self.baseline} {self.baseline_concordance:.2f}"
        )


def kendall_tau(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> float | None:
    """Return Kendall's tau-b in [-1, 1]; None under two values or where one side is constant."""
    from scipy.stats import kendalltau

    left, right = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(kendalltau(left, right).statistic)


def same_cost_concordance(
    predicted: npt.ArrayLike, measured: npt.ArrayLike, cost: npt.ArrayLike, tolerance: float = SAME_COST
) -> float | None:
    """Return the share of rightly ordered pairs among those whose costs differ by less than `tolerance`.

    Pairs with equal measurements do not count, equal predictions count half; None without any pair.

    Args:
        predicted: [n], in the direction of `measured`.
        measured: [n].
        cost: [n], > 0.
        tolerance: Of the larger cost over the smaller, minus one.
    """
    pairs = _pairs(np.asarray(measured, dtype=np.float64), np.asarray(cost, dtype=np.float64), tolerance)
    return _concordance(np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64), pairs)


def coverage(
    predicted: npt.ArrayLike, std: npt.ArrayLike, measured: npt.ArrayLike, scale: npt.ArrayLike = 1.0
) -> float | None:
    """Return the share of measurements within the central 90% interval of N(predicted, (scale * std)^2)."""
    scores = _scores(np.asarray(predicted), np.asarray(std), np.asarray(measured))
    return float(np.mean(scores <= NORMAL_90 * np.asarray(scale))) if len(scores) else None


def recalibration(predicted: npt.ArrayLike, std: npt.ArrayLike, measured: npt.ArrayLike) -> float:
    """Return the scalar for `std` with which the 90% interval holds for the next candidate, by past residuals.

    The conformal quantile is taken, which errs to the wide side; under nine residuals, too few for one, the widest
    residual, and never less than 1.
    """
    return _scale(_scores(np.asarray(predicted), np.asarray(std), np.asarray(measured)))


def better_than_prior(
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    cost: npt.ArrayLike,
    baselines: Mapping[str, npt.ArrayLike],
    *,
    min_pairs: int = MIN_PAIRS,
) -> PriorComparison:
    """Compare a predictor with baseline predictions and cost alone on pairs of about equal cost.

    A predictor that is worse by no more than 0.02 still counts as better: over so few pairs that is noise.

    Args:
        predicted: [n] made before the measurements, smaller is better.
        measured: [n].
        cost: [n], > 0.
        baselines: Name -> [n] predictions without learning, such as the additive prior; smaller is better.
        min_pairs: Pairs under which nothing is said.
    """
    truth, costs = np.asarray(measured, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    pairs = _pairs(truth, costs, SAME_COST)
    own = _concordance(np.asarray(predicted, dtype=np.float64), truth, pairs)
    known = {
        name: _concordance(np.asarray(values, dtype=np.float64), truth, pairs) for name, values in baselines.items()
    }
    known["cost alone"] = _concordance(-costs, truth, pairs)
    name, best = max(known.items(), key=lambda item: -1.0 if item[1] is None else item[1])
    count = int(pairs.sum())
    if own is None or best is None or count < min_pairs:
        return PriorComparison(None, count, own, name, best)
    return PriorComparison(own >= best - SLACK, count, own, name, best)


class TrustLog:
    """Predictions and what came of them, in the order in which the measurements arrived; fidelities stay apart."""

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        self._outcomes: list[Outcome] = []
        for outcome in outcomes:
            self.append(outcome)

    def __len__(self) -> int:
        """Return the number of predictions of all fidelities."""
        return len(self._outcomes)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All in order."""
        return tuple(self._outcomes)

    def append(self, outcome: Outcome) -> None:
        """Add a prediction whose candidate has been measured; one that is not finite says nothing and is left out."""
        if all(math.isfinite(value) for value in (outcome.mean, outcome.std, outcome.measured)):
            self._outcomes.append(outcome)

    def scale(self, fidelity: str | None = None) -> float:
        """Return the scalar for the standard deviation of the next prediction."""
        table = _Table.of(self._of(fidelity))
        return _scale(table.scores)

    def figures(self, fidelity: str | None = None) -> TrustRound | None:
        """Return the figures over all predictions of a fidelity, the newest by default; None without any."""
        chosen = self._of(fidelity)
        return _Table.of(chosen).round() if chosen else None

    def rounds(self, every: int = 10) -> tuple[TrustRound, ...]:
        """Return the figures after every so many predictions of each fidelity, and after its last."""
        found = []
        for fidelity in dict.fromkeys(outcome.fidelity for outcome in self._outcomes):
            chosen = self._of(fidelity)
            ends = [*range(every, len(chosen), every), len(chosen)]
            found += [_Table.of(chosen[:end]).round() for end in ends]
        return tuple(found)

    def _of(self, fidelity: str | None) -> list[Outcome]:
        if fidelity is None and self._outcomes:
            fidelity = self._outcomes[-1].fidelity
        return [outcome for outcome in self._outcomes if outcome.fidelity == fidelity]


@dataclass(frozen=True)
class _Table:
    """Predictions of one fidelity as columns, each [n]."""

    fidelity: str
    evaluation: int
    mean: FloatArray
    measured: FloatArray
    cost: FloatArray
    scores: FloatArray

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> _Table:
        columns = np.array([(p.mean, p.std, p.measured, p.cost) for p in outcomes], dtype=np.float64).reshape(-1, 4)
        mean, std, measured, cost = columns.T
        newest = max((p.evaluation for p in outcomes), default=0)
        fidelity = outcomes[-1].fidelity if outcomes else ""
        return cls(fidelity, newest, mean, measured, cost, _scores(mean, std, measured))

    def round(self) -> TrustRound:
        pairs = _pairs(self.measured, self.cost, SAME_COST)
        return TrustRound(
            evaluation=self.evaluation,
            fidelity=self.fidelity,
            n=len(self.mean),
            kendall_tau=kendall_tau(self.mean, self.measured),
            same_cost_concordance=_concordance(self.mean, self.measured, pairs),
            cost_only=CostOnly(kendall_tau(-self.cost, self.measured), _concordance(-self.cost, self.measured, pairs)),
            mean_absolute_error=float(np.abs(self.mean - self.measured).mean()),
            coverage_90=float(np.mean(self.scores <= NORMAL_90 * _scales_before(self.scores))),
        )


def _scores(mean: FloatArray, std: FloatArray, measured: FloatArray) -> FloatArray:
    """Return residuals in standard deviations."""
    return np.asarray(np.abs(measured - mean) / np.maximum(std, MIN_STD))


def _scale(scores: FloatArray) -> float:
    recent = np.sort(scores[-RECENT:])
    rank = math.ceil(LEVEL * (len(recent) + 1))
    if rank > len(recent):
        return max(1.0, float(recent[-1]) / NORMAL_90) if len(recent) else 1.0
    return float(recent[rank - 1]) / NORMAL_90


def _scales_before(scores: FloatArray) -> FloatArray:
    """Return [n] the scale that was known when each prediction was made."""
    return np.array([_scale(scores[:end]) for end in range(len(scores))])


def _pairs(measured: FloatArray, cost: FloatArray, tolerance: float) -> BoolArray:
    """Return [n, n] which pairs (upper triangle) have about equal cost and unequal measurements."""
    close = np.maximum(cost[:, None], cost) < (1.0 + tolerance) * np.minimum(cost[:, None], cost)
    return np.asarray(np.triu(close & (measured[:, None] != measured), k=1))


def _concordance(predicted: FloatArray, measured: FloatArray, pairs: BoolArray) -> float | None:
    if not pairs.any():
        return None
    first, second = np.nonzero(pairs)
    agreement = np.sign(predicted[first] - predicted[second]) * np.sign(measured[first] - measured[second])
    return float((agreement + 1.0).mean() / 2.0)
