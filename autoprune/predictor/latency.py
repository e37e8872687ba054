"""Widths + a few measured latencies -> predicted latency of candidates that were not built.

Convolution kernels work on blocks of 8 or 16 channels: they pad to whole blocks, and a number of inputs that is no
multiple of 4 sends a layer to a slower kernel. A narrower model can therefore be slower, and multiply-accumulates alone
predict badly. The model is a sum of non-negative terms with their own price: calls, work on padded blocks, work on the
slower path, activations, weights. With many points a linear correction in log space is learned on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from autoprune.errors import ConfigError
from autoprune.predictor.cost import CostModel

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BLOCKS = (8, 16)
ALIGNED_INPUTS = 4
SHRINKAGE = 0.05
CORRECT_FROM = 50
MAX_CORRECTION = 0.5
MIN_PREFIX = 5
MIN_CHECKED = 10
PREFIXES = 4
LEVEL = 0.9
DEFAULT_MARGIN = 0.3


@dataclass(frozen=True)
class LatencyError:
    """How far predictions were off: |log(predicted / measured)| of points predicted before they were learned.

    Args:
        n: Points.
        median: None without any point.
        quantile_90: None without any point.
    """

    n: int
    median: float | None = None
    quantile_90: float | None = None


class LatencyModel:
    """Latency of any widths on one target, learned from the candidates measured there.

    Args:
        costs: Cost of any widths of the same model.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def fit(self, widths: npt.ArrayLike, ms: npt.ArrayLike) -> Self:
        """Learn from measurements in the order in which they were made.

        Args:
            widths: [n, G] surviving units.
            ms: [n] measured milliseconds; those that are not positive and finite are left out.

        Raises:
            ConfigError: No measurement can be used.
        """
        measured = np.asarray(ms, dtype=np.float64)
        usable = np.isfinite(measured) & (measured > 0)
        if not usable.any():
            raise ConfigError(
                f"A latency model needs a measurement in milliseconds. Got {len(measured)}, none above 0.",
                hint="Measure the dense model first.",
            )
        terms, measured = self._terms(np.asarray(widths, dtype=np.float64)[usable]), measured[usable]
        self.prices_ = _Prices.of(terms, measured)
        self.residuals_ = _prequential(terms, measured)
        return self

    def predict(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n] expected milliseconds at [n, G] surviving units."""
        return self.prices_.at(self._terms(np.asarray(widths, dtype=np.float64)))

    @property
    def error(self) -> LatencyError:
        """How far predictions were off so far."""
        if not len(self.residuals_):
            return LatencyError(0)
        median, upper = np.quantile(self.residuals_, (0.5, LEVEL))
        return LatencyError(len(self.residuals_), float(median), float(upper))

    @property
    def margin(self) -> float:
        """Width that 90% of |log(predicted / measured)| stay under; 0.3 under 10 points that could be checked."""
        errors = np.sort(self.residuals_)
        if len(errors) < MIN_CHECKED:
            return DEFAULT_MARGIN
        return float(errors[min(len(errors), math.ceil(LEVEL * (len(errors) + 1))) - 1])

    def _terms(self, widths: FloatArray) -> FloatArray:
        """Return [n, F] non-negative quantities that each cost time; the first is the call itself."""
        costs = self.costs
        count = len(costs.layer_names)
        layers, channels = costs.layers(widths), costs.channels(widths)
        macs, weights = layers[:, :count], layers[:, count:]
        outputs, inputs = channels[..., 0], channels[..., 1]
        kinds = np.array(costs.layer_kinds)
        positions = macs / np.maximum(weights, 1.0)
        columns = [np.ones(len(widths)), weights.sum(axis=1), (positions * outputs).sum(axis=1)]
        for block in BLOCKS:
            slow = _slow(kinds, outputs, inputs, block)
            padding = np.where(kinds == "linear", 1.0, _padding(outputs, block) * _padding(inputs, block))
            columns += [
                np.where(slow, 0.0, macs * padding).sum(axis=1),
                np.where(slow, macs, 0.0).sum(axis=1),
                np.where(slow, positions * outputs, 0.0).sum(axis=1),
                np.where(slow, positions * inputs, 0.0).sum(axis=1),
            ]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class _Prices:
    """A fitted model: milliseconds of every term, and a correction that is linear in their logarithms.

    Args:
        price: [F] milliseconds a unit.
        centre: [F] means of the terms' logarithms.
        correction: [1 + F] offset and slopes of log(measured / priced).
    """

    price: FloatArray
    centre: FloatArray
    correction: FloatArray

    @classmethod
    def of(cls, terms: FloatArray, ms: FloatArray) -> _Prices:
        """Fit relative errors: non-negative least squares with a little shrinkage, then the correction."""
        from scipy.optimize import nnls

        scale, typical = np.maximum(terms.mean(axis=0), 1e-12), float(np.median(ms))
        size = terms.shape[1]
        rows = np.concatenate([terms / scale * (typical / ms)[:, None], math.sqrt(SHRINKAGE) * np.eye(size)])
        solution, _ = nnls(rows, np.concatenate([np.ones(len(ms)), np.zeros(size)]))
        price = solution * typical / scale
        residual = np.log(ms / np.maximum(terms @ price, 1e-12))
        logs = np.log1p(terms)
        centre, correction = logs.mean(axis=0), np.zeros(1 + size)
        correction[0] = np.median(residual)
        if len(ms) >= CORRECT_FROM:
            from sklearn.linear_model import BayesianRidge

            spread = np.maximum(logs.std(axis=0), 1e-9)
            learned = BayesianRidge(fit_intercept=False).fit((logs - centre) / spread, residual - correction[0])
            correction[1:] = learned.coef_ / spread
        return cls(price, centre, correction)

    def at(self, terms: FloatArray) -> FloatArray:
        """Return [n] milliseconds."""
        learned = np.clip((np.log1p(terms) - self.centre) @ self.correction[1:], -MAX_CORRECTION, MAX_CORRECTION)
        return np.asarray(terms @ self.price * np.exp(self.correction[0] + learned))


def _slow(kinds: npt.NDArray[np.str_], outputs: FloatArray, inputs: FloatArray, block: int) -> BoolArray:
    """Return [n, L] which convolutions the blocked kernels do not take."""
    inner = (kinds == "convolution") & (inputs >= block) & (inputs % ALIGNED_INPUTS != 0)
    return np.asarray(inner | ((kinds == "grouped") & (outputs % block != 0)))


def _padding(channels: FloatArray, block: int) -> FloatArray:
    """Return how many times a blocked kernel's channels exceed the given ones; the few of an image stay unpadded."""
    return np.asarray(np.where(channels < ALIGNED_INPUTS, 1.0, np.ceil(channels / block) * block / channels))


def _prequential(terms: FloatArray, ms: FloatArray) -> FloatArray:
    """Return |log(predicted / measured)| of all but the first quarter, each predicted from an earlier prefix."""
    starts = sorted({max(MIN_PREFIX, len(ms) * part // PREFIXES) for part in range(1, PREFIXES)})
    errors = [np.zeros(0)]
    for start, end in zip(starts, [*starts[1:], len(ms)], strict=True):
        if start < end:
            errors.append(np.abs(np.log(_Prices.of(terms[:start], ms[:start]).at(terms[start:end]) / ms[start:end])))
    return np.concatenate(errors)
