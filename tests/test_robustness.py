"""Robustness, stability and agreement: measured on a real net, checked by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import (
    Interval,
    agreement,
    by_class,
    compare,
    conditions_of,
    confusion,
    gap_between,
    gradient_norms,
    score,
    score_conditions,
)
from autoprune.evaluation.stability import ROOT
from autoprune.runtimes import TorchSession
from autoprune.tasks import ClassificationTask, Evaluated, Inputs, LabelledArrays, Predict, image_corruptions
from autoprune.tasks.base import TEMPERATURE
from autoprune.tasks.optional import CLEAN


class SmallNet(nn.Module):
    """One convolution, one normalisation, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 4, 10)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.scale * F.relu(self.norm(self.conv(x)))
        return F.linear(hidden.flatten(1), self.fc.weight, self.fc.bias)


def digits() -> LabelledArrays:
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    turned = LabelledArrays(x.flip(3), found.target)
    return LabelledArrays(x, found.target, unit="image", shifts={"mirrored": turned})


@pytest.fixture(scope="module")
def task() -> ClassificationTask:
    data, generator = digits(), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallNet()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    rows = torch.from_numpy(data.splits["train"])
    for _ in range(6):
        for part in torch.split(rows[torch.randperm(len(rows), generator=generator)], 64):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(data.x[part]), data.labels[part]))
            optimizer.step()
    return ClassificationTask(model.eval(), data, corruptions=image_corruptions(noise=(0.5, 1.0), blur=(1.0,)))


def half_pruned(task: ClassificationTask) -> nn.Module:
    model = task.build_model()
    with torch.no_grad():
        model.get_parameter("fc.weight")[:, ::3] = 0.0
    return model


def on_val(task: ClassificationTask, model: nn.Module) -> Evaluated:
    return score(task, TorchSession(model, 1), "val")


def test_corruptions_and_shifts_lower_accuracy_and_the_paired_change_has_an_interval(task: ClassificationTask) -> None:
    conditions = conditions_of(task)
    assert [c.key for c in conditions] == ["clean", "noise_0.5", "noise_1", "blur_1", "shift:mirrored"]
    dense, pruned = (
        score_conditions(task, TorchSession(m, 1), conditions, units=200, seed=0).scored
        for m in (task.build_model(), half_pruned(task))
    )
    accuracy = {c.key: s.metrics["accuracy"] for c, s in dense.items()}
    assert accuracy["clean"] > 0.9
    assert accuracy["noise_1"] < accuracy["noise_0.5"] < accuracy["clean"]
    assert accuracy["blur_1"] < accuracy["clean"]
    assert accuracy["shift:mirrored"] < accuracy["clean"] - 0.2
    for condition in conditions:
        assert len(dense[condition].ids) == 200
        change = compare(task, pruned[condition], dense[condition], seed=0, metrics=task.metrics[:1])
        assert set(change) == {"accuracy"}
        assert change["accuracy"].low < change["accuracy"].delta < change["accuracy"].high
    assert compare(task, pruned[conditions[0]], dense[conditions[0]], seed=0)["accuracy"].delta < 0


def test_a_corruption_changes_what_the_model_sees_and_not_the_labels(task: ClassificationTask) -> None:
    clean, *corrupted, _ = conditions_of(task)
    found = score_conditions(task, TorchSession(task.build_model(), 1), [clean, *corrupted], units=60, seed=3).scored
    plain = score(task, TorchSession(task.build_model(), 1), "val", limit=60, seed=3)
    assert found[clean].metrics == plain.metrics
    for condition in corrupted:
        assert found[condition].ids == plain.ids
        assert np.array_equal(known(found[condition].labels), known(plain.labels))
        assert not np.array_equal(known(found[condition].outputs), known(plain.outputs))


def known(array: Any) -> Any:
    assert array is not None
    return array


class Tokens(ClassificationTask):
    """A net of integers: noise on images has nothing to take hold of."""

    def evaluate(self, predict: Predict, split: Any, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        def rounded(inputs: Inputs) -> Any:
            return predict(Inputs((inputs.args[0].round().long(),), {}))

        return super().evaluate(rounded, split, limit=limit, seed=seed)


def test_image_noise_leaves_tokens_alone(task: ClassificationTask) -> None:
    tokens = Tokens(task.build_model(), task.data, corruptions=image_corruptions())
    seen: list[Tensor] = []

    class Session:
        runtime_version = ""

        def run(self, inputs: Inputs) -> Tensor:
            seen.append(inputs.args[0])
            return torch.zeros(len(inputs.args[0]), 10)

        def call(self, inputs: Inputs) -> Any:
            return lambda: None

    clean, noise, *_ = conditions_of(tokens)
    score_conditions(tokens, Session(), [clean, noise], units=32, seed=0)
    assert seen[0].dtype == torch.int64
    assert torch.equal(seen[0], seen[1])


def test_a_task_without_corruptions_and_shifts_has_no_conditions(task: ClassificationTask) -> None:
    data = LabelledArrays(task.data.x, task.data.y)
    assert conditions_of(ClassificationTask(task.build_model(), data)) == ()


class Breaking(ClassificationTask):
    error: Exception = CandidateError("The outputs hold NaN.", reason="nonfinite", stage="quality")

    def evaluate(self, predict: Predict, split: Any, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        scored = super().evaluate(predict, split, limit=limit, seed=seed)
        if scored.metrics["accuracy"] < 0.5:
            raise self.error
        return scored


def test_a_metric_that_breaks_down_under_a_corruption_is_a_finding(task: ClassificationTask) -> None:
    breaking = Breaking(task.build_model(), task.data, corruptions=image_corruptions(noise=(5.0,), blur=(0.3,)))
    session, conditions = TorchSession(breaking.build_model(), 1), conditions_of(breaking)
    found = score_conditions(breaking, session, conditions, units=100, seed=0)
    assert {c.key: text for c, text in found.failed.items()} == {"noise_5": "The outputs hold NaN."}
    assert {c.key for c in found.scored} == {CLEAN, "blur_0.3", "shift:mirrored"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CandidateError("It took too long.", reason="timeout", stage="quality"), "It took too long."),
        (TaskError("There is no such file."), "There is no such file."),
        (KeyError("lens"), "The task under noise_5 raised KeyError: 'lens'"),
        (SystemExit(3), "The task under noise_5 raised SystemExit: 3"),
    ],
)
def test_whatever_fails_under_one_corruption_costs_that_condition_alone(
    task: ClassificationTask, error: Exception, told: str
) -> None:
    breaking = Breaking(task.build_model(), task.data, corruptions=image_corruptions(noise=(5.0,), blur=(0.3,)))
    breaking.error = error
    session, conditions = TorchSession(breaking.build_model(), 1), conditions_of(breaking)
    found = score_conditions(breaking, session, conditions, units=100, seed=0)
    assert [(c.key, text.startswith(told)) for c, text in found.failed.items()] == [("noise_5", True)]
    assert {c.key for c in found.scored} == {CLEAN, "blur_0.3", "shift:mirrored"}


def test_the_dense_model_agrees_with_itself_and_changes_nowhere(task: ClassificationTask) -> None:
    dense, again = on_val(task, task.build_model()), on_val(task, task.build_model())
    found = agreement(again, dense)
    assert found is not None
    assert found.same is not None
    assert (found.same.value, found.kl, found.rmse) == (1.0, 0.0, None)
    assert found.same.low < 1.0
    for one in by_class(again, dense):
        assert one.change is not None
        assert (one.change.delta, one.change.low < 0.0 < one.change.high) == (0.0, True)


def test_agreement_counts_equal_answers_and_the_divergence_of_softened_outputs() -> None:
    one, other = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 3.0], [0.0, 2.0]])
    found = agreement(outputs_of(one), outputs_of(other))
    assert found is not None
    assert found.same is not None
    assert found.same.value == 0.5
    first, second = (torch.log_softmax(torch.tensor(x) / TEMPERATURE, dim=1) for x in (other, one))
    expected = F.kl_div(second, first, reduction="batchmean", log_target=True)
    assert found.kl == pytest.approx(float(expected), abs=1e-12)


def outputs_of(outputs: Any, labels: Any = None, ids: Sequence[str] | None = None) -> Evaluated:
    n = len(outputs)
    names = tuple(ids or (f"u{i}" for i in range(n)))
    return Evaluated({}, "row", names, {}, np.asarray(outputs, dtype=np.float32), labels)


def test_regressions_differ_by_the_root_of_the_mean_square() -> None:
    found = agreement(outputs_of([[1.0], [2.0]]), outputs_of([[1.0], [5.0]]))
    assert found is not None
    assert (found.same, found.kl) == (None, None)
    assert found.rmse == pytest.approx(3.0 / math.sqrt(2.0))
    assert agreement(outputs_of([1.0, 2.0]), outputs_of([1.0, 5.0])) == found


def test_units_are_paired_by_their_ids() -> None:
    one = outputs_of(np.eye(3), np.arange(3))
    turned = outputs_of(np.eye(3)[::-1], np.arange(3)[::-1], ("u2", "u1", "u0"))
    found = agreement(one, turned)
    assert found is not None
    assert found.same is not None
    assert found.same.value == 1.0
    assert [c.change.delta for c in by_class(one, turned) if c.change] == [0.0, 0.0, 0.0]
    with pytest.raises(TaskError, match="same units"):
        agreement(one, outputs_of(np.eye(3), ids=("a", "b", "c")))


@pytest.mark.parametrize(
    "outputs", [None, np.zeros((3, 2, 2)), np.full((3, 2), np.nan)], ids=["none", "sequences", "not finite"]
)
def test_outputs_that_tell_nothing_give_no_agreement_and_no_classes(outputs: Any) -> None:
    scored = Evaluated({}, "row", ("a", "b", "c"), {}, outputs, np.zeros(3, dtype=np.int64))
    assert agreement(scored, scored) is None
    assert by_class(scored, scored) == ()
    assert confusion(scored) is None


def test_the_changes_of_the_classes_sum_up_to_the_total_change(task: ClassificationTask) -> None:
    dense, pruned = on_val(task, task.build_model()), on_val(task, half_pruned(task))
    classes = by_class(pruned, dense)
    total = sum(c.accuracy.n for c in classes)
    assert total == len(pruned.ids)
    shares = [(c.accuracy.n / total, c.accuracy.value, c.change.delta) for c in classes if c.change]
    assert sum(s * value for s, value, _ in shares) == pytest.approx(pruned.metrics["accuracy"])
    lost = pruned.metrics["accuracy"] - dense.metrics["accuracy"]
    assert lost < -0.05
    assert sum(s * delta for s, _, delta in shares) == pytest.approx(lost)
    assert all(c.accuracy.low <= c.accuracy.value <= c.accuracy.high for c in classes)


def test_the_confusion_counts_labels_by_row_and_answers_by_column(task: ClassificationTask) -> None:
    scored = on_val(task, half_pruned(task))
    counts = confusion(scored)
    assert counts is not None
    assert counts.sum(axis=1).tolist() == np.bincount(known(scored.labels)).tolist()
    assert counts.trace() / counts.sum() == pytest.approx(scored.metrics["accuracy"])
    small = confusion(outputs_of([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], np.array([0, 0, 1])))
    assert small is not None
    assert small.tolist() == [[1, 1], [0, 1]]


def test_gradient_norms_are_those_of_autograd(task: ClassificationTask) -> None:
    model = task.build_model().train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = gradient_norms(model, task, units=48, seed=2)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    reference = task.build_model().eval()
    x, labels = next(iter(task.batches("calibration", seed=2, batch_size=48, limit=48)))
    assert len(labels) == 48
    torch.autograd.backward(F.cross_entropy(reference(x), labels))
    for layer in ("conv", "norm", "fc"):
        parts = [p.grad for p in reference.get_submodule(layer).parameters()]
        expected = math.sqrt(sum(float(g.square().sum()) for g in parts if g is not None))
        assert found[layer] == pytest.approx(expected, rel=1e-5)
    scale = reference.get_parameter("scale").grad
    assert scale is not None
    assert found[ROOT] == pytest.approx(abs(float(scale)), rel=1e-5)
    assert set(found) == {"conv", "norm", "fc", ROOT}


def test_a_loss_that_is_not_finite_has_no_gradient_norms(task: ClassificationTask) -> None:
    model = task.build_model()
    with torch.no_grad():
        model.get_parameter("fc.bias").fill_(torch.nan)
    assert gradient_norms(model, task, units=16, seed=0) == {}


def test_the_gap_is_train_less_the_other_split_with_bounds_of_two_independent_samples() -> None:
    train = Interval(0.99, 0.98, 0.995, 500, "image", "wilson")
    test = Interval(0.95, 0.92, 0.97, 270, "image", "wilson")
    gap = gap_between(train, test)
    assert gap.delta == pytest.approx(0.04)
    assert gap.low == pytest.approx(0.04 - math.hypot(0.01, 0.02))
    assert gap.high == pytest.approx(0.04 + math.hypot(0.005, 0.03))
