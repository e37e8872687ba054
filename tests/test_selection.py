"""Selection: the best of every group stay, by what a policy calls best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from pruning_cases import Case, case_of, mlp
from torch import nn

from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, PruningGroup, SlicingPlan
from autoprune.policy import Policy, Strategy
from autoprune.pruning.choosing import Chooser
from autoprune.pruning.grading import Grader
from autoprune.pruning.selection import SELECTIONS, keep_best, width_after
from autoprune.tasks import ClassificationTask, LabelledArrays

GROUPS = ModelGroups(
    (PruningGroup("a", 0, 4, "channel", ()), PruningGroup("b", 4, 4, "channel", ())),
    (),
    SlicingPlan(8, ()),
    "torch.export",
)
SCORES = {"l1": np.array([4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]), "l2": np.arange(8.0)}


class Known(Grader):
    """Gives scores that are known."""

    def __init__(self, scores: Mapping[str, np.ndarray]) -> None:
        self._known = scores

    def units(self, criterion: str, model: nn.Module, seed: int) -> np.ndarray:
        return self._known[criterion]


def kept(policy: Policy, seed: int = 0) -> list[bool]:
    chooser = Chooser(GROUPS, policy, Known(SCORES), seed=seed)
    return chooser.choose(nn.Identity()).alive.tolist()


def test_the_best_units_stay_in_place() -> None:
    assert kept(Policy({"a": 0.5})) == [True, False, True, False] + [True] * 4


def test_of_equal_scores_the_earlier_stays() -> None:
    assert kept(Policy({"b": 0.75})) == [True] * 5 + [False] * 3
    assert keep_best(np.array([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [False, True, True, False]


def test_each_group_uses_its_own_criterion() -> None:
    policy = Policy({"a": 0.75, "b": 0.75}, Strategy("l1"), {"b": {"criterion": "l2"}})
    assert np.flatnonzero(kept(policy)).tolist() == [0, 7]


def test_a_group_never_vanishes() -> None:
    assert width_after(GROUPS.groups[0], 0.999) == 1
    assert kept(Policy({"a": 0.999})) == [True, False, False, False] + [True] * 4


def test_a_criterion_that_a_group_cannot_be_ranked_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="'a', which has no BatchNorm"):
        kept(Policy({"a": 0.5}, Strategy("bn_scale")))


def test_foreign_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="'c'"):
        kept(Policy({"c": 0.5}))


def test_what_is_gone_stays_gone_however_it_scores() -> None:
    chooser = Chooser(GROUPS, Policy({"a": 0.5}), Known(SCORES), seed=0)
    gone = np.array([True] + [False] * 7)
    assert chooser.units(nn.Identity(), 1.0, gone).tolist() == [False, False, True, True] + [True] * 4


DRAWS = 4000


def follows_the_scores(selection: str) -> None:
    """Demand that the one unit that stays is each unit as often as its share of the scores says."""
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    first = Counter(int(np.argmax(SELECTIONS[selection](scores, np.random.default_rng(seed)))) for seed in range(DRAWS))
    for unit, share in enumerate(scores / scores.sum()):
        spread = np.sqrt(share * (1.0 - share) / DRAWS)
        assert first[unit] / DRAWS == pytest.approx(share, abs=4.0 * spread)


def test_a_stochastic_selection_draws_in_proportion_to_the_scores() -> None:
    follows_the_scores("stochastic")
    for other in ("top_k", "greedy"):
        with pytest.raises(AssertionError):
            follows_the_scores(other)


def test_a_second_draw_is_without_replacement() -> None:
    scores = np.array([8.0, 1.0, 1.0])
    pairs = Counter()
    for seed in range(DRAWS):
        mask = keep_best(SELECTIONS["stochastic"](scores, np.random.default_rng(seed)), 2)
        pairs[tuple(np.flatnonzero(mask))] += 1
    without_first = 2 * (0.1 * 1.0 / 9.0)
    assert pairs[1, 2] / DRAWS == pytest.approx(without_first, abs=4.0 * np.sqrt(without_first / DRAWS))


def test_a_stochastic_selection_keeps_exactly_as_many_and_follows_its_seed() -> None:
    policy = Policy({"a": 0.5, "b": 0.25}, Strategy("l2", selection="stochastic"))
    drawn = [kept(policy, seed) for seed in range(40)]
    assert all((sum(alive[:4]), sum(alive[4:])) == (2, 3) for alive in drawn)
    assert len({tuple(alive) for alive in drawn}) > 5
    assert drawn[7] == kept(policy, 7)


def twins() -> Case:
    """Return a net in which units 0 and 1 say the same: either alone can go, both cannot. 2 and 3 matter a little."""
    model = mlp([[1.0], [1.0], [-1.0], [-1.0]], [[0.0, 0.0, 3.0, 3.0], [10.0, 10.0, 0.0, 0.0]])
    x = np.tile([[1.0], [-1.0]], (60, 1))
    return case_of(ClassificationTask(model, LabelledArrays(x, (x[:, 0] > 0).astype(int))))


def keeps_one_twin(selection: str) -> None:
    strategy = Strategy("contribution", selection=selection, rounds=2)
    alive = twins().pruner.cut(Policy({"0": 0.5}, strategy)).alive
    assert alive.sum() == 2
    assert alive[:2].sum() == 1


def test_a_greedy_selection_keeps_one_of_two_that_stand_in_for_each_other() -> None:
    keeps_one_twin("greedy")
    with pytest.raises(AssertionError):
        keeps_one_twin("top_k")
