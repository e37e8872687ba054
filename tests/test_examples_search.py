"""The examples on images and tables: a whole search on a reduced recipe, to models that verify; what their data are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_data import EXAMPLES, FEW, REDUCED, needs, reduced, searched

import autoprune
from autoprune.errors import TaskError
from autoprune.tasks import (
    ClassificationTask,
    DetectionTask,
    RegressionTask,
    check_task,
    load_task,
    overlaps,
)


@pytest.mark.parametrize("name", sorted(REDUCED))
def test_a_reduced_search_ends_in_a_front_whose_models_verify(name: str, tmp_path: Path) -> None:
    arguments = [f"task_args.{key}={value}" for key, value in REDUCED[name].items()]
    result = searched(name, tmp_path, *FEW, *arguments)
    front = result.front
    assert front.evaluations.short == 4
    assert front.evaluations.failed == 0
    assert front.members
    assert min(member.parameters for member in front.members) < front.baseline.parameters
    for member in front.members:
        assert autoprune.verify(result.directory / str(member.directory)).ok
        assert member.deployments[front.first_target].artifact == "model.onnx"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(REDUCED))
def test_the_whole_search_ends_in_faster_models_that_verify(name: str, tmp_path: Path) -> None:
    result = searched(name, tmp_path)
    front = result.front
    for member in front.members:
        assert autoprune.verify(result.directory / str(member.directory)).ok
    timed = [member.deployments[front.first_target].latency for member in front.members]
    assert any(latency is not None and latency.speedup_low > 1.1 for latency in timed)


@pytest.mark.parametrize("name", ["fashion_mobilenet", "mlp", "diabetes", "detection"])
def test_an_example_passes_the_contract_suite(name: str) -> None:
    task = reduced(name, epochs=3) if name == "detection" else reduced(name)
    warnings = check_task(task, full=True)
    if name in ("mlp", "diabetes"):
        assert warnings == []
    else:
        assert not [text for text in warnings if "chance level" not in text]


def test_returns_are_called_no_better_than_their_mean_and_better_than_yesterdays() -> None:
    needs("stocks")
    task = load_task("stocks.py:make_task", base=EXAMPLES)
    assert isinstance(task, RegressionTask)
    (warning,) = check_task(task, full=True)
    assert "chance level: its rmse" in warning
    model = task.build_model()
    scored = task.evaluate(lambda inputs: model(*inputs.args), "test").metrics
    beside = {name: found.metrics for name, found in task.baselines("test").items()}
    assert abs(scored["r2"]) < 0.02
    assert scored["rmse"] == pytest.approx(beside["mean"]["rmse"], rel=0.01)
    assert scored["rmse"] < 0.8 * beside["persistence"]["rmse"]


def test_returns_are_predicted_from_the_days_before_and_never_from_their_future() -> None:
    needs("stocks")
    task = load_task("stocks.py:make_task", base=EXAMPLES)
    assert isinstance(task, RegressionTask)
    data = task.data
    assert len(data.y) + data.dropped == 2783
    for lag in range(1, 6):
        np.testing.assert_allclose(data.x[5:, lag - 1].numpy(), data.y[5 - lag : -lag], rtol=1e-6)
    last = [int(data.splits[split].max()) for split in ("train", "val", "test")]
    first = [int(data.splits[split].min()) for split in ("train", "val", "test")]
    assert first == [0, last[0] + 1, last[1] + 1]


def test_days_without_a_return_are_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{value:.6f}" for value in rng.normal(scale=0.01, size=200)]
    lines[50] = lines[120] = "NA"
    (tmp_path / "mine.csv").write_text("day,r500\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines)))
    task = load_task("stocks.py:make_task", {"csv": str(tmp_path / "mine.csv")}, base=EXAMPLES)
    assert isinstance(task, RegressionTask)
    assert task.data.dropped == 5 + 2 * 6
    (tmp_path / "other.csv").write_text("day,price\n1,2\n")
    with pytest.raises(TaskError, match="no column 'r500'"):
        load_task("stocks.py:make_task", {"csv": str(tmp_path / "other.csv")}, base=EXAMPLES)


def test_diabetes_is_predicted_better_than_by_the_mean() -> None:
    task = load_task("diabetes.py:make_task", base=EXAMPLES)
    assert isinstance(task, RegressionTask)
    model = task.build_model()
    for split in ("val", "test"):
        scored = task.evaluate(lambda inputs: model(*inputs.args), split).metrics
        assert scored["r2"] > 0.35
        assert scored["rmse"] < 0.8 * task.baselines(split)["mean"].metrics["rmse"]


def test_the_mlp_learns_clothes_by_name() -> None:
    task = reduced("mlp", epochs=8, images=[2000, 500, 500])
    assert isinstance(task, ClassificationTask)
    assert task.class_names[9] == "ankle boot"
    model = task.build_model()
    assert sum(p.numel() for p in model.parameters()) == 784 * 64 + 64 + 64 * 10 + 10
    assert task.evaluate(lambda inputs: model(*inputs.args), "test").metrics["accuracy"] > 0.7


def test_corruptions_cost_the_mlp_accuracy() -> None:
    task = reduced("mlp", epochs=8, images=[2000, 500, 500])
    model = task.build_model()

    def accuracy(corrupt: Any) -> float:
        found: float = task.evaluate(lambda inputs: model(*corrupt(inputs).args), "val").metrics["accuracy"]
        return found

    clean = accuracy(lambda inputs: inputs)
    assert accuracy(task.corruptions()["noise_1"]) < clean
    assert accuracy(task.corruptions()["blur_2"]) < clean - 0.05


def test_scenes_hold_garments_that_lie_apart_and_repeat_themselves() -> None:
    task = reduced("detection")
    assert isinstance(task, DetectionTask)
    data = task.data
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [96, 40, 40]
    assert data.fingerprint == reduced("detection").data.fingerprint
    for boxes in data.boxes:
        assert boxes.min() >= 0
        assert boxes.max() <= 64
        apart = overlaps(boxes, boxes)
        assert (apart[~np.eye(len(boxes), dtype=bool)] <= 0.1).all()
    assert abs(float(data.x.mean())) < 0.3
    assert float(data.x.std()) == pytest.approx(1.0, abs=0.2)


def test_the_detectors_loss_falls_to_nothing_for_the_right_answer_and_decodes_to_it() -> None:
    task = reduced("detection")
    example = runpy.run_path(str(EXAMPLES / "detection.py"))
    data = task.data

    def ideal(batch: Any) -> Any:
        classes, sides = example["assign"](batch[1], batch[2], 16, 16)
        sure = 24.0 * torch.nn.functional.one_hot(classes.clamp(min=0), 10) * (classes >= 0)[..., None] - 12.0
        return torch.cat([sure, sides.log()], dim=-1).movedim(3, 1)

    def predict(inputs: Any) -> Any:
        rows = [int((data.x == image).flatten(1).all(dim=1).int().argmax()) for image in inputs.args[0]]
        return ideal(data.batch(np.array(rows)))

    batch = data.batch(data.splits["train"][:32])
    assert float(example["detection_loss"](ideal(batch), batch)) < 0.01
    assert task.evaluate(predict, "val").metrics["ap50"] > 0.97
