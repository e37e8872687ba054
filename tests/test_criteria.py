"""Criteria: one contract for every one of the registry, closed forms on small cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from criteria_cases import Net, by_hand, image_task, linear, permute, randomised, score, square_task
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.axes import AXES
from autoprune.errors import CandidateError, ConfigError, UnknownNameError
from autoprune.groups import DimensionUnits, ModelGroups, PruningGroup, SlicingPlan, find_groups
from autoprune.pruning.criteria import CRITERIA, CriterionContext, importance, normalized
from autoprune.tasks.protocol import Inputs


@pytest.fixture(scope="module")
def context() -> CriterionContext:
    model = randomised(Net())
    task = image_task(model)
    return CriterionContext(model, find_groups(model, task.example_inputs()), task, seed=3)


def changed(context: CriterionContext, **changes: Any) -> CriterionContext:
    return CriterionContext(**(vars(context) | changes))


@pytest.mark.parametrize("name", CRITERIA)
class TestEveryCriterion:
    def test_gives_one_finite_score_a_unit(self, name: str, context: CriterionContext) -> None:
        scores = importance(name, context)
        assert scores.shape == (20,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        for group in context.groups.groups:
            assert len(np.unique(scores[group.start : group.start + group.width])) > group.width / 2

    def test_is_a_function_of_its_seed(self, name: str, context: CriterionContext) -> None:
        torch.manual_seed(1)
        first = CRITERIA[name](context)
        torch.manual_seed(2)
        assert np.array_equal(first, CRITERIA[name](context))

    def test_leaves_the_model_and_the_random_state_as_they_were(self, name: str, context: CriterionContext) -> None:
        model = context.model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        state = torch.get_rng_state()
        CRITERIA[name](context)
        assert all(m.training for m in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        model.eval()

    def test_scores_frozen_weights_alike(self, name: str, context: CriterionContext) -> None:
        expected = CRITERIA[name](context)
        frozen = randomised(Net()).requires_grad_(False)
        assert np.allclose(CRITERIA[name](changed(context, model=frozen)), expected)

    def test_follows_a_permutation_of_the_channels(self, name: str, context: CriterionContext) -> None:
        if AXES["criterion"][name].stochastic:
            return
        group = context.groups["inner"]
        order = np.random.default_rng(0).permutation(group.width)
        model = randomised(Net())
        permute(model, context.groups.plan, group, order)
        expected = CRITERIA[name](context)
        span = slice(group.start, group.start + group.width)
        expected[span] = expected[span][order]
        assert CRITERIA[name](changed(context, model=model)) == pytest.approx(
            expected, abs=1e-6 * np.abs(expected).max()
        )

    def test_scores_only_the_wanted_groups(self, name: str, context: CriterionContext) -> None:
        group = context.groups["inner"]
        span = slice(group.start, group.start + group.width)
        part = CRITERIA[name](changed(context, only=("inner",)))
        assert np.allclose(part[span], CRITERIA[name](context)[span])
        assert part.shape == (20,)

    def test_is_declared_with_its_source(self, name: str, context: CriterionContext) -> None:
        assert AXES["criterion"][name].source


def test_the_registry_and_the_declarations_name_the_same_criteria() -> None:
    assert set(CRITERIA) == set(AXES["criterion"])


def test_an_unknown_criterion_is_refused_with_the_nearest_name(context: CriterionContext) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'taylor'"):
        importance("tailor", context)


def test_magnitudes_are_the_mean_and_the_root_mean_square_of_a_units_weights() -> None:
    model = linear([[3.0, -4.0], [1.0, 1.0], [0.0, 0.0]])
    groups = by_hand(model, 3, {"0.weight": 0})
    assert score("l1", model, groups) == pytest.approx([3.5, 1.0, 0.0])
    assert score("l2", model, groups) == pytest.approx([12.5**0.5, 1.0, 0.0])


def test_magnitudes_are_averaged_over_the_producers_whatever_their_size() -> None:
    model = nn.Sequential(linear([[1.0] * 9, [2.0] * 9])[0], linear([[5.0], [0.0]])[0])
    groups = by_hand(model, 2, {"0.weight": 0, "1.weight": 0})
    assert score("l1", model, groups) == pytest.approx([3.0, 1.0])
    assert score("l2", model, groups) == pytest.approx([3.0, 1.0])


def test_a_unit_of_several_rows_is_scored_over_all_of_them_and_fixed_rows_are_left_out() -> None:
    model = linear([[1.0], [2.0], [30.0], [4.0], [-5.0]])
    groups = by_hand(model, 2, {"0.weight": 0}, units=[0, 1, -1, 0, 1])
    assert score("l1", model, groups) == pytest.approx([2.5, 3.5])


def test_producers_by_columns_are_scored_by_columns() -> None:
    model = linear([[1.0, -2.0], [3.0, 4.0]])
    assert score("l1", model, by_hand(model, 2, {"0.weight": 1})) == pytest.approx([2.0, 3.0])


def test_biases_do_not_count_beside_weights() -> None:
    model = linear([[1.0], [2.0]], bias=[100.0, 0.0])
    assert score("l1", model, by_hand(model, 2, {"0.weight": 0, "0.bias": 0})) == pytest.approx([1.0, 2.0])


def test_a_producer_that_holds_part_of_the_units_counts_for_those() -> None:
    model = nn.Sequential(linear([[1.0], [2.0]])[0], linear([[5.0]])[0])
    plan = SlicingPlan(
        2, (DimensionUnits("0.weight", 0, np.array([0, 1])), DimensionUnits("1.weight", 0, np.array([1])))
    )
    group = PruningGroup("g", 0, 2, "channel", (("0.weight", 0), ("1.weight", 0)))
    assert score("l1", model, ModelGroups((group,), (), plan, "torch.export")) == pytest.approx([1.0, 3.5])


def test_bn_scale_is_the_mean_absolute_scale_of_the_groups_norms() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-3.0, 0.5]))
        model[2].weight.copy_(torch.tensor([1.0, 0.0]))
    assert score("bn_scale", model, by_hand(model, 2, {"0.weight": 0}, norms=("1", "2"))) == pytest.approx([2.0, 0.25])


def test_bn_scale_names_the_groups_without_a_scale(context: CriterionContext) -> None:
    model = linear([[1.0], [2.0]])
    with pytest.raises(ConfigError, match="; g has none"):
        score("bn_scale", model, by_hand(model, 2, {"0.weight": 0}))
    unscaled = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, affine=False))
    with pytest.raises(ConfigError, match="; g has none"):
        score("bn_scale", unscaled, by_hand(unscaled, 2, {"0.weight": 0}, norms=("1",)))


def test_taylor_is_the_change_of_the_loss_to_first_order() -> None:
    model = linear([[3.0, -4.0], [1.0, 1.0], [0.0, 0.0]])
    scores = score("taylor", model, by_hand(model, 3, {"0.weight": 0}), square_task(np.ones((60, 2))))
    assert scores == pytest.approx([1.0 / 3.0, 4.0 / 3.0, 0.0])


def test_taylor_sums_over_the_producers_before_it_takes_the_absolute_value() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear([[2.0], [1.0]])[0], linear([[-2.0], [1.0]])[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    model = Both()
    scores = score("taylor", model, by_hand(model, 2, {"a.weight": 0, "b.weight": 0}), square_task(np.ones((60, 1))))
    assert scores == pytest.approx([0.0, 2.0])


def test_taylor_averages_over_the_asked_number_of_batches() -> None:
    model = linear([[1.0], [2.0]])
    x = np.random.default_rng(0).normal(size=(60, 1))
    task, groups = square_task(x, batch_size=4), by_hand(model, 2, {"0.weight": 0})
    drawn = [float(b[0].square().mean()) for b in task.batches("calibration", seed=0)][:2]
    assert score("taylor", model, groups, task, batches=2)[0] == pytest.approx(0.5 * np.mean(drawn), rel=1e-5)


def test_taylor_without_a_task_is_refused() -> None:
    model = linear([[1.0], [2.0]])
    with pytest.raises(ConfigError, match="needs a task"):
        score("taylor", model, by_hand(model, 2, {"0.weight": 0}))


class Gated(nn.Module):
    """A hidden layer under a gate."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.out, self.gate = nn.Linear(6, 8), nn.Linear(8, 2), gate

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(x)
        logits: Tensor = self.out(hidden.tanh() * self.gate(hidden))
        return logits


def test_hessian_of_an_operator_without_second_derivatives_is_that_of_an_equal_one_that_has_them() -> None:
    x = np.random.default_rng(0).normal(scale=0.2, size=(60, 6))
    scores = []
    for gate in (F.hardsigmoid, lambda h: (h / 6.0 + 0.5).clamp(0.0, 1.0)):
        model = randomised(Gated(gate))
        groups = find_groups(model, Inputs((torch.randn(2, 6),), {}))
        scores.append(score("hessian", model, groups, square_task(x)))
    assert scores[0] == pytest.approx(scores[1], rel=1e-2, abs=1e-4 * max(scores[1]))
    assert scores[0] != scores[1]


def test_random_differs_from_seed_to_seed(context: CriterionContext) -> None:
    one, other = (importance("random", changed(context, seed=s)) for s in (0, 1))
    assert not np.array_equal(one, other)
    assert one.min() >= 0.0
    assert one.max() < 1.0


@pytest.mark.parametrize("name", ["l1", "l2", "taylor"])
def test_weights_that_are_not_finite_fail_the_candidate_naming_the_group(name: str) -> None:
    model = linear([[1.0, 2.0], [torch.inf, 1.0]])
    with pytest.raises(CandidateError, match="'g'") as caught:
        CRITERIA[name](CriterionContext(model, by_hand(model, 2, {"0.weight": 0}), square_task(np.ones((60, 2))), 0))
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "prune")


@pytest.mark.parametrize(("bad", "error"), [(np.zeros(3), ConfigError), (np.full(20, np.nan), CandidateError)])
def test_a_third_partys_criterion_is_checked(
    bad: np.ndarray, error: type[Exception], context: CriterionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CRITERIA._items, "theirs", lambda _: bad)
    with pytest.raises(error, match="theirs"):
        importance("theirs", context)


def test_normalized_scores_have_mean_one_in_every_group_and_keep_their_order(context: CriterionContext) -> None:
    scores = importance("l1", context)
    scaled = normalized(scores, context.groups)
    for group in context.groups.groups:
        span = slice(group.start, group.start + group.width)
        assert scaled[span].mean() == pytest.approx(1.0)
        assert np.array_equal(np.argsort(scaled[span]), np.argsort(scores[span]))
    assert np.array_equal(normalized(np.zeros(20), context.groups), np.zeros(20))
