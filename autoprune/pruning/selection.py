"""Scores -> kept units: the k best of every group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autoprune.compatibility import check_policy
from autoprune.groups.types import ModelGroups, PruningGroup
from autoprune.policy import Policy

Scores = Callable[[str], npt.NDArray[np.float64]]


def width_after(group: PruningGroup, sparsity: float) -> int:
    """Return how many units of a group stay at a sparsity in [0, 1): at least one."""
    return max(1, round(group.width * (1.0 - sparsity)))


def select(groups: ModelGroups, policy: Policy, scores: Scores) -> npt.NDArray[np.bool_]:
    """Return [unit_count] which units stay; of equal scores the earlier unit stays.

    Args:
        groups: The model's groups.
        policy: Sparsity and criterion of every group.
        scores: Criterion name -> [unit_count] importance, higher stays.

    Raises:
        ConfigError: The policy does not fit the model.
    """
    check_policy(groups, policy)
    alive = np.ones(groups.plan.unit_count, dtype=bool)
    for group in groups.groups:
        sparsity = policy.sparsity.get(group.name, 0.0)
        if sparsity <= 0.0:
            continue
        span = slice(group.start, group.start + group.width)
        order = np.argsort(-scores(policy.criterion_of(group.name))[span], kind="stable")
        alive[group.start + order[width_after(group, sparsity) :]] = False
    return alive
