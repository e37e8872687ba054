from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import compare, intervals, predictor_of, score
from autoprune.evaluation.quality import _percentiles, bonett_price, wilson
from autoprune.runtimes import TorchSession
from autoprune.tasks import BaseTask
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, Split

Floats = npt.NDArray[np.float64]


class Rows(BaseTask):
    """Rows whose label is the sign of their first feature; F1 is no mean of anything."""

    name = "rows"
    metrics = (
        MetricSpec("accuracy", "max", (0.0, 1.0)),
        MetricSpec("loss", "min", (0.0, float("inf"))),
        MetricSpec("f1", "max", (0.0, 1.0)),
    )

    def __init__(self, n: int = 200) -> None:
        self.x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))

    def build_model(self) -> nn.Module:
        model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, 0.4]]))
        return model

    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        return Inputs((self.x[:batch_size],), {})

    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterable[Any]:
        return [self.x]

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return outputs.mean()

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        margin = predict(Inputs((self.x[:limit],), {}))[:, 0].double().numpy()
        truth = (self.x[:limit, 0] > 0).double().numpy()
        return self.evaluated(margin, truth)

    def evaluated(self, margin: Floats, truth: Floats) -> Evaluated:
        guess = (margin > 0).astype(float)
        per_unit = {
            "accuracy": (guess == truth).astype(float),
            "loss": np.log1p(np.exp(-(2 * truth - 1) * margin)),
            "f1": np.stack([guess * truth, guess + truth], axis=1),
        }
        ids = tuple(f"row{i}" for i in range(len(truth)))
        return Evaluated(self.aggregate(per_unit), "row", ids, per_unit)

    def aggregate(self, per_unit: Mapping[str, Floats]) -> dict[str, float]:
        hits, total = per_unit["f1"].sum(axis=0)
        mean = super().aggregate({k: per_unit[k] for k in ("accuracy", "loss")})
        return {**mean, "f1": float(2 * hits / total)}


@pytest.fixture(scope="module")
def task() -> Rows:
    return Rows()


def scored(task: Rows, weight: tuple[float, float]) -> Evaluated:
    model = task.build_model()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weight]))
    return score(task, TorchSession(model, 1), "val")


def test_a_session_is_scored_as_the_task_scores_the_model(task: Rows) -> None:
    model = task.build_model()
    expected = task.evaluate(lambda inputs: model(*inputs.args).detach(), "val")
    assert task.evaluate(predictor_of(TorchSession(model, 1), task), "val").metrics == expected.metrics
    assert scored(task, (1.0, 0.4)).metrics == expected.metrics


def test_every_metric_gets_an_interval_of_the_fitting_method(task: Rows) -> None:
    found = intervals(task, scored(task, (1.0, 0.4)), seed=0)
    assert {name: i.method for name, i in found.items()} == {
        "accuracy": "wilson",
        "loss": "bootstrap-1000",
        "f1": "bias-corrected-bootstrap-1000",
    }
    for interval in found.values():
        assert interval.low < interval.value < interval.high
        assert (interval.n, interval.unit) == (200, "row")


def test_intervals_follow_the_seed(task: Rows) -> None:
    evaluated = scored(task, (1.0, 0.4))
    assert intervals(task, evaluated, seed=3) == intervals(task, evaluated, seed=3)
    assert intervals(task, evaluated, seed=3)["f1"] != intervals(task, evaluated, seed=4)["f1"]


def test_wilson_matches_published_values_and_stays_within_zero_and_one() -> None:
    # Newcombe (1998), table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval(task: Rows) -> None:
    evaluated = scored(task, (1.0, 0.4))
    interval = intervals(task, evaluated, seed=0)["loss"]
    half = 1.96 * evaluated.per_unit["loss"].std() / np.sqrt(200)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.15)


def test_a_bootstrap_that_lies_beside_its_sample_is_moved_back() -> None:
    draws = np.random.default_rng(0).normal(0.5 + 0.03, 0.05, 200_000)
    assert _percentiles(draws, centre=0.5) == pytest.approx((0.47 - 1.96 * 0.05, 0.47 + 1.96 * 0.05), abs=0.002)
    assert _percentiles(draws, centre=0.53) == pytest.approx(_percentiles(draws), abs=0.002)
    low, high = _percentiles(draws, centre=draws.min() - 1.0)
    assert draws.min() <= low <= high <= draws.max()


def test_a_better_model_improves_every_metric_and_is_noninferior(task: Rows) -> None:
    change = compare(task, scored(task, (1.0, 0.0)), scored(task, (1.0, 0.8)), seed=0)
    assert change["accuracy"].delta > 0 > change["loss"].delta
    assert all(c.noninferior and c.low <= c.delta <= c.high for c in change.values())


def test_a_worse_model_is_not_noninferior_in_any_metric(task: Rows) -> None:
    change = compare(task, scored(task, (1.0, 0.8)), scored(task, (1.0, 0.0)), seed=0)
    assert not any(c.noninferior for c in change.values())
    assert change["accuracy"].high < 0
    assert change["loss"].low > 0


def test_pairing_makes_the_interval_narrower_than_that_of_either_model(task: Rows) -> None:
    pruned, dense = scored(task, (1.0, 0.42)), scored(task, (1.0, 0.4))
    change, alone = compare(task, pruned, dense, seed=0)["f1"], intervals(task, dense, seed=0)["f1"]
    assert change.high - change.low < 0.6 * (alone.high - alone.low)


def test_agreement_on_few_rows_does_not_prove_noninferiority_but_on_many_it_does() -> None:
    few, many = Rows(100), Rows(4000)
    for task, proven in ((few, False), (many, True)):
        same = scored(task, (1.0, 0.4))
        change = compare(task, same, same, seed=0)["accuracy"]
        assert change.delta == 0
        assert change.noninferior is proven


def test_the_interval_of_a_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        dense = (rng.random(200) < 0.95).astype(float)
        pruned = np.where(rng.random(200) < 0.04, 1 - dense, dense)
        low, high = bonett_price(pruned, dense)
        covered += low <= 0.04 * (0.05 - 0.95) <= high
    assert 930 <= covered <= 990


def test_units_are_matched_by_id_not_by_position(task: Rows) -> None:
    pruned, dense = scored(task, (1.0, 0.8)), scored(task, (1.0, 0.0))
    order = np.random.default_rng(0).permutation(len(dense.ids))
    per_unit = {key: values[order] for key, values in dense.per_unit.items()}
    shuffled = replace(dense, ids=tuple(dense.ids[i] for i in order), per_unit=per_unit)
    assert compare(task, pruned, shuffled, seed=0) == compare(task, pruned, dense, seed=0)


def test_scores_on_other_units_cannot_be_compared(task: Rows) -> None:
    full, part = scored(task, (1.0, 0.4)), score(task, TorchSession(task.build_model(), 1), "val", limit=50)
    with pytest.raises(TaskError, match="150 ids"):
        compare(task, part, full, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_not_finite_fails_the_candidate(task: Rows, value: float) -> None:
    evaluated = scored(task, (1.0, 0.4))
    broken = replace(evaluated, metrics={**evaluated.metrics, "loss": value})
    for attempt in (lambda: intervals(task, broken, seed=0), lambda: compare(task, broken, evaluated, seed=0)):
        with pytest.raises(CandidateError, match="loss") as caught:
            attempt()
        assert (caught.value.reason, caught.value.stage) == ("nonfinite", "quality")


def test_a_task_that_leaves_out_a_metric_or_repeats_an_id_is_named(task: Rows) -> None:
    evaluated = scored(task, (1.0, 0.4))
    with pytest.raises(TaskError, match="Missing: f1"):
        intervals(task, replace(evaluated, metrics={"accuracy": 1.0, "loss": 1.0}), seed=0)
    with pytest.raises(TaskError, match="id of its own"):
        intervals(task, replace(evaluated, ids=("same",) * 200), seed=0)
