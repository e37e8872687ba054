"""Evaluated rows -> predicted quality: the mean of a few different regressors, refitted from scratch every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from autoprune.predictor.members import GaussianProcess, Member, Ridge, Trees
from autoprune.predictor.trust import same_cost_concordance

Floats = npt.NDArray[np.float64]

GP_LIMIT = 300
MOST_WEIGHED = 600
LEAST_WEIGHT = 0.05
MEMBERS: Mapping[str, Callable[[int], Member]] = {
    "trees": Trees,
    "ridge": lambda _seed: Ridge(),
    "gp": lambda _seed: GaussianProcess(),
}


@dataclass(frozen=True)
class Prediction:
    """What an ensemble expects: never to be taken for a measurement.

    Args:
        mean: [n] learned quality, larger is worse.
        std: [n] one standard deviation.
        members: Name -> [n] mean of each regressor.
    """

    mean: Floats
    std: Floats
    members: Mapping[str, Floats]


class Ensemble:
    """Mean of extra trees, Bayesian ridge and, up to 300 points, a Gaussian process.

    The variance is the members' mean variance plus their disagreement.

    Args:
        seed: Seed of the trees.
        weights: Member -> weight; missing ones count 1.
        names: Members to use; None takes all.
    """

    def __init__(
        self, *, seed: int = 0, weights: Mapping[str, float] | None = None, names: tuple[str, ...] | None = None
    ) -> None:
        self.seed = seed
        self.weights = dict(weights or {})
        self.names = names or tuple(MEMBERS)

    def fit(self, features: Floats, target: Floats) -> Self:
        """Learn from [n, F] features and [n] targets, n >= 2."""
        names = [n for n in self.names if n != "gp" or len(target) <= GP_LIMIT]
        self.members_ = {name: MEMBERS[name](self.seed).fit(features, target) for name in names}
        raw = np.array([max(self.weights.get(name, 1.0), 0.0) for name in names])
        self.share_ = raw / raw.sum() if raw.sum() > 0 else np.full(len(names), 1.0 / len(names))
        return self

    def predict(self, features: Floats) -> Prediction:
        """Return what to expect of [n, F] features."""
        each = {name: member.predict(features) for name, member in self.members_.items()}
        means = np.array([mean for mean, _ in each.values()])
        mean = self.share_ @ means
        variance = self.share_ @ np.array([std**2 for _, std in each.values()]) + self.share_ @ (means - mean) ** 2
        return Prediction(mean, np.sqrt(variance), {name: m for name, (m, _) in each.items()})


def member_weights(features: Floats, target: Floats, cost: Floats, *, seed: int) -> dict[str, float]:
    """Return how far each member is to be trusted: by the pairs of about equal cost that it orders rightly, unseen.

    Members learn from the first two thirds of the points, in order of evaluation, and are judged on the last third;
    of more than 600 points, on every second, third and so on.

    Args:
        features: [n, F].
        target: [n] learned quality.
        cost: [n], > 0.
        seed: Seed of the trees.
    """
    step = 1 + (len(target) - 1) // MOST_WEIGHED
    features, target, cost = features[::step], target[::step], cost[::step]
    split = 2 * len(target) // 3
    weights = {}
    for name, make in MEMBERS.items():
        if name == "gp" and len(target) > GP_LIMIT:
            continue
        mean, _ = make(seed).fit(features[:split], target[:split]).predict(features[split:])
        right = same_cost_concordance(mean, target[split:], cost[split:])
        weights[name] = LEAST_WEIGHT if right is None else max(right - 0.5, LEAST_WEIGHT)
    return weights
