"""Predicted candidates -> the next batch: greedy gain in hypervolume, what is under way counted as it is predicted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.pareto import hypervolume, non_dominated

Floats = npt.NDArray[np.float64]

MANY = 200


def gain(points: Floats, front: Floats) -> Floats:
    """Return [n] the hypervolume that each of `points` [n, k] would add to `front` [m, k] below the corner (1, ..., 1).

    Objectives are minimised and scaled, 1 = the worst that counts. With two objectives the gain is exact for all
    points at once; with more it is computed for the 200 points farthest below the front's plane.
    """
    if len(front):
        front = front[non_dominated(front)]
    return _gain(points, front)


def _gain(points: Floats, front: Floats) -> Floats:
    """Return what `gain` does, for a front without dominated points."""
    if points.shape[1] == 2:
        return _planar_gain(points, front)
    inside = np.flatnonzero((points < 1.0).all(axis=1))
    order = inside[np.argsort(points[inside].sum(axis=1), kind="stable")][:MANY]
    corner, out = [1.0] * points.shape[1], np.zeros(len(points))
    before = hypervolume(front, corner)
    for index in order:
        out[index] = hypervolume(np.vstack([front, points[index]]), corner) - before
    return out


def _planar_gain(points: Floats, front: Floats) -> Floats:
    kept = front[np.argsort(front[:, 1], kind="stable")]
    low = np.concatenate([[0.0], np.minimum(kept[:, 1], 1.0)])
    high = np.concatenate([np.minimum(kept[:, 1], 1.0), [1.0]])
    level = np.concatenate([[1.0], np.minimum(kept[:, 0], 1.0)])
    width = np.maximum(high[None, :] - np.maximum(low[None, :], points[:, 1:2]), 0.0)
    return np.asarray((width * np.maximum(level[None, :] - points[:, 0:1], 0.0)).sum(axis=1))


def _added(front: Floats, point: Floats) -> Floats:
    """Return the front with one more point, without what is dominated then."""
    if len(front) and (front <= point).all(axis=1).any():
        return front
    return np.vstack([front[~(point <= front).all(axis=1)], point])


def choose_batch(points: Floats, front: Floats, count: int, *, weights: Floats | None = None) -> list[int]:
    """Return up to `count` rows of `points`, each chosen as if those before it had come out as predicted.

    Args:
        points: [n, k] predicted objectives, scaled.
        front: [m, k] measured ones, and those under way as predicted.
        count: Size of the batch.
        weights: [n] probability of being feasible; None counts all as feasible.

    Returns:
        Chosen rows; where nothing adds hypervolume, those closest to the front that may be feasible.
    """
    known, chosen = front[non_dominated(front)] if len(front) else front, list[int]()
    possible = np.ones(len(points), dtype=bool) if weights is None else weights > 0.0
    free = np.ones(len(points), dtype=bool)
    for _ in range(min(count, len(points))):
        score = _gain(points, known) * (1.0 if weights is None else weights)
        score = np.where(free, score, -np.inf)
        best = int(np.argmax(score))
        if score[best] <= 0.0:
            # Gains only shrink as more is chosen: nothing will add any.
            left = np.flatnonzero(free)
            order = np.lexsort((points[left].sum(axis=1), ~possible[left]))
            return [*chosen, *(int(i) for i in left[order][: min(count, len(points)) - len(chosen)])]
        free[best] = False
        chosen.append(best)
        known = _added(known, points[best])
    return chosen
