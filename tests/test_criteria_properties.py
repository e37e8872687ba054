"""What defines each criterion: a property that holds for it, and for no magnitude in its place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from criteria_cases import SquareTask, by_hand, linear, square_task
from torch import Tensor, nn

from autoprune.axes import AXES
from autoprune.errors import ConfigError
from autoprune.groups import find_groups
from autoprune.groups.slicing import mask_model
from autoprune.pruning.criteria import CRITERIA, CriterionContext
from autoprune.pruning.criteria.base import Criterion
from autoprune.tasks import ClassificationTask, LabelledArrays

Property = Callable[[Criterion], None]
MAGNITUDES = {"l1", "l2", "random"}
ROWS = [[3.0, -4.0], [1.0, 1.0], [0.5, 2.0]]
ONE_AT_A_TIME = np.tile([[1.0, 0.0], [0.0, 3.0]], (32, 1))


def of_linear(criterion: Criterion, x: np.ndarray, *, seed: int = 0, batches: int = 4) -> np.ndarray:
    """Score the three outputs of a linear layer whose loss is half its mean squared output."""
    model = linear(ROWS)
    task = square_task(x, batch_size=len(x))
    return criterion(CriterionContext(model, by_hand(model, 3, {"0.weight": 0}), task, seed, batches))


def second_moment(x: np.ndarray) -> np.ndarray:
    """Return [2, 2] the mean outer product of the calibration inputs."""
    (batch,) = square_task(x, batch_size=len(x)).batches("calibration", seed=0)
    return (batch[0].T @ batch[0]).double().numpy() / len(batch[0])


def gradient(criterion: Criterion) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    slopes = np.array(ROWS) @ second_moment(x) / 3
    assert of_linear(criterion, x) == pytest.approx(np.abs(slopes).mean(1), rel=1e-4)


def taylor(criterion: Criterion) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    slopes = np.array(ROWS) @ second_moment(x) / 3
    assert of_linear(criterion, x) == pytest.approx(np.abs((np.array(ROWS) * slopes).sum(1)), rel=1e-4)


def lamp(criterion: Criterion) -> None:
    sizes = np.square(ROWS).mean(1)
    of_larger = [sizes[sizes >= size].sum() for size in sizes]
    scores = of_linear(criterion, np.ones((60, 2)))
    assert scores == pytest.approx(sizes / of_larger, rel=1e-5)
    assert scores.max() == pytest.approx(1.0)


def hessian(criterion: Criterion) -> None:
    curvature = np.diag(second_moment(ONE_AT_A_TIME)) / 3
    expected = 0.5 * (np.square(ROWS) * curvature).sum(1)
    assert of_linear(criterion, ONE_AT_A_TIME) == pytest.approx(expected, rel=1e-4)
    x = np.random.default_rng(0).normal(size=(60, 2)) + 1.0
    found = np.mean([of_linear(criterion, x, seed=seed) for seed in range(60)], axis=0)
    assert found == pytest.approx(0.5 * (np.square(ROWS) * np.diag(second_moment(x)) / 3).sum(1), rel=0.15)


def noise(criterion: Criterion) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2)) + 1.0
    found = np.mean([of_linear(criterion, x, seed=seed) for seed in range(60)], axis=0)
    weights = torch.tensor(ROWS)
    generator = torch.Generator().manual_seed(0)
    (batch,) = square_task(x, batch_size=len(x)).batches("calibration", seed=0)
    for unit, row in enumerate(weights):
        drawn = torch.randn(4000, 2, generator=generator) * row.square().mean().sqrt()
        assert found[unit] == pytest.approx(float((drawn @ batch[0].T).square().mean()) / 3, rel=0.1)


def bn_scale(criterion: Criterion) -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        model[1].weight.copy_(torch.tensor([-3.0, 0.5, 1.0]))
    groups = by_hand(model, 3, {"0.weight": 0}, norms=("1",))
    assert criterion(CriterionContext(model, groups, None, 0)).tolist() == pytest.approx([3.0, 0.5, 1.0])


def angle(criterion: Criterion) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 5))
    rows[4] = 0.999 * rows[1]
    rows[2] *= 0.01
    model = linear(rows)
    scores = criterion(CriterionContext(model, by_hand(model, 6, {"0.weight": 0}), None, 0))
    assert int(np.argmin(scores)) == 4
    assert scores[4] == pytest.approx(0.0, abs=1e-6)
    assert scores[1] > 0.1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    longer = [np.linalg.norm(rows, axis=1) > np.linalg.norm(row) for row in rows]
    expected = [1 - (unit[own] @ row).max() if own.any() else 2.0 for row, own in zip(unit, longer, strict=True)]
    assert scores == pytest.approx(np.array(expected), abs=1e-5)


def geometric_median(criterion: Criterion) -> None:
    rows = np.array([[10.0, 0.0], [12.0, 0.0], [8.0, 0.0], [10.0, 2.0], [10.0, -2.0], [0.0, 0.1]])
    model = linear(rows)
    scores = criterion(CriterionContext(model, by_hand(model, 6, {"0.weight": 0}), None, 0))
    assert int(np.argmin(scores)) == 0
    assert int(np.argmax(scores)) == 5
    assert scores == pytest.approx(np.linalg.norm(rows[:, None] - rows, axis=2).sum(1) / 5, rel=1e-5)


class Readers(nn.Module):
    """Units that a convolution reads, then units that a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc(x.mean((2, 3)))


def of_readers(criterion: Criterion) -> tuple[CriterionContext, np.ndarray, list[Tensor]]:
    """Score a small net; the calibration batches come with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Readers().eval()
    data = LabelledArrays(np.random.default_rng(0).normal(size=(90, 1, 6, 6)), np.arange(90) % 3)
    task = ClassificationTask(model, data, batch_size=16)
    context = CriterionContext(model, find_groups(model, task.example_inputs()), task, seed=3, batches=2)
    batches = list(task.batches("calibration", seed=3))[:2]
    return context, criterion(context), batches


def activation(criterion: Criterion) -> None:
    context, scores, batches = of_readers(criterion)
    x, model = torch.cat([b[0] for b in batches]), context.model
    with torch.no_grad():
        hidden = torch.relu(model.get_submodule("first")(x))
        pooled = torch.relu(model.get_submodule("second")(hidden)).mean((2, 3))
    first, second = context.groups["first"], context.groups["second"]
    assert scores[first.start :][:6] == pytest.approx((hidden > 0).double().mean((0, 2, 3)).numpy(), rel=1e-5)
    reading = model.get_parameter("fc.weight").detach().abs().mean(0)
    assert scores[second.start :][:5] == pytest.approx((pooled.norm(dim=0) * reading).numpy(), rel=1e-4)


def contribution(criterion: Criterion) -> None:
    context, scores, batches = of_readers(criterion)

    def loss(model: nn.Module) -> float:
        assert context.task is not None
        with torch.no_grad():
            return float(np.mean([float(context.task.loss(model(batch[0]), batch)) for batch in batches]))

    whole = loss(context.model)
    for unit in range(len(scores)):
        alive = np.ones(len(scores), dtype=bool)
        alive[unit] = False
        without = loss(mask_model(context.model, context.groups.plan, alive).eval())
        assert scores[unit] == pytest.approx(without - whole, abs=1e-6)


PROPERTIES: dict[str, Property] = {
    f.__name__: f
    for f in (gradient, taylor, hessian, lamp, noise, bn_scale, angle, geometric_median, activation, contribution)
}


def lacking(name: str, criterion: Criterion) -> AssertionError | None:
    """Return what of a property does not hold for a criterion."""
    try:
        PROPERTIES[name](criterion)
    except AssertionError as error:
        return error
    return None


def test_every_criterion_but_the_magnitudes_has_its_property() -> None:
    assert set(PROPERTIES) == set(AXES["criterion"]) - MAGNITUDES


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_criterion_has_the_property_that_defines_it(name: str) -> None:
    assert lacking(name, CRITERIA[name]) is None


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_magnitude_in_its_place_would_not(name: str) -> None:
    assert lacking(name, CRITERIA["l1"]) is not None


def test_a_unit_that_nothing_reads_by_a_known_layer_is_judged_by_its_own_outputs() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = linear([[1.0], [-1.0], [0.5]])[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    model = Summed()
    task = SquareTask(model, LabelledArrays(np.ones((60, 1)), np.arange(60) % 2), batch_size=10)
    groups = by_hand(model, 3, {"first.weight": 0})
    assert CRITERIA["activation"](CriterionContext(model, groups, task, 0)).tolist() == [1.0, 0.0, 1.0]


def test_units_that_are_never_zero_are_judged_by_the_size_of_their_activations() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(12, 3)).eval()
    x = torch.rand(30, 1, 2, 2) + 1.0
    task = SquareTask(model, LabelledArrays(x.numpy(), np.arange(30) % 3), batch_size=6)
    context = CriterionContext(model, find_groups(model, task.example_inputs()), task, 0)
    batches = torch.cat([b[0] for b in task.batches("calibration", seed=0)][:4])
    with torch.no_grad():
        expected = model[0](batches).square().mean((0, 2, 3)).sqrt()
    assert CRITERIA["activation"](context)[:4] == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.parametrize("name", ["gradient", "hessian", "noise", "activation", "contribution"])
def test_a_criterion_of_data_says_that_it_needs_a_task(name: str) -> None:
    model = linear([[1.0], [2.0]])
    with pytest.raises(ConfigError, match=f"{name} needs a task"):
        CRITERIA[name](CriterionContext(model, by_hand(model, 2, {"0.weight": 0}), None, 0))
