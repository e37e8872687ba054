"""Labels -> subsets: shuffled and stratified by class, never the first rows of a sorted file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def stratified_subset(labels: npt.NDArray[Any], limit: int | None, rng: np.random.Generator) -> IntArray:
    """Return shuffled indices of a subset whose classes have the shares that they have in `labels`.

    Args:
        labels: [n] class of every unit.
        limit: Size of the subset; all n indices are returned when it is None or at least n. Every class keeps at
            least one unit where `limit` is at least the number of classes.
        rng: Source of the draw.
    """
    n = len(labels)
    if limit is None or limit >= n:
        return rng.permutation(n).astype(np.int64)
    order = rng.permutation(n)
    classes, member = np.unique(labels, return_inverse=True)
    taken = _allocate(np.bincount(member, minlength=len(classes)), max(limit, 0), rng)
    shuffled = member[order]
    by_class = order[np.argsort(shuffled, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(member, minlength=len(classes)))[:-1]])
    chosen = np.concatenate([by_class[s : s + k] for s, k in zip(starts, taken, strict=True)])
    return rng.permutation(chosen).astype(np.int64)


def class_balance(labels: npt.NDArray[Any]) -> dict[str, int]:
    """Return class -> number of units, largest class first."""
    classes, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(classes[i]): int(counts[i]) for i in order}


def _allocate(counts: npt.NDArray[np.intp], limit: int, rng: np.random.Generator) -> IntArray:
    """Split `limit` seats among classes by largest remainder, ties at random; none is empty if seats suffice."""
    quota = limit * counts / counts.sum()
    seats: IntArray = np.floor(quota).astype(np.int64)
    fraction = quota - seats + rng.random(len(counts)) * 1e-9
    seats[np.argsort(-fraction)[: limit - int(seats.sum())]] += 1
    if limit >= len(counts):
        for empty in np.flatnonzero(seats == 0):
            donor = int(np.argmax(np.where(seats > 1, seats - quota, -np.inf)))
            seats[donor] -= 1
            seats[empty] += 1
    return seats
