"""The ready-made tasks: data, splits, subsets, defaults and the guarded test split."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.tasks import (
    BaseTask,
    ClassificationTask,
    GuardedTask,
    Inputs,
    LabelledArrays,
    RecoverContext,
    Task,
    TestAccess,
    signal_of,
)
from autoprune.tasks.base import rate, tensors_of


def blobs(n: int = 300, classes: int = 3, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return separable, class-sorted data: the worst case for whoever takes the first rows."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.integers(0, classes, n))
    centres = 4.0 * np.eye(classes, features)
    return (centres[y] + rng.normal(size=(n, features))).astype(np.float32), y


def small_task(**options: Any) -> ClassificationTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    return ClassificationTask(model, LabelledArrays(*blobs()), **options)


def context(steps: int, **options: Any) -> RecoverContext:
    settings = {"lr": 0.05, "batch_size": 32, "device": torch.device("cpu"), "dtype": torch.float32} | options
    return RecoverContext(steps=steps, generator=torch.Generator().manual_seed(0), **settings)


def accuracy(task: ClassificationTask, model: nn.Module, split: Any = "val") -> float:
    return task.evaluate(lambda inputs: model(*inputs.args), split).metrics["accuracy"]


def test_the_ready_made_task_satisfies_the_protocol() -> None:
    assert isinstance(small_task(), Task)


def test_models_are_equal_and_independent() -> None:
    calls = []

    def build() -> nn.Module:
        calls.append(1)
        return nn.Linear(6, 3)

    task = ClassificationTask(build, LabelledArrays(*blobs()))
    one, other = task.build_model(), task.build_model()
    assert len(calls) == 1
    assert torch.equal(one.weight, other.weight)
    with torch.no_grad():
        one.weight.zero_()
    assert other.weight.any()
    assert task.build_model().weight.any()


def test_a_factory_that_returns_no_module_is_refused() -> None:
    with pytest.raises(TaskError, match="dict"):
        ClassificationTask(dict, LabelledArrays(*blobs())).build_model()


def test_a_pass_yields_every_row_once_in_batches_of_nearly_equal_size() -> None:
    task = small_task()
    batches = list(task.batches("train", seed=3, batch_size=209))
    assert [len(b[1]) for b in batches] == [105, 105]
    rows = torch.cat([b[0] for b in batches])
    assert torch.equal(rows.sort(dim=0).values, task.data.x[task.data.splits["train"]].sort(dim=0).values)


def test_batches_follow_their_seed_and_leave_the_global_state_alone() -> None:
    task = small_task()
    before = torch.get_rng_state()
    first = [torch.cat([x for x, _ in task.batches("train", seed=s)]) for s in (1, 1, 2)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert torch.equal(before, torch.get_rng_state())


def test_a_limit_draws_a_stratified_subset() -> None:
    task = small_task()
    labels = torch.cat([y for _, y in task.batches("train", seed=0, limit=30)])
    assert len(labels) == 30
    assert torch.bincount(labels, minlength=3).min() >= 8


def test_accuracy_is_the_share_of_hits_with_rows_as_ids() -> None:
    task = small_task()

    def oracle(inputs: Inputs) -> Tensor:
        return F.one_hot((inputs.args[0][:, None] - 4.0 * torch.eye(3, 6)).square().sum(2).argmin(1), 3).float()

    scored = task.evaluate(oracle, "val")
    rows = np.array([int(i) for i in scored.ids])
    assert sorted(rows) == sorted(task.data.splits["val"])
    assert scored.outputs is not None
    assert np.array_equal(scored.per_unit["accuracy"], (scored.outputs.argmax(1) == task.data.y[rows]).astype(float))
    assert scored.metrics["accuracy"] == scored.per_unit["accuracy"].mean() > 0.9


def test_cross_entropy_is_that_of_torch_also_for_large_logits() -> None:
    task, model = small_task(), small_task().build_model()
    for scale in (1.0, 1e4):
        scored = task.evaluate(lambda i, scale=scale: scale * model(*i.args), "val")
        rows = np.array([int(i) for i in scored.ids])
        expected = F.cross_entropy(torch.tensor(scored.outputs).double(), torch.tensor(task.data.y[rows]))
        assert scored.metrics["cross_entropy"] == pytest.approx(float(expected), rel=1e-6)


def test_the_signal_of_a_task_survives_its_guard() -> None:
    assert signal_of(GuardedTask(small_task())) == "cross_entropy"
    assert BaseTask.signal is None


def test_a_subset_of_an_evaluation_pairs_with_the_whole_by_id() -> None:
    task, model = small_task(), small_task().build_model()
    whole = task.evaluate(lambda i: model(*i.args), "val")
    part = task.evaluate(lambda i: model(*i.args), "val", limit=20, seed=5)
    score = dict(zip(whole.ids, whole.per_unit["accuracy"], strict=True))
    assert len(part.ids) == 20
    assert [score[i] for i in part.ids] == part.per_unit["accuracy"].tolist()


def test_outputs_that_are_not_finite_fail_the_candidate() -> None:
    with pytest.raises(CandidateError) as caught:
        small_task().evaluate(lambda i: torch.full((len(i.args[0]), 3), torch.nan), "val")
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "quality")


@pytest.mark.parametrize(("outputs", "words"), [((2,), "2 outputs"), ((3, 4), "shape"), ((), "shape")])
def test_outputs_that_do_not_fit_the_labels_are_refused(outputs: tuple[int, ...], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        small_task().evaluate(lambda i: torch.zeros(len(i.args[0]), *outputs), "val")


def test_recovery_trains_within_its_budget_and_calls_every_hook() -> None:
    task = small_task()
    model = task.build_model()
    before = accuracy(task, model)
    seen: list[int] = []
    ctx = context(60, on_step=lambda _model, step: seen.append(step))
    task.recover(model, ctx)
    assert seen == list(range(60))
    assert ctx.calls == {"extra_loss": 60, "after_step": 60, "report": 10, "checkpoint": 10}
    assert accuracy(task, model) > max(before, 0.9)
    assert not any(m.training for m in model.modules())


def test_recovery_decays_weights_only_and_lets_the_learning_rate_fall() -> None:
    rates, decays = [], set()

    def look(_model: nn.Module, optimizer: torch.optim.Optimizer, _step: int) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        decays.update(
            (p.ndim > 1, group["weight_decay"] > 0) for group in optimizer.param_groups for p in group["params"]
        )

    task = small_task()
    task.recover(task.build_model(), context(50, on_checkpoint=look))
    assert decays == {(True, True), (False, False)}
    assert rates[0] == pytest.approx(0.05, rel=0.02)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-3


def test_recovery_draws_every_pass_anew() -> None:
    seeds = []

    class Watched(ClassificationTask):
        def batches(self, split: Any, *, seed: int, **options: Any) -> Iterator[Any]:
            seeds.append(seed)
            return super().batches(split, seed=seed, **options)

    task = Watched(nn.Linear(6, 3), LabelledArrays(*blobs()))
    task.recover(task.build_model(), context(20))
    task.recover(task.build_model(), context(20))
    assert len(seeds) == 6
    assert len(set(seeds[:3])) == 3
    assert seeds[:3] == seeds[3:]


def test_recovery_bounds_the_step_that_one_bad_batch_can_make() -> None:
    task = small_task()
    model = task.build_model()
    before = model[0].weight.detach().clone()
    task.recover(model, context(1, penalty=lambda m, _o, _b: 1e8 * m[0].weight.sum()))
    assert 0.0 < (model[0].weight - before).norm() < 1.0


def test_recovery_stops_when_a_report_says_so() -> None:
    ctx = context(100, on_report=lambda step, _value: step < 25)
    task = small_task()
    task.recover(task.build_model(), ctx)
    assert ctx.calls["after_step"] == 30


def test_recovery_adds_the_penalty_to_the_loss() -> None:
    task = small_task()
    plain, shrunk = task.build_model(), task.build_model()
    task.recover(plain, context(40))
    task.recover(shrunk, context(40, penalty=lambda model, _o, _b: 0.5 * model[0].weight.square().sum()))
    assert shrunk[0].weight.norm() < 0.5 * plain[0].weight.norm()


def test_recovery_on_a_loss_that_is_not_finite_diverges() -> None:
    task = small_task()
    with pytest.raises(CandidateError) as caught:
        task.recover(task.build_model(), context(5, penalty=lambda *_: torch.tensor(torch.nan)))
    assert (caught.value.reason, caught.value.stage) == ("diverged", "recover")


def test_recovery_of_a_frozen_model_is_refused() -> None:
    task = small_task()
    with pytest.raises(TaskError, match="frozen"):
        task.recover(task.build_model().requires_grad_(False), context(5))


def test_recovery_without_training_data_is_refused() -> None:
    class Empty(ClassificationTask):
        def batches(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            return iter(())

    task = Empty(nn.Linear(6, 3), LabelledArrays(*blobs()))
    with pytest.raises(TaskError, match="yields nothing"):
        task.recover(task.build_model(), context(5))


def test_the_learning_rate_warms_up_then_falls_to_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates.index(max(rates)) in range(8, 12)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert 0.0 < rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rate(0, 1) > 0.0


def test_distillation_is_zero_for_equal_outputs_and_grows_with_distance() -> None:
    task = small_task()
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    losses = [float(task.distill_loss(teacher + d * torch.eye(8, 3), teacher, None)) for d in (0.0, 0.5, 2.0)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses[0] < losses[1] < losses[2]


def test_distillation_is_the_divergence_at_temperature_two_times_four() -> None:
    soft = np.exp([0.5, 0.0]) / np.exp([0.5, 0.0]).sum()
    expected = 4.0 * float((soft * np.log(soft / 0.5)).sum())
    loss = small_task().distill_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), None)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_distillation_of_sequences_is_a_mean_over_positions() -> None:
    student, teacher = torch.zeros(2, 1, 4), torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, 1, 4)
    short = small_task().distill_loss(student, teacher, None)
    long = small_task().distill_loss(student.expand(2, 5, 4), teacher.expand(2, 5, 4), None)
    assert float(short) == pytest.approx(float(long))


def test_distillation_of_a_regression_is_the_squared_difference() -> None:
    assert float(small_task().distill_loss(torch.zeros(4, 1), torch.full((4, 1), 3.0), None)) == pytest.approx(9.0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"logits": x, "loss": 0},
        lambda x: SimpleNamespace(logits=x),
        lambda x: (x, 1),
        lambda x: {"y": x},
    ],
)
def test_structure_finds_the_logits(wrap: Any) -> None:
    logits = torch.zeros(2, 3)
    assert small_task().structure(wrap(logits)) is logits


def test_structure_that_is_not_understood_names_what_there_is() -> None:
    with pytest.raises(TaskError, match="boxes, scores"):
        small_task().structure({"boxes": torch.zeros(1), "scores": torch.zeros(1)})


def test_move_reaches_every_tensor_of_a_nested_batch() -> None:
    batch = {"a": torch.zeros(2), "b": [Inputs((torch.ones(1),), {"c": torch.ones(3)}), "text"]}
    moved = small_task().move(batch, torch.device("meta"))
    assert [t.device.type for t in tensors_of(moved)] == ["meta"] * 3
    assert isinstance(moved["b"][0], Inputs)
    assert moved["b"][1] == "text"


def test_inputs_of_a_mapping_leave_the_labels_out() -> None:
    ids = torch.zeros(2, 4)
    assert BaseTask.inputs(small_task(), {"input_ids": ids, "labels": torch.zeros(2)}) == Inputs((), {"input_ids": ids})


def test_a_class_that_lacks_a_required_method_cannot_be_made() -> None:
    class Half(BaseTask):
        def build_model(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError, match="evaluate"):
        Half()


def test_the_test_split_is_scored_and_counted_through_the_accessor_only() -> None:
    task = small_task()
    access = TestAccess(task)
    model = task.build_model()
    scored = access.evaluate_test(lambda i: model(*i.args))
    assert sorted(map(int, scored.ids)) == sorted(task.data.splits["test"])
    assert access.reads == 1
    with pytest.raises(TaskError, match="evaluate_test"):
        access.task.evaluate(lambda i: model(*i.args), "test")
    with pytest.raises(TaskError, match="evaluate_test"):
        access.task.batches("test", seed=0)
    assert access.reads == 1


def test_the_guarded_task_is_otherwise_the_task() -> None:
    task = small_task(protect=["4"])
    guarded = TestAccess(task).task
    model = guarded.build_model()
    assert isinstance(guarded, Task)
    assert (guarded.name, guarded.protect, guarded.fingerprint) == (task.name, ("4",), task.fingerprint)
    assert (
        guarded.evaluate(lambda i: model(*i.args), "val").metrics
        == task.evaluate(lambda i: model(*i.args), "val").metrics
    )
    guarded.recover(model, context(2))
    batch = next(iter(guarded.batches("train", seed=0)))
    assert (
        guarded.loss(guarded.structure(model(*guarded.inputs(batch).args)), guarded.move(batch, torch.device("cpu")))
        > 0
    )
