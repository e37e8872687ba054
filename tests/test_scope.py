"""How much of every group goes when one number holds for many: local, global, by threshold, by MACs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pruning_cases import case, case_of, mlp, mute_case
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, Part, PruningGroup, SlicingPlan
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning import Pruner
from autoprune.pruning.choosing import Chooser
from autoprune.pruning.grading import Grader
from autoprune.pruning.scope import GONE, Scope
from autoprune.tasks import ClassificationTask, LabelledArrays

A, B = (PruningGroup(n, s, 8, "channel", ()) for n, s in (("a", 0), ("b", 8)))
PAIR = ModelGroups((A, B), (), SlicingPlan(16, ()), "torch.export")
UP = np.arange(1.0, 9.0)
TINY_B = {"a": UP, "b": 0.01 * UP}
"""Scores of two groups alike, the second a hundredth of the first."""


class Known(Grader):
    """Gives scores that are known."""

    def __init__(self, scores: Mapping[str, np.ndarray]) -> None:
        self._known = np.concatenate([scores["a"], scores["b"]])

    def units(self, criterion: str, model: nn.Module, seed: int) -> np.ndarray:
        return self._known


def widths(scores: Mapping[str, np.ndarray], amount: Amount, **choices: str) -> tuple[int, int]:
    """Return how many units of both groups stay."""
    policy = Policy({}, Strategy(**{"scope": "global", **choices}), amount=amount)
    alive = Chooser(PAIR, policy, Known(scores), seed=0).choose(nn.Identity()).alive
    return int(alive[:8].sum()), int(alive[8:].sum())


def half(value: float = 0.5, **options: float) -> Amount:
    return Amount("sparsity", value, **{"round_to": 1, **options})


def test_a_local_sparsity_holds_in_every_group() -> None:
    assert widths(TINY_B, half(), scope="local") == (4, 4)
    assert widths(TINY_B, half(0.25), scope="local") == (6, 6)


def test_a_global_sparsity_takes_the_smallest_of_all() -> None:
    assert widths(TINY_B, half(0.25)) == (8, 4)
    assert widths(TINY_B, half(0.5)) == (7, 1), "one unit of each group stays, so that the eighth is of the other"


def test_a_local_threshold_cuts_below_a_multiple_of_each_groups_mean() -> None:
    amount = Amount("threshold", 1.0, round_to=1)
    assert widths(TINY_B, amount, scope="local") == (4, 4)
    assert widths(TINY_B, Amount("threshold", 0.5, round_to=1), scope="local") == (6, 6)


def test_a_global_threshold_cuts_below_a_multiple_of_the_mean_of_all() -> None:
    mean = (UP.mean() + 0.01 * UP.mean()) / 2
    assert widths(TINY_B, Amount("threshold", 1.0, round_to=1)) == (int((mean <= UP).sum()), 1)
    assert widths(TINY_B, Amount("threshold", 0.02, round_to=1)) == (8, int((0.02 * mean <= 0.01 * UP).sum()))


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_relative_to_the_mean_a_rescaled_group_loses_as_much_as_before(sparsity: float) -> None:
    assert widths(TINY_B, half(sparsity), normalization="mean") == widths(
        {"a": UP, "b": UP}, half(sparsity), normalization="mean"
    )
    assert widths(TINY_B, half(sparsity)) != widths({"a": UP, "b": UP}, half(sparsity))


def test_relative_to_the_mean_the_order_within_a_group_stays_also_where_scores_are_negative() -> None:
    scores = {"a": UP - 100.0, "b": UP}
    policy = Policy({"a": 0.5}, Strategy(normalization="mean"))
    alive = Chooser(PAIR, policy, Known(scores), seed=0).choose(nn.Identity()).alive
    assert alive[:8].tolist() == [False] * 4 + [True] * 4


def test_no_group_loses_more_than_the_most() -> None:
    assert widths(TINY_B, half(0.25, most=0.25)) == (6, 6)
    assert widths(TINY_B, half(0.375, most=0.5)) == (6, 4)
    assert widths(TINY_B, half(0.9, most=0.25), scope="local") == (6, 6)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_widths_are_multiples_or_whole(scope: str, step: int) -> None:
    for value in np.linspace(0.05, 0.9, 18):
        found = widths(TINY_B, Amount("sparsity", float(value), round_to=step), scope=scope)
        assert all(width % step == 0 or width == 8 for width in found)
        assert min(found) >= 1


def test_a_group_of_tiny_weights_loses_most_and_by_lamp_no_more_than_the_others() -> None:
    rng = np.random.default_rng(0)
    hidden, middle, out = rng.normal(size=(12, 4)), rng.normal(size=(12, 12)), rng.normal(size=(3, 12))
    model = nn.Sequential(*mlp(hidden, 0.01 * middle)[:2], *mlp(0.01 * middle, out))
    task = ClassificationTask(model, LabelledArrays(rng.normal(size=(90, 4)), np.arange(90) % 3))
    pruner = case_of(task).pruner

    def gone(**choices: str) -> list[int]:
        policy = Policy({}, Strategy(scope="global", **choices), amount=half())
        return [int((~part).sum()) for part in np.split(pruner.cut(policy).alive, 2)]

    assert gone(criterion="l2") == [1, 11]
    for fair in ({"criterion": "l2", "normalization": "mean"}, {"criterion": "lamp"}):
        assert max(gone(**fair)) <= 9


def layers(weights: Mapping[str, list[float]]) -> Pruner:
    """Return what prunes the weights of two linear layers of 2 by 2."""
    model = mlp(*(np.reshape(w, (2, 2)) for w in weights.values()))
    x = np.random.default_rng(0).normal(size=(60, 2))
    parts = tuple(Part(name, "tensor", (name,), 4, (2, 2)) for name in weights)
    groups = ModelGroups((), (), SlicingPlan(0, ()), "torch.export", parts=parts)
    return Pruner(model, groups, ClassificationTask(model, LabelledArrays(x, np.arange(60) % 2)))


def test_lamp_allots_a_global_sparsity_to_the_layers_as_the_paper_does() -> None:
    """Squares over those that are no smaller: 1/30, 4/29, 9/25, 1 and 4/54, 9/50, 16/41, 1."""
    pruner = layers({"0.weight": [1.0, 2.0, 3.0, 4.0], "2.weight": [0.2, 0.3, 0.4, 0.5]})

    def kept(criterion: str, sparsity: float) -> list[int]:
        strategy = Strategy(criterion, granularity="weight", scope="global")
        masks: Mapping[str, Tensor] = pruner.cut(Policy({}, strategy, amount=half(sparsity))).masks
        return [int(masks[name].sum()) for name in ("0.weight", "2.weight")]

    assert [kept("lamp", n / 8) for n in range(1, 7)] == [[3, 4], [3, 3], [2, 3], [2, 2], [1, 2], [1, 1]]
    assert [kept("l1", n / 8) for n in (1, 2, 3)] == [[4, 3], [4, 2], [4, 1]]


@pytest.mark.parametrize("granularity", ["weight", "block"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_masks_hold_one_sparsity_each_or_together(granularity: str, scope: str) -> None:
    strategy = Strategy("l2", granularity=granularity, scope=scope)
    masks = case("cnn").pruner.cut(Policy({}, strategy, amount=half())).masks
    shares = {name: 1.0 - float(mask.double().mean()) for name, mask in masks.items()}
    total = 1.0 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    assert total == pytest.approx(0.5, abs=0.01 if granularity == "weight" else 0.03), "blocks at edges are smaller"
    spread = max(shares.values()) - min(shares.values())
    assert spread < 0.2 if scope == "local" else spread > 0.2


def test_masks_lose_no_more_than_the_most() -> None:
    for scope in ("local", "global"):
        strategy = Strategy(granularity="weight", scope=scope)
        masks = case("cnn").pruner.cut(Policy({}, strategy, amount=half(0.9, most=0.7))).masks
        assert all(1.0 - float(mask.double().mean()) <= 0.7 + 1e-2 for mask in masks.values())


def test_a_threshold_of_weights_is_a_multiple_of_each_tensors_mean() -> None:
    of = mute_case()
    strategy = Strategy(granularity="weight", scope="local")
    masks = of.pruner.cut(Policy({}, strategy, amount=Amount("threshold", 0.5))).masks
    for name, mask in masks.items():
        size = of.dense.get_parameter(name).detach().abs()
        assert torch.equal(mask, size >= 0.5 * size.mean())


def test_an_amount_of_macs_is_used_up_by_the_largest_steps_that_fit() -> None:
    scope = Scope((A, B), together=False, macs=lambda w: 10 * w["a"] + 3 * w["b"], dense_macs=104)
    found = scope.widths({"a": UP, "b": UP}, Amount("macs", 0.5, round_to=1))
    assert found == {"a": 4, "b": 4}
    odd = Scope((A, B), together=False, macs=lambda w: 9 * w["a"] + 4 * w["b"], dense_macs=104)
    assert odd.widths({"a": UP, "b": UP}, Amount("macs", 0.55, round_to=1)) == {"a": 4, "b": 5}


def test_what_is_gone_takes_no_place_on_the_grid() -> None:
    scope = Scope((A, B), together=False)
    gone = np.where(UP > 5.0, GONE, UP)
    assert scope.widths({"a": gone, "b": UP}, Amount("sparsity", 0.25, round_to=2)) == {"a": 4, "b": 6}
    assert scope.widths({"a": gone, "b": UP}, Amount("sparsity", 0.25, round_to=8)) == {"a": 5, "b": 8}


def test_macs_that_nothing_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="counted"):
        widths(TINY_B, Amount("macs", 0.5))
