"""Features -> learned quality: the regressors of the ensemble, each with a standard deviation of its own."""

from __future__ import annotations

import warnings
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import BayesianRidge

Floats = npt.NDArray[np.float64]

TREES = 150
TREE_SPREAD = 0.5
FAR = 6.0
LEAST_STD = 1e-3


class Member(Protocol):
    """One regressor: `fit` learns from [n, F] features and [n] targets, `predict` gives [m] means and deviations."""

    def fit(self, features: Floats, target: Floats) -> Self:
        """Learn from scratch."""
        ...

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, both in the target's unit."""
        ...


class Standardiser:
    """Columns to mean 0 and deviation 1, clipped far outside of what was seen; constant columns become 0."""

    def fit(self, features: Floats) -> Self:
        """Learn means and deviations."""
        self.mean_ = features.mean(axis=0)
        spread = features.std(axis=0)
        self.scale_ = np.where(spread < 1e-9, np.inf, spread)
        return self

    def __call__(self, features: Floats) -> Floats:
        """Return the scaled features."""
        return np.asarray(np.clip((features - self.mean_) / self.scale_, -FAR, FAR))


class Trees:
    """Extremely randomised trees (Geurts et al., 2006) on bootstrap samples; deviation = half that of the trees.

    Args:
        seed: Seed of the trees.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: Floats, target: Floats) -> Self:
        """Grow the trees."""
        forest = ExtraTreesRegressor(TREES, max_features=0.5, bootstrap=True, random_state=self.seed)
        self.forest_ = forest.fit(features, target)
        return self

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, both in the target's unit."""
        data = np.ascontiguousarray(features, dtype=np.float32)
        each = np.array([tree.tree_.predict(data)[:, 0] for tree in self.forest_.estimators_])
        return each.mean(axis=0), TREE_SPREAD * each.std(axis=0) + LEAST_STD


class Ridge:
    """Bayesian ridge regression (MacKay, 1992) on standardised features."""

    def fit(self, features: Floats, target: Floats) -> Self:
        """Estimate weights and noise."""
        self.scaler_ = Standardiser().fit(features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_ = BayesianRidge().fit(self.scaler_(features), target)
        return self

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, both in the target's unit."""
        mean, std = self.model_.predict(self.scaler_(features), return_std=True)
        return np.asarray(mean), np.asarray(std)


class GaussianProcess:
    """Gaussian process with a Matern-5/2 kernel of one length scale plus a linear kernel, on standardised features.

    Three numbers are fitted by marginal likelihood (length scale, share of the linear part, noise); the amplitude has
    its closed form. Fitting is cubic in n: for n <= 300.
    """

    def fit(self, features: Floats, target: Floats) -> Self:
        """Choose the kernel's numbers and factorise."""
        self.scaler_ = Standardiser().fit(features)
        self.x_ = self.scaler_(features)
        self.mean_ = float(target.mean())
        y = target - self.mean_
        squared, linear = _distances(self.x_, self.x_), self.x_ @ self.x_.T / self.x_.shape[1]
        start = np.array([0.5 * np.log(max(self.x_.shape[1], 1)) + 0.5, 0.0, -3.0])
        found = optimize.minimize(
            lambda theta: _loss(theta, squared, linear, y),
            start,
            method="Nelder-Mead",
            options={"maxfev": 60, "xatol": 0.05, "fatol": 0.05},
        )
        self.theta_ = found.x
        kernel = _kernel(self.theta_, squared, linear)
        kernel[np.diag_indices_from(kernel)] += _noise(self.theta_)
        self.factor_ = linalg.cho_factor(kernel, lower=True)
        self.alpha_ = linalg.cho_solve(self.factor_, y)
        self.amplitude_ = max(float(y @ self.alpha_) / len(y), 1e-12)
        return self

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, both in the target's unit."""
        x = self.scaler_(features)
        linear = x @ self.x_.T / self.x_.shape[1]
        cross = _kernel(self.theta_, _distances(x, self.x_), linear)
        solved = linalg.solve_triangular(self.factor_[0], cross.T, lower=True, check_finite=False)
        own = 1.0 + np.exp(self.theta_[1]) * (x * x).sum(axis=1) / self.x_.shape[1]
        variance = np.maximum(own - (solved**2).sum(axis=0), 0.0) + _noise(self.theta_)
        return self.mean_ + cross @ self.alpha_, np.sqrt(self.amplitude_ * variance) + LEAST_STD


def _distances(a: Floats, b: Floats) -> Floats:
    """Return [n, m] squared distances."""
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def _noise(theta: Floats) -> float:
    return float(np.exp(np.clip(theta[2], -9.0, 1.0)))


def _kernel(theta: Floats, squared: Floats, linear: Floats) -> Floats:
    scaled = np.sqrt(5.0 * squared) / np.exp(np.clip(theta[0], -2.0, 6.0))
    matern = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return np.asarray(matern + np.exp(np.clip(theta[1], -9.0, 5.0)) * linear)


def _loss(theta: Floats, squared: Floats, linear: Floats, y: Floats) -> float:
    """Return the negative log marginal likelihood, amplitude profiled out, with a weak prior on the numbers."""
    kernel = _kernel(theta, squared, linear)
    kernel[np.diag_indices_from(kernel)] += _noise(theta)
    try:
        factor = linalg.cholesky(kernel, lower=True, check_finite=False, overwrite_a=True)
    except linalg.LinAlgError:
        return 1e9
    half = linalg.solve_triangular(factor, y, lower=True, check_finite=False)
    fit = 0.5 * len(y) * float(np.log(max(float(half @ half), 1e-12) / len(y)))
    return fit + float(np.log(np.diag(factor)).sum()) + 0.05 * float(((theta - [2.0, 0.0, -3.0]) ** 2).sum())
