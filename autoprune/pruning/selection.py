"""Scores -> what stays: the selections, and the best k of a group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autoprune.groups.types import PruningGroup
from autoprune.registry import Registry

Scores = npt.NDArray[np.float64]
Selection = Callable[[Scores, np.random.Generator], Scores]
SELECTIONS: Registry[Selection] = Registry("selection")
"""Name -> function of [n] scores and a source of randomness -> [n] scores by which the best stay."""

_SMALLEST = 1e-12


@SELECTIONS.register("top_k")
def top_k(scores: Scores, rng: np.random.Generator) -> Scores:
    """Return the scores: the k best stay."""
    del rng
    return scores


@SELECTIONS.register("greedy")
def greedy(scores: Scores, rng: np.random.Generator) -> Scores:
    """Return the scores: the k best stay, a few going at a time with new scores in between (Mozer, Smolensky, 1988)."""
    del rng
    return scores


@SELECTIONS.register("stochastic")
def stochastic(scores: Scores, rng: np.random.Generator) -> Scores:
    """Return scores times exponentiated Gumbel noise: the k best are a draw of k without replacement.

    Each draw takes a unit with a chance in proportion to its score (Kool et al., Stochastic Beams, ICML 2019). Scores
    below 0 are raised to it first.
    """
    positive = scores - min(float(scores.min()), 0.0)
    positive = np.maximum(positive / max(float(positive.max()), _SMALLEST), _SMALLEST)
    return np.asarray(positive * np.exp(rng.gumbel(size=len(scores))))


def width_after(group: PruningGroup, sparsity: float) -> int:
    """Return how many units of a group stay at a sparsity in [0, 1): at least one."""
    return max(1, round(group.width * (1.0 - sparsity)))


def keep_best(scores: Scores, count: int) -> npt.NDArray[np.bool_]:
    """Return [n] True for the `count` best; of equal scores the earlier stays."""
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    return kept
