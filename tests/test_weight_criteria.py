"""Criteria of single weights: one contract for every one of the registry, closed forms on a linear case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from criteria_cases import Net, SquareTask, by_hand, image_task, linear, permute, randomised, square_task
from torch import Tensor, nn

from autoprune.axes import AXES
from autoprune.errors import CandidateError, ConfigError, UnknownNameError
from autoprune.groups import find_groups
from autoprune.pruning.criteria import WEIGHT_CRITERIA, CriterionContext, importance, weight_importance
from autoprune.pruning.criteria.weights import WeightCriterion
from autoprune.tasks import LabelledArrays

NAMES = ("stem.weight", "inner.weight", "depthwise.weight", "outer.weight", "fc.weight")
OF_DATA = ("gradient", "taylor", "hessian", "activation")
ROWS = np.array([[3.0, -4.0], [1.0, 1.0], [0.5, 2.0]])
ONE_AT_A_TIME = np.tile([[1.0, 0.0], [0.0, 3.0]], (32, 1))

Property = Callable[[WeightCriterion], None]


@pytest.fixture(scope="module")
def context() -> CriterionContext:
    model = randomised(Net())
    task = image_task(model)
    return CriterionContext(model, find_groups(model, task.example_inputs()), task, seed=3)


def changed(context: CriterionContext, **changes: Any) -> CriterionContext:
    return CriterionContext(**(vars(context) | changes))


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
class TestEveryWeightCriterion:
    def test_gives_a_finite_score_an_entry(self, name: str, context: CriterionContext) -> None:
        scores = weight_importance(name, context, NAMES)
        assert list(scores) == list(NAMES)
        for parameter, values in scores.items():
            weight = context.model.get_parameter(parameter)
            assert values.shape == weight.shape
            assert values.dtype == torch.float64
            assert torch.isfinite(values).all()
            assert len(values.unique()) > values.numel() / 2

    def test_is_a_function_of_its_seed(self, name: str, context: CriterionContext) -> None:
        torch.manual_seed(1)
        first = weight_importance(name, context, NAMES)
        torch.manual_seed(2)
        again = weight_importance(name, context, NAMES[::-1])
        assert all(torch.equal(first[p], again[p]) for p in NAMES)

    def test_leaves_the_model_and_the_random_state_as_they_were(self, name: str, context: CriterionContext) -> None:
        model = context.model.train()
        model.get_submodule("inner").eval()
        before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
        state = torch.get_rng_state()
        weight_importance(name, context, NAMES)
        assert [m.training for m in model.modules()] == modes
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        assert torch.equal(state, torch.get_rng_state())
        model.eval()

    def test_scores_frozen_weights_alike(self, name: str, context: CriterionContext) -> None:
        expected = weight_importance(name, context, NAMES)
        found = weight_importance(name, changed(context, model=randomised(Net()).requires_grad_(False)), NAMES)
        assert all(torch.allclose(found[p], expected[p]) for p in NAMES)

    @pytest.mark.parametrize("group", ["stem", "inner"])
    def test_follows_a_permutation_of_the_channels(self, name: str, group: str, context: CriterionContext) -> None:
        if AXES["criterion"][name].stochastic:
            return
        found = context.groups[group]
        order = np.random.default_rng(0).permutation(found.width)
        model, scored = randomised(Net()), Net().double()
        with torch.no_grad():
            for parameter, values in weight_importance(name, context, NAMES).items():
                scored.get_parameter(parameter).copy_(values)
        permute(model, context.groups.plan, found, order)
        permute(scored, context.groups.plan, found, order)
        scores = weight_importance(name, changed(context, model=model), NAMES)
        moved = weight_importance(name, context, NAMES)
        assert any(not torch.equal(scores[p], moved[p]) for p in NAMES)
        for parameter in NAMES:
            expected = scored.get_parameter(parameter).detach()
            assert torch.allclose(scores[parameter], expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))

    def test_scores_a_tensor_without_the_others(self, name: str, context: CriterionContext) -> None:
        alone = weight_importance(name, context, ["inner.weight"])
        assert list(alone) == ["inner.weight"]
        if name != "hessian":
            assert torch.allclose(alone["inner.weight"], weight_importance(name, context, NAMES)["inner.weight"])

    def test_names_the_tensor_that_is_not_finite(self, name: str) -> None:
        if name == "random":
            return
        model = nn.Sequential(nn.Identity(), linear([[1.0, 2.0], [torch.nan, 1.0]])[0])
        task = square_task(np.ones((60, 2)))
        with pytest.raises(CandidateError, match=r"'1\.weight'") as caught:
            weight_importance(name, CriterionContext(model, by_hand(model, 2, {"1.weight": 0}), task, 0), ["1.weight"])
        assert (caught.value.reason, caught.value.stage) == ("nonfinite", "prune")

    def test_scores_nothing_where_nothing_is_asked(self, name: str, context: CriterionContext) -> None:
        assert weight_importance(name, context, []) == {}


def test_the_registry_holds_the_criteria_of_that_level() -> None:
    assert set(WEIGHT_CRITERIA) == {v.name for v in AXES["criterion"].values() if "weight" in v.levels}


@pytest.mark.parametrize("name", OF_DATA)
def test_a_criterion_of_data_says_that_it_needs_a_task(name: str, context: CriterionContext) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs a task"):
        weight_importance(name, changed(context, task=None), NAMES)


@pytest.mark.parametrize("name", OF_DATA)
def test_a_criterion_of_data_says_that_there_are_none(name: str) -> None:
    class Empty(SquareTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter(())

    model = linear(ROWS)
    task = Empty(model, LabelledArrays(np.ones((60, 2)), np.arange(60) % 2))
    with pytest.raises(ConfigError, match="needs calibration data"):
        weight_importance(name, CriterionContext(model, by_hand(model, 3, {"0.weight": 0}), task, 0), ["0.weight"])


def test_what_cannot_be_scored_is_refused(context: CriterionContext) -> None:
    with pytest.raises(UnknownNameError, match=r"'lamb'.*Did you mean 'lamp'"):
        weight_importance("lamb", context, NAMES)
    with pytest.raises(UnknownNameError, match="geometric_median"):
        weight_importance("geometric_median", context, NAMES)
    with pytest.raises(ConfigError, match=r"no parameter 'nothing\.weight'"):
        weight_importance("l1", context, ["stem.weight", "nothing.weight"])
    with pytest.raises(ConfigError, match=r"'norm\.weight' of a BatchNorm2d"):
        weight_importance("activation", context, ["norm.weight"])
    with pytest.raises(ConfigError, match=r"'fc\.bias' of a Linear"):
        weight_importance("activation", context, ["fc.bias"])


@pytest.mark.parametrize("bad", [{}, {"stem.weight": torch.zeros(3)}])
def test_a_third_partys_criterion_is_checked(
    bad: dict[str, Tensor], context: CriterionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WEIGHT_CRITERIA._items, "theirs", lambda *_: bad)
    with pytest.raises(ConfigError, match=r"'theirs' must return \(8, 1, 3, 3\)"):
        weight_importance("theirs", context, ["stem.weight"])


def of_linear(criterion: WeightCriterion, x: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Score the six weights of a linear layer whose loss is half its mean squared output."""
    model = linear(ROWS)
    task = square_task(x, batch_size=len(x))
    context = CriterionContext(model, by_hand(model, 3, {"0.weight": 0}), task, seed)
    return criterion(context, ["0.weight"])["0.weight"].numpy()


def second_moment(x: np.ndarray) -> np.ndarray:
    """Return [2, 2] the mean outer product of the calibration inputs."""
    (batch,) = square_task(x, batch_size=len(x)).batches("calibration", seed=0)
    return (batch[0].T @ batch[0]).double().numpy() / len(batch[0])


def drawn(shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 2)) + shift


def l2(criterion: WeightCriterion) -> None:
    assert of_linear(criterion, drawn()) == pytest.approx(np.square(ROWS))


def lamp(criterion: WeightCriterion) -> None:
    squares = np.square(ROWS)
    of_larger = np.array([[squares[squares >= w].sum() for w in row] for row in squares])
    assert of_linear(criterion, drawn()) == pytest.approx(squares / of_larger)


def gradient(criterion: WeightCriterion) -> None:
    assert of_linear(criterion, drawn()) == pytest.approx(np.abs(ROWS @ second_moment(drawn()) / 3), rel=1e-4)


def taylor(criterion: WeightCriterion) -> None:
    slopes = ROWS @ second_moment(drawn(1.0)) / 3
    assert of_linear(criterion, drawn(1.0)) == pytest.approx(np.abs(ROWS * slopes), rel=1e-4)


def hessian(criterion: WeightCriterion) -> None:
    curvature = np.diag(second_moment(ONE_AT_A_TIME)) / 3
    assert of_linear(criterion, ONE_AT_A_TIME) == pytest.approx(0.5 * np.square(ROWS) * curvature, rel=1e-4)
    found = np.mean([of_linear(criterion, drawn(1.0), seed=seed) for seed in range(60)], axis=0)
    assert found == pytest.approx(0.5 * np.square(ROWS) * np.diag(second_moment(drawn(1.0))) / 3, rel=0.2)


def activation(criterion: WeightCriterion) -> None:
    x = drawn() * np.array([1.0, 5.0])
    assert of_linear(criterion, x) == pytest.approx(np.abs(ROWS) * np.sqrt(np.diag(second_moment(x))), rel=1e-5)


def random(criterion: WeightCriterion) -> None:
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 50))
    context = CriterionContext(model, by_hand(model, 40, {"0.weight": 0}), None, 0)
    scores = criterion(context, ["0.weight", "1.weight"])
    for values in scores.values():
        assert values.min() >= 0.0
        assert values.max() < 1.0
        assert values.mean() == pytest.approx(0.5, abs=0.03)
        assert values.var() == pytest.approx(1 / 12, rel=0.1)
    one, other = (scores[p].flatten() for p in ("0.weight", "1.weight"))
    assert not torch.equal(one, other)
    assert not torch.equal(criterion(changed(context, seed=1), ["0.weight"])["0.weight"].flatten(), one)
    assert abs(float(torch.corrcoef(torch.stack([one, model[0].weight.detach().abs().flatten()]))[0, 1])) < 0.1


PROPERTIES: dict[str, Property] = {f.__name__: f for f in (l2, lamp, gradient, taylor, hessian, activation, random)}


def lacking(name: str, criterion: WeightCriterion) -> AssertionError | None:
    """Return what of a property does not hold for a criterion."""
    try:
        PROPERTIES[name](criterion)
    except AssertionError as error:
        return error
    return None


def test_every_criterion_but_l1_has_its_property() -> None:
    assert set(PROPERTIES) == set(WEIGHT_CRITERIA) - {"l1"}
    assert of_linear(WEIGHT_CRITERIA["l1"], drawn()) == pytest.approx(np.abs(ROWS))


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_criterion_has_the_property_that_defines_it(name: str) -> None:
    assert lacking(name, WEIGHT_CRITERIA[name]) is None


@pytest.mark.parametrize("name", PROPERTIES)
def test_l1_in_its_place_would_not(name: str) -> None:
    assert lacking(name, WEIGHT_CRITERIA["l1"]) is not None


def test_lamp_orders_a_tensor_by_size_and_its_largest_weight_scores_1(context: CriterionContext) -> None:
    for parameter, scores in weight_importance("lamp", context, NAMES).items():
        sizes = context.model.get_parameter(parameter).detach().abs().flatten()
        assert scores.max() == 1.0
        assert torch.equal(torch.argsort(scores.flatten(), stable=True), torch.argsort(sizes, stable=True))


def test_a_mean_is_taken_over_the_asked_number_of_batches() -> None:
    model, x = linear([[1.0], [2.0]]), np.random.default_rng(0).normal(size=(60, 1))
    task = square_task(x, batch_size=4)
    seen = [float(b[0].square().mean()) for b in task.batches("calibration", seed=0)][:2]
    context = CriterionContext(model, by_hand(model, 2, {"0.weight": 0}), task, 0, batches=2)
    scores = {name: weight_importance(name, context, ["0.weight"])["0.weight"][0, 0] for name in OF_DATA}
    assert scores["taylor"] == pytest.approx(0.5 * np.mean(seen), rel=1e-5)
    assert scores["gradient"] == pytest.approx(0.5 * np.mean(seen), rel=1e-5)
    assert scores["activation"] == pytest.approx(np.sqrt(np.mean(seen)), rel=1e-5)


def test_taylor_and_hessian_of_the_weights_agree_with_those_of_the_units() -> None:
    x = np.random.default_rng(0).normal(size=(60, 1)) + 1.0
    model = linear([[3.0], [-1.0], [0.5]])
    context = CriterionContext(model, by_hand(model, 3, {"0.weight": 0}), square_task(x), 0)
    for name in ("l1", "gradient", "taylor", "hessian"):
        of_weights = weight_importance(name, context, ["0.weight"])["0.weight"][:, 0]
        assert of_weights.numpy() == pytest.approx(importance(name, context), rel=1e-5)


LAYERS: dict[str, tuple[nn.Module, Tensor]] = {
    "linear": (nn.Linear(4, 6), torch.randn(20, 5, 4)),
    "conv": (nn.Conv2d(4, 6, 1), torch.randn(20, 4, 3, 5)),
    "grouped": (nn.Conv2d(4, 6, 1, groups=2), torch.randn(20, 4, 3, 5)),
    "depthwise": (nn.Conv1d(4, 8, 1, groups=4), torch.randn(20, 4, 7)),
    "transposed": (nn.ConvTranspose2d(4, 6, 1), torch.randn(20, 4, 3, 5)),
    "transposed and grouped": (nn.ConvTranspose1d(4, 6, 1, groups=2), torch.randn(20, 4, 7)),
    "embedding": (nn.Embedding(7, 3), torch.randint(0, 6, (20, 5))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activation_is_what_a_weight_alone_contributes_to_its_output(name: str) -> None:
    layer, x = LAYERS[name]

    class Given(SquareTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter([(x[:12], None), (x[12:], None)])

    model = nn.Sequential(layer)
    task = Given(nn.Linear(1, 2), LabelledArrays(np.ones((20, 1)), np.arange(20) % 2))
    context = CriterionContext(model, by_hand(model, 2, {}), task, 0)
    scores = weight_importance("activation", context, ["0.weight"])["0.weight"]
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
        for entry in np.ndindex(*weight.shape):
            layer.weight.zero_()
            layer.weight[entry] = weight[entry]
            output = layer(x).double()
            positions = x.numel() if name == "embedding" else x.numel() / 4
            assert float(scores[entry]) == pytest.approx(float(output.norm()) / positions**0.5, rel=1e-4, abs=1e-9)


def test_a_layer_that_is_called_by_name_and_one_that_is_never_called() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(input=x)

    model = Named()
    task = square_task(np.ones((60, 2)))
    context = CriterionContext(model, by_hand(model, 3, {"used.weight": 0}), task, 0)
    scores = weight_importance("activation", context, ["used.weight", "idle.weight"])
    assert torch.allclose(scores["used.weight"], model.used.weight.detach().abs().double())
    assert not scores["idle.weight"].any()
