"""Regression: scores as scikit-learn defines them, tables with missing values, baselines, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score, root_mean_squared_error
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation.quality import compare, intervals
from autoprune.tasks import Inputs, RecoverContext, RegressionTask, Table, Task, check_task, read_table


def table(n: int = 400, *, noise: float = 0.5, scale: float = 1.0, **options: Any) -> Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    y = scale * (x @ [1.0, -2.0, 0.5, 0.0] + noise * rng.normal(size=n) + 3.0)
    return Table(x, y, **options)


class Linear(nn.Module):
    """The least-squares solution on train."""

    def __init__(self, data: Table, *, keep: float = 1.0) -> None:
        super().__init__()
        rows = data.splits["train"]
        design = np.column_stack([data.x[rows].numpy(), np.ones(len(rows))])
        solved = np.linalg.lstsq(design, data.y[rows], rcond=None)[0]
        self.layer = nn.Linear(4, 1)
        with torch.no_grad():
            self.layer.weight.copy_(keep * torch.tensor(solved[None, :4]))
            self.layer.bias.copy_(torch.tensor(solved[4:]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def linear_task(**options: Any) -> RegressionTask:
    data = table(**options)
    return RegressionTask(Linear(data), data)


def predictor(model: nn.Module) -> Any:
    return lambda inputs: model(*inputs.args)


def test_the_task_satisfies_the_protocol_and_passes_the_contract_suite() -> None:
    task = linear_task()
    assert isinstance(task, Task)
    assert check_task(task, full=True) == []


def test_scores_are_those_of_scikit_learn_with_rows_as_ids() -> None:
    task = linear_task()
    model = task.build_model()
    scored = task.evaluate(predictor(model), "test")
    rows = np.array([int(i) for i in scored.ids])
    assert sorted(rows) == sorted(task.data.splits["test"])
    expected = model(task.data.x[rows])[:, 0].detach().double().numpy()
    assert scored.metrics["rmse"] == pytest.approx(root_mean_squared_error(task.data.y[rows], expected), rel=1e-12)
    assert scored.metrics["r2"] == pytest.approx(r2_score(task.data.y[rows], expected), rel=1e-12)


@pytest.mark.parametrize("prediction", [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0]])
def test_r2_of_constant_targets_is_that_of_scikit_learn(prediction: list[float]) -> None:
    target = np.full(3, 2.0)
    per_unit = {"squared_error": (np.array(prediction) - target) ** 2, "target": target}
    assert linear_task().aggregate(per_unit)["r2"] == r2_score(target, prediction)


def test_intervals_hold_the_value_and_shrink_with_more_rows() -> None:
    task = linear_task(n=2000)
    predict = predictor(task.build_model())
    few, many = (intervals(task, task.evaluate(predict, "val", limit=n), seed=0) for n in (40, 300))
    for found in (few, many):
        for name in ("rmse", "r2"):
            assert found[name].low < found[name].value < found[name].high
            assert found[name].method == "bias-corrected-bootstrap-1000"
    assert many["rmse"].high - many["rmse"].low < 0.6 * (few["rmse"].high - few["rmse"].low)
    assert many["rmse"].low < 0.5 < many["rmse"].high


def test_a_worse_model_is_told_from_the_dense_one_on_the_same_rows() -> None:
    task = linear_task()
    dense, worse = (task.evaluate(predictor(Linear(task.data, keep=k)), "test") for k in (1.0, 0.8))
    change = compare(task, worse, dense, margin=0.01, seed=0)["rmse"]
    assert 0.0 < change.low < change.delta < change.high
    assert not change.noninferior
    assert compare(task, dense, dense, margin=0.01, seed=0)["rmse"].noninferior


def test_the_tolerated_loss_of_an_error_is_a_share_of_it_whatever_the_unit() -> None:
    found = []
    for scale in (1e-3, 1e3):
        data = table(scale=scale)
        task = RegressionTask(Linear(data), data)
        dense, worse = (task.evaluate(predictor(Linear(data, keep=k)), "test") for k in (1.0, 0.8))
        change = compare(task, worse, dense, margin=0.01, seed=0)["rmse"]
        assert change.margin == pytest.approx(0.01 * dense.metrics["rmse"])
        found.append((change.noninferior, change.delta / scale))
    assert found[0][0] is found[1][0] is False
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_loss_of_the_mean_is_one_whatever_the_unit(scale: float) -> None:
    data = table(scale=scale)
    task = RegressionTask(Linear(data), data)
    rows = data.splits["train"]
    mean = torch.full((len(rows), 1), float(data.y[rows].mean()))
    assert float(task.loss(mean, data.batch(rows))) == pytest.approx(1.0, rel=1e-3)
    assert float(task.loss(mean[:, 0], data.batch(rows))) == pytest.approx(1.0, rel=1e-3)
    moved = task.distill_loss(mean + float(data.y[rows].std()), mean, data.batch(rows))
    assert float(moved) == pytest.approx(1.0, rel=1e-3)


def test_recovery_lowers_the_error_of_a_damaged_model() -> None:
    data = table()
    task = RegressionTask(Linear(data, keep=0.5), data)
    model = task.build_model()
    before = task.evaluate(predictor(model), "val").metrics["rmse"]
    cpu, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    task.recover(model, RecoverContext(100, 0.1, 32, cpu, torch.float32, generator))
    assert task.evaluate(predictor(model), "val").metrics["rmse"] < 0.8 * before


def test_baselines_are_the_mean_of_train_and_the_value_known_last() -> None:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(size=300))
    frame = pd.DataFrame({"before": walk[:-1], "now": walk[1:]})
    data = Table.from_frame(frame, "now", last="before", in_time=True)
    task = RegressionTask(nn.Linear(1, 1), data)
    test = data.y[data.splits["test"]]
    found = {name: scored.metrics["rmse"] for name, scored in task.baselines("test").items()}
    assert found["persistence"] == pytest.approx(root_mean_squared_error(test, data.last[data.splits["test"]]))
    mean = np.full(len(test), data.y[data.splits["train"]].mean())
    assert found["mean"] == pytest.approx(root_mean_squared_error(test, mean))
    assert found["persistence"] < found["mean"]
    assert set(linear_task().baselines("val")) == {"mean"}


def test_skill_is_zero_for_persistence_itself_and_one_for_the_truth() -> None:
    walk = np.cumsum(np.random.default_rng(1).normal(size=300))
    frame = pd.DataFrame({"before": walk[:-1], "now": walk[1:]})
    data = Table.from_frame(frame, "now", last="before", in_time=True)
    task = RegressionTask(nn.Linear(1, 1), data)
    assert [spec.name for spec in task.metrics] == ["rmse", "r2", "persistence_skill"]
    assert [spec.name for spec in linear_task().metrics] == ["rmse", "r2"]
    again = task.evaluate(lambda inputs: inputs.args[0], "test")
    assert again.metrics["persistence_skill"] == pytest.approx(0.0, abs=1e-6)
    truth = dict(zip(data.x[:, 0].tolist(), data.y, strict=True))
    right = task.evaluate(lambda inputs: torch.tensor([truth[float(v)] for v in inputs.args[0][:, 0]]), "test")
    assert right.metrics["persistence_skill"] == pytest.approx(1.0)
    (interval,) = [v for k, v in intervals(task, again, seed=0).items() if k == "persistence_skill"]
    assert interval.low <= interval.value <= interval.high


def test_a_model_no_better_than_the_mean_is_warned_about_but_not_refused() -> None:
    data = table(noise=100.0)
    (warning,) = check_task(RegressionTask(Linear(data), data), full=True)
    assert "no better" in warning or "chance" in warning
    assert "rmse" in warning


CSV = b"a,b,price\n1,2,3\n,5,6\n4,NA,9\n7,8,\n" + b"".join(b"%d,%d,%d\n" % (i, i % 7, 3 * i) for i in range(40))


def test_rows_with_missing_values_are_dropped_and_counted() -> None:
    data = Table.from_frame(read_table(io.BytesIO(CSV)), "price")
    assert (len(data.y), data.dropped) == (41, 3)
    assert data.x.shape == (41, 2)
    assert data.y[:3].tolist() == [3.0, 0.0, 3.0]


def test_rows_in_time_are_split_without_looking_ahead() -> None:
    frame = pd.DataFrame({"t": np.arange(100.0), "y": np.arange(100.0) ** 2})
    frame.loc[[3, 50], "y"] = np.nan
    data = Table.from_frame(frame, "y", in_time=True)
    ends = [(data.splits[s].min(), data.splits[s].max()) for s in ("train", "val", "test")]
    assert ends == [(0, 68), (69, 82), (83, 97)]
    assert set(data.splits["calibration"]) | set(data.splits["tune"]) == set(data.splits["train"])


def test_splits_and_subsets_hold_small_and_large_targets_alike() -> None:
    rng = np.random.default_rng(0)
    y = np.sort(rng.lognormal(size=500))
    data = Table(rng.normal(size=(500, 2)), y)
    for rows in (data.splits["test"], data.rows("train", limit=50, seed=3)):
        assert np.quantile(y[rows], 0.9) == pytest.approx(np.quantile(y, 0.9), rel=0.35)
        assert len(set(rows)) == len(rows)


def test_the_fingerprint_follows_targets_splits_and_values_known_last() -> None:
    prints = {table().fingerprint, table().fingerprint, table(noise=0.4).fingerprint, table(seed=1).fingerprint}
    assert len(prints) == 3
    x, y = np.arange(40.0)[:, None], np.arange(40.0)
    known = {Table(x, y, last=last).fingerprint for last in (None, y, y + 1.0)}
    assert len(known) == 3


def test_the_tolerated_loss_of_a_metric_that_has_a_largest_value_is_in_its_own_unit() -> None:
    data = table()
    task = RegressionTask(Linear(data), data)
    dense = task.evaluate(predictor(Linear(data, keep=0.0)), "test")
    assert abs(dense.metrics["r2"]) < 0.3
    assert compare(task, dense, dense, margin=0.01, seed=0)["r2"].margin == 0.01


def test_predictions_are_outputs_by_which_two_models_are_compared() -> None:
    data = table()
    task = RegressionTask(Linear(data), data)
    found = task.evaluate(predictor(Linear(data)), "val")
    assert found.outputs is not None
    errors = found.outputs[:, 0] - data.y[[int(row) for row in found.ids]]
    assert found.metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "empty"),
        ({"x": np.zeros((9, 2)), "y": np.arange(8.0)}, "8"),
        ({"x": np.zeros((9, 2)), "y": np.full(9, np.nan)}, "NaN"),
        ({"x": np.full((9, 2), np.inf), "y": np.arange(9.0)}, "infinity"),
        ({"x": np.zeros((9, 2)), "y": np.zeros((9, 1))}, "numbers"),
        ({"x": np.zeros((9, 2)), "y": np.array(["a"] * 9)}, "numbers"),
        ({"x": np.zeros((40, 2)), "y": np.ones(40)}, "nothing to predict|All targets"),
        ({"x": np.zeros((40, 2)), "y": np.arange(40.0), "last": np.arange(39.0)}, "39"),
    ],
)
def test_data_that_nothing_can_be_learned_from_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Table(**arguments)


@pytest.mark.parametrize(
    ("frame", "target", "words"),
    [
        (pd.DataFrame({"a": [1.0, 2.0]}), "price", "no column 'price'"),
        (pd.DataFrame({"a": ["x", "y"], "price": [1.0, 2.0]}), "price", "'a' holds no real numbers"),
        (pd.DataFrame({"a": [1j, 2j], "price": [1.0, 2.0]}), "price", "'a' holds no real numbers"),
        (pd.DataFrame({"price": [1.0, 2.0]}), "price", "no column but"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["a", "a", "price"]), "price", "several columns 'a'"),
        (pd.DataFrame({"a": [np.nan] * 3, "price": [1.0, 2.0, 3.0]}), "price", "empty"),
    ],
)
def test_a_frame_that_fits_no_regression_is_refused(frame: pd.DataFrame, target: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Table.from_frame(frame, target)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    for path in (tmp_path / "empty.csv", tmp_path / "absent.csv"):
        with pytest.raises(TaskError, match="Cannot read"):
            read_table(path)
    (tmp_path / "good.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TaskError, match="no column 'c'"):
        read_table(tmp_path / "good.csv", ["c"])


def test_outputs_of_another_shape_are_refused_and_nan_fails_the_candidate() -> None:
    task = linear_task()
    with pytest.raises(TaskError, match="predictions"):
        task.evaluate(lambda inputs: torch.zeros(len(inputs.args[0]), 2), "val")

    def broken(inputs: Inputs) -> Tensor:
        return torch.full((len(inputs.args[0]), 1), torch.nan)

    with pytest.raises(CandidateError) as caught:
        task.evaluate(broken, "val")
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "quality")
