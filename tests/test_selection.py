"""Selection: the k best units of every group stay."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, PruningGroup, SlicingPlan
from autoprune.policy import Policy, Strategy
from autoprune.pruning.selection import select, width_after

GROUPS = ModelGroups(
    (PruningGroup("a", 0, 4, "channel", ()), PruningGroup("b", 4, 4, "channel", ())),
    (),
    SlicingPlan(8, ()),
    "torch.export",
)
SCORES = {"l1": np.array([4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]), "l2": np.arange(8.0)}


def test_the_best_units_stay_in_place() -> None:
    alive = select(GROUPS, Policy({"a": 0.5}), SCORES.__getitem__)
    assert alive.tolist() == [True, False, True, False] + [True] * 4


def test_of_equal_scores_the_earlier_stays() -> None:
    alive = select(GROUPS, Policy({"b": 0.75}), SCORES.__getitem__)
    assert alive.tolist() == [True] * 5 + [False] * 3


def test_each_group_uses_its_own_criterion() -> None:
    policy = Policy({"a": 0.75, "b": 0.75}, Strategy("l1"), {"b": {"criterion": "l2"}})
    alive = select(GROUPS, policy, SCORES.__getitem__)
    assert np.flatnonzero(alive).tolist() == [0, 7]


def test_a_group_never_vanishes() -> None:
    assert width_after(GROUPS.groups[0], 0.999) == 1


def test_a_criterion_that_a_group_cannot_be_ranked_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="'a', which has no BatchNorm"):
        select(GROUPS, Policy({"a": 0.5}, Strategy("bn_scale")), SCORES.__getitem__)


def test_foreign_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="'c'"):
        select(GROUPS, Policy({"c": 0.5}), SCORES.__getitem__)
