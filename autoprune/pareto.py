"""Pareto sets: every objective is minimised here; callers flip the sign of what they maximise."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return [n] which rows of `values` [n, k] no other row dominates; of equal rows only the first counts."""
    points = _points(values)
    if not len(points):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=False), dtype=bool)


def hypervolume(values: npt.ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that `values` [n, k] dominate below `reference` [k]; points beyond it add nothing."""
    points, ref = _points(values), np.asarray(reference, dtype=np.float64)
    inside = points[(points < ref).all(axis=1)] if len(points) else points
    return float(moocore.hypervolume(inside, ref=ref)) if len(inside) else 0.0


def normalised(values: npt.ArrayLike) -> Array:
    """Scale each column of `values` [n, k] to 0..1; a constant column becomes 0."""
    points = _points(values)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    return np.asarray((points - low) / np.where(span > 0, span, 1.0))


def knee(values: npt.ArrayLike) -> int:
    """Return the row of the front `values` [n, k] farthest below the hyperplane through its extremes.

    Source: Das, On characterizing the 'knee' of the Pareto curve, 1999. With scaled objectives and the plane
    sum(x) = 1 the distance is largest where the sum is smallest.
    """
    return int(np.argmin(normalised(values).sum(axis=1)))


def spread(values: npt.ArrayLike, count: int) -> list[int]:
    """Return at most `count` rows of the front `values` [n, k], spread evenly along the last column, ends included."""
    points = _points(values)
    order = np.argsort(points[:, -1], kind="stable")
    if len(order) <= count:
        return [int(i) for i in order]
    wanted = np.linspace(points[order[0], -1], points[order[-1], -1], count)
    left, chosen = [int(i) for i in order], []
    for target in wanted:
        best = min(left, key=lambda i: abs(points[i, -1] - target))
        left.remove(best)
        chosen.append(best)
    return sorted(chosen, key=lambda i: float(points[i, -1]))


def thin(cost: npt.ArrayLike, loss: npt.ArrayLike, *, relative_cost: float) -> list[int]:
    """Drop what cannot be told apart: of rows whose cost differs by at most `relative_cost`, the lower loss stays.

    Args:
        cost: [n] a positive cost, such as latency.
        loss: [n] what is traded against it, minimised.
        relative_cost: Smallest relative difference in cost that counts, such as 0.02.

    Returns:
        Kept rows, ascending by cost.
    """
    costs, losses = np.asarray(cost, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    kept: list[int] = []
    for i in np.lexsort((costs, losses)):
        if all(abs(costs[i] - costs[j]) > relative_cost * max(costs[i], costs[j]) for j in kept):
            kept.append(int(i))
    return sorted(kept, key=lambda i: float(costs[i]))


def _points(values: npt.ArrayLike) -> Array:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 and points.size:
        raise ValueError(f"values must be [n, k]. Got shape {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("values must be finite.")
    return points if points.ndim == 2 else points.reshape(0, 1)
