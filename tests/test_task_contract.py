"""The contract suite finds what would spoil a search, before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks import (
    ClassificationTask,
    Evaluated,
    Inputs,
    LabelledArrays,
    MetricSpec,
    Predict,
    RecoverContext,
    TestAccess,
    check_task,
)


def data() -> LabelledArrays:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    return LabelledArrays(4.0 * np.eye(3, 5)[y] + rng.normal(size=(300, 5)), y)


def trained() -> nn.Module:
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3, 5))
        model.bias.zero_()
    return model


class Good(ClassificationTask):
    """A sound task, whose parts the tests spoil one at a time."""

    def __init__(self, model: nn.Module | Callable[[], nn.Module] | None = None) -> None:
        super().__init__(model or trained(), data())


def evaluated(scored: Evaluated, **changes: Any) -> Evaluated:
    return Evaluated(**(vars(scored) | changes))


class NaNWeights(Good):
    def build_model(self) -> nn.Module:
        model = super().build_model()
        with torch.no_grad():
            model.weight[0, 0] = torch.nan
        return model


class RandomWeights(Good):
    def build_model(self) -> nn.Module:
        return nn.Linear(5, 3)


class SharedModel(Good):
    def build_model(self) -> nn.Module:
        self.__dict__.setdefault("kept", trained())
        return self.__dict__["kept"]


class NoModule(Good):
    def build_model(self) -> Any:
        return lambda x: x


class NoParameters(Good):
    def build_model(self) -> nn.Module:
        return nn.Identity()


class RaisingModel(Good):
    def build_model(self) -> nn.Module:
        raise FileNotFoundError("weights.pt")


class OnlyBatchOne(Good):
    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        return super().example_inputs(batch_size=1) if batch_size == 1 else Inputs((torch.zeros(2, 4),), {})


class BareTensorInputs(Good):
    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Any:
        return torch.zeros(batch_size, 5)


class SpoiledBatches(Good):
    split = "train"

    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        raise NotImplementedError

    def batches(self, split: Any, **options: Any) -> Iterator[Any]:
        batches = super().batches(split, **options)
        return self.spoil(batches) if split == self.split else batches


class EmptyVal(SpoiledBatches):
    split = "val"

    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        return iter(())


class EmptyTest(EmptyVal):
    split = "test"


class NaNBatch(SpoiledBatches):
    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        return ((x * torch.nan, y) for x, y in batches)


class RaisingLoader(SpoiledBatches):
    split = "calibration"

    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        yield next(batches)
        raise OSError("shard 7 is missing")


class EndlessLoader(SpoiledBatches):
    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        return itertools.cycle(batches)


class UnseededLoader(SpoiledBatches):
    def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
        return ((x + torch.rand(()), y) for x, y in batches)


class VectorLoss(Good):
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none")


class DetachedLoss(Good):
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return super().loss(outputs.detach(), batch)


class NaNLoss(Good):
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return super().loss(outputs, batch) * torch.nan


class ConstantLoss(Good):
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return (outputs * 0.0).sum()


class SpoiledScore(Good):
    changes: Callable[[Evaluated], dict[str, Any]]

    def evaluate(self, predict: Predict, split: Any, **options: Any) -> Evaluated:
        scored = super().evaluate(predict, split, **options)
        return evaluated(scored, **type(self).changes(scored))


class OtherMetric(SpoiledScore):
    changes = staticmethod(lambda _: {"metrics": {"f1": 0.5}})


class NaNMetric(SpoiledScore):
    changes = staticmethod(lambda s: {"metrics": {**s.metrics, "accuracy": float("nan")}})


class PercentMetric(SpoiledScore):
    changes = staticmethod(lambda s: {"metrics": {**s.metrics, "accuracy": 100.0 * s.metrics["accuracy"]}})


class RepeatedIds(SpoiledScore):
    changes = staticmethod(lambda s: {"ids": (s.ids[0], *s.ids[:-1])})


class ShortStatistics(SpoiledScore):
    changes = staticmethod(lambda s: {"per_unit": {"accuracy": s.per_unit["accuracy"][:-1]}})


class OtherAggregate(SpoiledScore):
    changes = staticmethod(lambda s: {"per_unit": {"accuracy": 1.0 - s.per_unit["accuracy"]}})


class NoEvaluated(Good):
    def evaluate(self, *args: Any, **options: Any) -> Any:
        return 0.93


class BadBounds(Good):
    metrics = (MetricSpec("accuracy", "max", (1.0, 0.0)),)


class NoMetrics(Good):
    metrics = ()


class UnknownSignal(Good):
    signal = "loss"


class RisingSignal(Good):
    signal = "accuracy"


FATAL = {
    NaNWeights: "'weight' holds NaN",
    RandomWeights: "different weights",
    SharedModel: "share the tensor",
    NoModule: "torch.nn.Module. Got function",
    NoParameters: "without parameters",
    RaisingModel: r"FileNotFoundError: weights.pt \(test_task_contract.py",
    OnlyBatchOne: "batch size 2 raised RuntimeError",
    BareTensorInputs: "Inputs.args, kwargs.",
    EmptyVal: "'val'. yields nothing",
    EmptyTest: "'test'. yields nothing",
    NaNBatch: "batch 0 of 'train' hold NaN",
    RaisingLoader: "OSError: shard 7 is missing",
    EndlessLoader: "never ends",
    UnseededLoader: "differently at every call",
    VectorLoss: "scalar tensor. Got shape",
    DetachedLoss: "not differentiable",
    NaNLoss: "is nan on the first",
    ConstantLoss: "is 0 everywhere",
    OtherMetric: "'f1'.*'accuracy'",
    NaNMetric: "accuracy is nan",
    PercentMetric: "outside",
    RepeatedIds: "every unit once",
    ShortStatistics: "rows for",
    OtherAggregate: "aggregate",
    NoEvaluated: "Evaluated. Got float",
    BadBounds: "bounds",
    NoMetrics: "at least one metric",
    UnknownSignal: "signal .*'loss'",
    RisingSignal: "direction min. Got 'accuracy'",
}


@pytest.mark.parametrize("spoiled", FATAL, ids=lambda c: c.__name__)
def test_a_fatal_problem_is_one_task_error(spoiled: type[Good]) -> None:
    with pytest.raises(TaskError, match=FATAL[spoiled]) as caught:
        check_task(spoiled())
    assert "\n" not in str(caught.value)


def test_a_sound_task_has_no_warnings_and_leaves_the_random_state_alone() -> None:
    task = Good()
    before = torch.get_rng_state()
    assert check_task(task, full=True) == []
    assert torch.equal(before, torch.get_rng_state())


def test_a_guarded_task_is_checked_without_its_test_split() -> None:
    assert check_task(TestAccess(Good()).task) == []
    assert check_task(TestAccess(EmptyTest()).task) == []


@pytest.mark.parametrize("bias", [0.0, 5.0])
def test_a_model_at_chance_level_is_a_warning(bias: float) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.copy_(0.01 * torch.randn(3, 5, generator=generator))
        model.weight[:, :3] = 0.01
        model.bias.copy_(torch.tensor([0.0, bias, 0.0]))
    assert ["chance level" in w for w in check_task(Good(model))] == [True]


def test_an_evaluation_that_is_not_deterministic_is_a_warning() -> None:
    class Noisy(Good):
        calls = itertools.count()

        def evaluate(self, predict: Predict, split: Any, **options: Any) -> Evaluated:
            return super().evaluate(predict, split, **(options | {"seed": next(self.calls), "limit": 20}))

    assert any("not deterministic" in w for w in check_task(Noisy()))


def test_labels_of_one_class_are_a_warning() -> None:
    class OneClass(SpoiledBatches):
        def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
            return ((x, torch.ones_like(y)) for x, y in batches)

    assert any("one class" in w and "'train'" in w for w in check_task(OneClass()))


def test_training_data_in_one_fixed_order_is_a_warning() -> None:
    class Ordered(Good):
        def batches(self, split: Any, *, seed: int, **options: Any) -> Iterator[Any]:
            return super().batches(split, seed=0, **options)

    assert any("shuffled" in w for w in check_task(Ordered()))


def test_a_loader_that_draws_from_the_global_state_is_a_warning() -> None:
    class Global(SpoiledBatches):
        def spoil(self, batches: Iterator[Any]) -> Iterator[Any]:
            torch.rand(3)
            return batches

    assert any("global random state" in w for w in check_task(Global()))


def test_an_evaluation_that_ignores_its_limit_is_a_warning() -> None:
    class Whole(Good):
        def __init__(self) -> None:
            super().__init__()
            y = np.arange(4000) % 3
            noise = np.random.default_rng(0).normal(size=(4000, 5))
            self.data = LabelledArrays(4.0 * np.eye(3, 5)[y] + noise, y)

        def evaluate(self, predict: Predict, split: Any, **options: Any) -> Evaluated:
            return super().evaluate(predict, split)

    assert any("ignores `limit`" in w for w in check_task(Whole()))


def test_a_frozen_model_is_a_warning() -> None:
    assert any("frozen" in w for w in check_task(Good(trained().requires_grad_(False))))


def loop(task: Good, model: nn.Module, ctx: RecoverContext, skip: str) -> None:
    """Train as a loop of a user's own would, but for the hook named in `skip`."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0 if skip == "training" else ctx.lr)
    batches = itertools.cycle(list(task.batches("train", seed=ctx.seed)))
    for step in range(ctx.steps + 3 * (skip == "budget")):
        batch = next(batches)
        outputs = model(batch[0])
        loss = task.loss(outputs, batch)
        if skip != "extra_loss":
            extra = ctx.extra_loss(model, outputs, batch)
            loss = loss + (extra.detach() if skip == "adding" else extra)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if skip != "after_step":
            ctx.after_step(model, step)
        if skip != "report":
            ctx.report(step, float(loss.detach()))


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        ("extra_loss", "ctx.extra_loss 0 times"),
        ("after_step", "ctx.after_step 0 times"),
        ("report", "never called ctx.report"),
        ("adding", "does not add"),
        ("training", "changed no weight"),
        ("budget", "5 times in 2 steps"),
    ],
)
def test_a_training_loop_that_skips_a_hook_is_refused(skip: str, words: str) -> None:
    class Own(Good):
        def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
            loop(self, model, ctx, skip)

    assert check_task(Own()) == []
    with pytest.raises(TaskError, match=words):
        check_task(Own(), full=True)


def test_a_training_loop_that_calls_every_hook_passes() -> None:
    class Own(Good):
        def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
            loop(self, model, ctx, "")

    assert check_task(Own(), full=True) == []
