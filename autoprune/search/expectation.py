"""Observations -> what to expect of any row: quality learned, cost counted, latency modelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from autoprune.predictor.ensemble import Ensemble, Prediction, member_weights
from autoprune.predictor.latency import LatencyModel
from autoprune.predictor.targets import Target
from autoprune.requirements import Requirement
from autoprune.search.context import SamplerContext
from autoprune.search.genome import Genome, Rows
from autoprune.search.objectives import COSTS, Objective
from autoprune.search.observations import Observations
from autoprune.search.scaling import Ranges, ranges_of, scaled

Floats = npt.NDArray[np.float64]

FEW_POINTS = 3
WEIGHED_FROM = 60
EARLY_WEIGHTS = {"trees": 0.5, "ridge": 1.0, "gp": 1.5}
HARD_FROM = 60
HIGH_QUANTILE = 1.645
LEAST_CHANCE = 1e-6


@dataclass(frozen=True)
class Forecast:
    """What is expected of rows.

    Args:
        points: [n, k] scaled objectives, minimised, 1 = the worst that counts; quality somewhat optimistic.
        chance: [n] probability of satisfying all constraints.
        mean: [n, k] values in the user's orientation.
        std: [n, k] their standard deviations.
    """

    points: Floats
    chance: Floats
    mean: Floats
    std: Floats

    def told(self, row: int, objectives: tuple[Objective, ...], evaluation: int) -> dict[str, dict[str, float]]:
        """Return the prediction of one row as its record keeps it."""
        return {
            o.name: {"mean": float(self.mean[row, i]), "std": float(self.std[row, i]), "at_evaluation": evaluation}
            for i, o in enumerate(objectives)
        }


class CostForecast:
    """Costs of any row: counted where they follow from widths, modelled where they are measured.

    Args:
        genome: Rows of the space.
        context: The phase.
    """

    def __init__(self, genome: Genome, context: SamplerContext) -> None:
        self.genome = genome
        self.costs = context.costs
        self.dense = context.dense
        self._latency: LatencyModel | None = None
        self._packing: float | None = None

    def fit(self, widths: Rows, measured: Mapping[str, Floats]) -> Self:
        """Learn latency and the packed size from what was measured.

        Args:
            widths: [n, G] kept units.
            measured: Cost -> [n] values; NaN where unknown.
        """
        latency = measured.get("latency_ms")
        if latency is not None:
            known = np.isfinite(latency) & (latency > 0.0)
            if known.sum() >= FEW_POINTS:
                self._latency = LatencyModel(self.costs).fit(widths[known], latency[known])
        packed = measured.get("compressed_bytes")
        if packed is not None and np.isfinite(packed).any():
            self._packing = float(np.nanmedian(packed / self.costs.bytes(widths)))
        return self

    def predict(self, name: str, widths: Rows) -> Floats:
        """Return [n] expected values of one cost."""
        if name == "macs":
            return self.costs.macs(widths)
        if name == "parameters":
            return self.costs.parameters(widths)
        if name == "nonzero":
            return self.costs.nonzero(widths)
        if name == "latency_ms":
            if self._latency is not None:
                return self._latency.predict(widths)
            macs = self.costs.macs(np.vstack([self.genome.dense_widths[None, :], widths]))
            return np.asarray(self.dense.get("latency_ms", 1.0) * macs[1:] / macs[0])
        return self.costs.bytes(widths) * (self._packing or 1.0 if name == "compressed_bytes" else 1.0)

    def known(self, name: str) -> bool:
        """Tell whether a cost can be expected in its unit: a measured one cannot before anything was measured."""
        if name == "latency_ms":
            return self._latency is not None or name in self.dense
        return name != "compressed_bytes" or self._packing is not None

    def margin(self, name: str) -> float:
        """Return the 90% quantile of the error of a cost's logarithm; 0 where it is counted."""
        if name == "latency_ms":
            return math.log(2.0) if self._latency is None else self._latency.margin
        return 0.0

    def share(self, name: str, levels: Rows) -> Floats:
        """Return [n] natural logarithms of a cost's share of the dense model's, for [n, G] levels."""
        widths = self.genome.widths(np.vstack([np.zeros((1, levels.shape[1]), dtype=np.int64), levels]))
        value = np.log(np.maximum(self.predict(name, widths), 1e-12))
        return np.asarray(value[1:] - value[0])


class Expectation:
    """Forecasts every objective and the constraints of any row.

    Args:
        genome: Rows of the space.
        context: The phase.
        encode: Rows -> features.
        costs: Fitted to everything that was measured, earlier phases included.
        explore: How many standard deviations of optimism quality gets.
    """

    def __init__(
        self,
        genome: Genome,
        context: SamplerContext,
        encode: Callable[[Rows], Floats],
        costs: CostForecast,
        explore: float = 0.0,
    ) -> None:
        self.genome = genome
        self.context = context
        self.encode = encode
        self.costs = costs
        self.explore = explore
        self.weights_: dict[str, float] = {}

    def reach(self, seen: Observations, dense: Mapping[str, float]) -> Self:
        """Fix what counts: the unit box, and the scales on which metrics are learned.

        Args:
            seen: What was measured, in the current phase.
            dense: Objective -> value of the dense model, every one known.
        """
        specs = {m.name: m for m in self.context.metrics}
        self.ranges_ = self._ranges(seen, dense)
        wanted = {**self.context.dense, **dense}
        names = [name for name in (*(o.name for o in self.context.objectives), *seen.aside) if name not in COSTS]
        self.targets_ = {name: Target(specs[name], wanted.get(name, 1.0)) for name in names}
        return self

    def fit(self, seen: Observations) -> Self:
        """Learn quality from observations, after `reach`."""
        self.seen_ = len(seen)
        features = self.encode(seen.rows)
        macs = self.context.costs.macs(self.genome.widths(seen.rows))
        columns = {o.name: seen.values[:, i] for i, o in enumerate(self.context.objectives)} | dict(seen.aside)
        self.ensembles_: dict[str, Ensemble] = {}
        for name, target in self.targets_.items():
            known = np.isfinite(columns[name])
            if known.sum() < FEW_POINTS:
                continue
            learned = target.learned(columns[name][known])
            if not self.weights_ and len(seen) >= WEIGHED_FROM:
                self.weights_ = member_weights(features[known], learned, macs[known], seed=self.context.seed)
            ensemble = Ensemble(seed=self.context.seed, weights=self.weights_ or EARLY_WEIGHTS)
            self.ensembles_[name] = ensemble.fit(features[known], learned)
        return self

    def _ranges(self, seen: Observations, dense: Mapping[str, float]) -> Ranges:
        """Return the ranges that count: up to the constraints' bounds once some candidate satisfies them."""
        ranges = dict(ranges_of(self.context.objectives, self.context.metrics, dense))
        if not (seen.violation <= 0.0).any():
            return ranges
        for requirement in self.context.demands.values():
            if requirement.metric in ranges:
                best, worst = ranges[requirement.metric]
                inside = min(best, worst) < requirement.bound < max(best, worst)
                if inside and requirement.relation == ("<=" if best < worst else ">="):
                    ranges[requirement.metric] = (best, requirement.bound)
        return ranges

    def points(self, values: Floats) -> Floats:
        """Return [n, k] measured values in the unit box."""
        return scaled(self.context.objectives, self.ranges_, values)

    def forecast(self, rows: Rows, *, explore: float | None = None) -> Forecast:
        """Return what to expect of [n, D] rows; `explore` standard deviations of optimism, None takes the usual."""
        optimism = self.explore if explore is None else explore
        widths = self.genome.widths(rows)
        features = self.encode(rows)
        count = len(self.context.objectives)
        mean, std, hoped = (np.zeros((len(rows), count)) for _ in range(3))
        learned = {name: ensemble.predict(features) for name, ensemble in self.ensembles_.items()}
        for index, objective in enumerate(self.context.objectives):
            if objective.name in learned:
                target, predicted = self.targets_[objective.name], learned[objective.name]
                mean[:, index] = target.values(predicted.mean)
                hoped[:, index] = target.values(predicted.mean - optimism * predicted.std)
                above, below = (
                    target.values(predicted.mean + predicted.std),
                    target.values(predicted.mean - predicted.std),
                )
                std[:, index] = np.abs(above - below) / 2.0
            else:
                mean[:, index] = hoped[:, index] = self.costs.predict(objective.name, widths)
                std[:, index] = mean[:, index] * self.costs.margin(objective.name) / HIGH_QUANTILE
        points = np.minimum(scaled(self.context.objectives, self.ranges_, hoped), 1.0)
        return Forecast(points, self._chance(widths, learned), mean, std)

    def _chance(self, widths: Rows, learned: Mapping[str, Prediction]) -> Floats:
        chance = np.ones(len(widths))
        for requirement in self.context.demands.values():
            if requirement.metric in COSTS:
                chance *= self._cost_chance(requirement, widths)
            elif requirement.metric in learned:
                predicted = learned[requirement.metric]
                bound = float(self.targets_[requirement.metric].learned([requirement.bound])[0])
                likely = norm.cdf((bound - predicted.mean) / np.maximum(predicted.std, 1e-6))
                chance *= np.maximum(likely, LEAST_CHANCE if self.seen_ < HARD_FROM else 0.0)
        return chance

    def _cost_chance(self, requirement: Requirement, widths: Rows) -> Floats:
        """Return [n] chances; a cost that is certainly too high has none, one that is unknown excludes nothing."""
        if not self.costs.known(requirement.metric):
            return np.ones(len(widths))
        value = np.log(np.maximum(self.costs.predict(requirement.metric, widths), 1e-12))
        excess = (value - math.log(max(requirement.bound, 1e-12))) * (1.0 if requirement.relation == "<=" else -1.0)
        margin = self.costs.margin(requirement.metric)
        if margin <= 0.0:
            return np.asarray(excess <= 0.0, dtype=np.float64)
        likely = norm.cdf(-excess / (margin / HIGH_QUANTILE))
        return np.asarray(np.where(excess > margin, 0.0, likely))
