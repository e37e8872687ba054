"""One-at-a-time results -> additive model: what each group loses at each level, summed (SPDY, HALP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Costs = Callable[[Rows], Floats]

LEAST_LOSS = 0.01
USUAL_POWER = 2.5
POWERS = (1.0, 6.0)
SATURATION = 6.0
SWEEPS = 6


@dataclass(frozen=True)
class Probe:
    """What removing part of one group alone cost.

    Args:
        group: Column of the group.
        removed: Share of its units removed, in (0, 1).
        loss: Increase of the learned signal over the dense model.
    """

    group: int
    removed: float
    loss: float


@dataclass(frozen=True)
class AdditiveModel:
    """Loss of every level of every group, as if groups did not interact.

    Sources: Frantar and Alistarh, SPDY, ICML 2022; Shen et al., HALP, NeurIPS 2022.

    Args:
        curves: [G, levels] non-negative, non-decreasing along the levels.
    """

    curves: Floats

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.curves)

    def terms(self, rows: Rows) -> Floats:
        """Return [n, G] losses of each group alone."""
        return np.asarray(self.curves[np.arange(self.groups), rows[:, : self.groups]])

    def features(self, rows: Rows) -> Floats:
        """Return [n, 3]: the sum, the largest term, and a sum in which large terms count for more."""
        terms = self.terms(rows)
        grown = np.log1p(np.expm1(np.minimum(terms, SATURATION)).sum(axis=1))
        return np.column_stack([terms.sum(axis=1), terms.max(axis=1), grown])

    def rescaled(self, factors: Floats) -> AdditiveModel:
        """Return the model with each group's curve multiplied by its factor [G]."""
        return AdditiveModel(self.curves * factors[:, None])


def fit_additive(removed: Floats, probes: Sequence[Probe]) -> AdditiveModel:
    """Return the additive model through the probes: monotone, interpolated, extrapolated beyond the largest.

    A group without a probe takes the mean curve of the others; without any probe a group loses what is removed.

    Args:
        removed: [G, levels] share of units that each level removes; rows shorter than the longest repeat their end.
        probes: One-at-a-time results.
    """
    curves = np.full(removed.shape, np.nan)
    for group in range(len(removed)):
        own = [p for p in probes if p.group == group]
        if own:
            curves[group] = _power_law(removed[group], own)
    known = ~np.isnan(curves).any(axis=1)
    if not known.any():
        return AdditiveModel(removed.copy())
    grid = np.linspace(0.0, 1.0, 21)
    mean = np.mean([np.interp(grid, removed[g], curves[g]) for g in np.flatnonzero(known)], axis=0)
    for unknown in np.flatnonzero(~known):
        curves[unknown] = np.interp(removed[unknown], grid, mean)
    return AdditiveModel(curves)


def _power_law(removed: Floats, probes: Sequence[Probe]) -> Floats:
    """Return loss = a * removed ** p through the probes, least squares in logarithms; with one probe p is 2.5.

    A smooth, convex curve: with straight pieces between the probes the additive front would consist of probed levels.
    """
    x = np.log([p.removed for p in probes])
    y = np.log([max(p.loss, LEAST_LOSS) for p in probes])
    power = USUAL_POWER
    if np.ptp(x) > 0:
        slope = float(np.polyfit(x, y, 1)[0])
        power = float(np.clip(slope, *POWERS))
    scale = float(np.exp((y - power * x).max()))
    return np.asarray(scale * removed**power)


def additive_front(
    models: Sequence[AdditiveModel], sizes: Rows, log_cost: Costs, weights: Floats, rng: np.random.Generator
) -> Rows:
    """Return the rows that minimise additive loss + weight x log cost, for every model and weight, without repeats.

    Coordinate descent with the exact cost, all pairs of model and weight side by side: the cost need not separate.

    Args:
        models: Additive models of the same groups.
        sizes: [G] levels of every group.
        log_cost: [n, G] levels -> [n] natural logarithm of the cost.
        weights: [W] positive weights of the cost.
        rng: Gives the order of the groups.
    """
    curves = np.repeat(np.array([m.curves for m in models]), len(weights), axis=0)
    weight = np.tile(weights, len(models))
    count, groups = len(weight), len(sizes)
    rows = np.zeros((count, groups), dtype=np.int64)
    moving = np.arange(count)
    for _ in range(SWEEPS):
        current = rows[moving]
        for group in rng.permutation(groups):
            levels = int(sizes[group])
            tried = np.repeat(current, levels, axis=0)
            tried[:, group] = np.tile(np.arange(levels), len(moving))
            cost = weight[moving, None] * log_cost(tried).reshape(len(moving), levels)
            current[:, group] = (curves[moving, group, :levels] + cost).argmin(axis=1)
        changed = (current != rows[moving]).any(axis=1)
        rows[moving] = current
        moving = moving[changed]
        if not len(moving):
            break
    return np.unique(rows, axis=0)


def spread_rows(rows: Rows, log_cost: Floats, count: int) -> Rows:
    """Return at most `count` of the rows, evenly spread in log cost over their whole range."""
    if len(rows) <= count:
        return rows[np.argsort(-log_cost, kind="stable")]
    left, chosen = list(range(len(rows))), list[int]()
    for wanted in np.linspace(log_cost.max(), log_cost.min(), count):
        best = min(left, key=lambda i: float(abs(log_cost[i] - wanted)))
        left.remove(best)
        chosen.append(best)
    return rows[chosen]
