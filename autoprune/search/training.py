"""Many measured candidates -> those that the predictor learns from: near the front, and some of every cost."""

from __future__ import annotations

import moocore
import numpy as np
import numpy.typing as npt

MOST = 2000


def training_subset(points: npt.NDArray[np.float64], most: int = MOST) -> npt.NDArray[np.int64]:
    """Return the rows of `points` [n, k] to learn from, ascending: all, or half by front and half spread over cost.

    Args:
        points: Scaled objectives, minimised; the last one is the cost.
        most: Rows wanted at most.
    """
    if len(points) <= most:
        return np.arange(len(points))
    rank = np.asarray(moocore.pareto_rank(points))
    near = np.lexsort((np.arange(len(points)), rank))[: most // 2]
    rest = np.setdiff1d(np.arange(len(points)), near)
    by_cost = rest[np.argsort(points[rest, -1], kind="stable")]
    spread = by_cost[np.linspace(0, len(by_cost) - 1, most - len(near)).astype(np.int64)]
    return np.unique(np.concatenate([near, spread]))
