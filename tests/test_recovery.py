"""Recovery: BatchNorm estimated anew, fine-tuning, distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import CandidateError, ConfigError, TaskError
from autoprune.pruning.distilling import distillation_penalty
from autoprune.pruning.recovery import fine_tune, recalibrate
from autoprune.tasks import ClassificationTask, LabelledArrays, RecoverContext


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.BatchNorm1d(4),
            nn.Linear(4, 16),
            nn.BatchNorm1d(16, momentum=0.3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, 2),
        ).eval()


def blobs_task(**options: Any) -> ClassificationTask:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = 3.0 + 2.0 * rng.normal(size=(400, 4)) + 3.0 * y[:, None]
    return ClassificationTask(network(), LabelledArrays(x, y), **options)


def context(steps: int = 30, seed: int = 0, **options: Any) -> RecoverContext:
    settings = {"lr": 0.05, "batch_size": 64, "device": torch.device("cpu"), "dtype": torch.float32} | options
    return RecoverContext(steps=steps, generator=torch.Generator().manual_seed(seed), seed=seed, **settings)


def accuracy(task: ClassificationTask, model: nn.Module) -> float:
    return task.evaluate(lambda inputs: model(*inputs.args), "val").metrics["accuracy"]


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_recalibrated_statistics_are_those_of_the_calibration_data() -> None:
    task = blobs_task(batch_size=35)
    model = task.build_model()
    recalibrate(model, task, limit=1000, seed=0)
    batches = [x for x, _ in task.batches("calibration", seed=0)]
    assert len(batches) == 4
    assert torch.allclose(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0), atol=1e-4)


def test_recalibration_forgets_the_old_statistics_and_takes_a_subset() -> None:
    task = blobs_task()
    fresh, spoiled = task.build_model(), task.build_model()
    spoiled[2].running_mean.fill_(1e6)
    spoiled[2].num_batches_tracked.fill_(1000)
    for model in (fresh, spoiled):
        recalibrate(model, task, limit=32, seed=5)
    assert torch.equal(fresh[2].running_mean, spoiled[2].running_mean)
    assert int(fresh[2].num_batches_tracked) == 1


def test_recalibration_changes_statistics_only_and_restores_modes_and_momenta() -> None:
    task = blobs_task()
    model = task.build_model().train()
    model[3].eval()
    weights, state = weights_of(model), torch.get_rng_state()
    recalibrate(model, task, limit=64, seed=0)
    assert torch.equal(weights, weights_of(model))
    assert [m.momentum for m in (model[0], model[2])] == [0.1, 0.3]
    assert [m.training for m in model] == [True, True, True, False, True, True]
    assert torch.equal(state, torch.get_rng_state())


def test_recalibration_restores_modes_when_the_data_fail() -> None:
    class Broken(ClassificationTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            raise OSError("gone")

    model = network()
    with pytest.raises(OSError, match="gone"):
        recalibrate(model, Broken(network(), blobs_task().data), limit=8, seed=0)
    assert not any(m.training for m in model.modules())
    assert model[2].momentum == 0.3


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(4, track_running_stats=False)])
def test_recalibration_without_running_statistics_touches_no_data(norm: nn.Module) -> None:
    class Forbidden(ClassificationTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            raise AssertionError("data were read")

    model = nn.Sequential(norm, nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recalibrate(model, Forbidden(network(), blobs_task().data), limit=8, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_recalibration_without_data_is_refused() -> None:
    class Empty(ClassificationTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter(())

    with pytest.raises(TaskError, match="calibration"):
        recalibrate(network(), Empty(network(), blobs_task().data), limit=8, seed=0)


def test_statistics_that_are_not_finite_fail_the_candidate() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(torch.inf)
    with pytest.raises(CandidateError) as caught:
        recalibrate(model, blobs_task(), limit=64, seed=0)
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "recover")


def test_recalibration_repairs_a_model_whose_statistics_are_wrong() -> None:
    task = blobs_task()
    model = task.build_model()
    fine_tune(model, task, context(60))
    good = accuracy(task, model)
    model[2].running_mean.add_(5.0)
    assert accuracy(task, model) < good - 0.2
    recalibrate(model, task, limit=128, seed=0)
    assert accuracy(task, model) > good - 0.05


def test_fine_tuning_improves_and_ends_in_eval_mode() -> None:
    task = blobs_task()
    model = task.build_model()
    before = accuracy(task, model)
    fine_tune(model, task, context(60))
    assert accuracy(task, model) > max(before + 0.1, 0.8)
    assert not any(m.training for m in model.modules())


def test_fine_tuning_is_a_function_of_its_seed_also_with_dropout() -> None:
    task = blobs_task()
    trained = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = task.build_model()
        fine_tune(model, task, context(10, seed))
        trained.append(weights_of(model))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_recovery_that_ends_with_bad_weights_diverged() -> None:
    class Exploding(ClassificationTask):
        def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
            with torch.no_grad():
                model[1].weight[0, 0] = torch.nan

    with pytest.raises(CandidateError, match=r"'1\.weight'") as caught:
        fine_tune(network(), Exploding(network(), blobs_task().data), context())
    assert (caught.value.reason, caught.value.stage) == ("diverged", "recover")


def test_an_absurd_learning_rate_diverges_or_stays_finite() -> None:
    task = ClassificationTask(nn.Linear(4, 2), blobs_task().data)
    model = task.build_model()
    with pytest.raises(CandidateError, match="loss became"):
        fine_tune(model, task, context(200, lr=1e38))


def test_distillation_is_nothing_for_the_teacher_itself_and_weighs_linearly() -> None:
    task, teacher, student = blobs_task(), network(), network(seed=1)
    batch = next(iter(task.batches("train", seed=0)))

    def penalty(weight: float, model: nn.Module) -> float:
        with torch.no_grad():
            return float(distillation_penalty(task, teacher, weight)(model, model(batch[0]), batch))

    assert penalty(1.0, teacher) == pytest.approx(0.0, abs=1e-6)
    assert penalty(1.0, student) == pytest.approx(2.0 * penalty(0.5, student))
    assert penalty(1.0, student) > 0.01
    assert penalty(0.0, student) == 0.0


def test_distillation_draws_the_student_to_a_teacher_that_stays_as_it_was() -> None:
    task, teacher = blobs_task(), network(seed=1).train()
    weights = weights_of(teacher)

    def distance(steps: int, weight: float) -> float:
        model = task.build_model()
        fine_tune(model, task, context(steps, penalty=distillation_penalty(task, teacher, weight)))
        x = task.data.x[:100]
        with torch.no_grad():
            return float(task.distill_loss(model(x), teacher(x), None))

    assert distance(60, 1.0) < distance(60, 0.0)
    assert torch.equal(weights, weights_of(teacher))
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_distillation_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        distillation_penalty(blobs_task(), network(), weight)
