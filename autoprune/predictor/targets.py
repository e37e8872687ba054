"""Metric values -> what is learned, and back: larger is worse, additive effects stay additive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.tasks.protocol import MetricSpec

CLIP = (0.004, 0.985)
LEAST = 1e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """The scale on which one metric is learned.

    A metric with two finite bounds is learned as the logit of its error (the distance from its best value as a share
    of its range, clipped to 0.4%..98.5%); one with a finite best value as the logarithm of that distance; any other
    as its loss against the dense model, in units of the dense value.

    Args:
        spec: The metric.
        dense: Its value on the dense model.
    """

    spec: MetricSpec
    dense: float

    @property
    def _sign(self) -> float:
        return 1.0 if self.spec.direction == "min" else -1.0

    @property
    def _best(self) -> float:
        return self.spec.bounds[0] if self.spec.direction == "min" else self.spec.bounds[1]

    @property
    def _span(self) -> float:
        return self.spec.bounds[1] - self.spec.bounds[0]

    def learned(self, values: npt.ArrayLike) -> Floats:
        """Return [n] learned values of [n] metric values; finite in, finite out."""
        given = np.asarray(values, dtype=np.float64)
        if not math.isfinite(self._best):
            return np.asarray(self._sign * (given - self.dense) / (abs(self.dense) or 1.0))
        error = self._sign * (given - self._best)
        if not math.isfinite(self._span):
            return np.log(np.maximum(error, LEAST))
        share = np.clip(error / self._span, *CLIP)
        return np.asarray(np.log(share / (1.0 - share)))

    def values(self, learned: npt.ArrayLike) -> Floats:
        """Return [n] metric values of [n] learned ones."""
        z = np.asarray(learned, dtype=np.float64)
        if not math.isfinite(self._best):
            return np.asarray(self.dense + self._sign * z * (abs(self.dense) or 1.0))
        if not math.isfinite(self._span):
            return np.asarray(self._best + self._sign * np.exp(np.clip(z, -50.0, 50.0)))
        return np.asarray(self._best + self._sign * self._span / (1.0 + np.exp(-np.clip(z, -50.0, 50.0))))
