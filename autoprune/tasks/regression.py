"""Model and table -> a complete regression task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.tasks.in_memory import InMemoryTask
from autoprune.tasks.protocol import Evaluated, MetricSpec, Predict, Split
from autoprune.tasks.tables import Table

Floats = npt.NDArray[np.float64]


class RegressionTask(InMemoryTask):
    """Prediction of one number a row, scored by root mean squared error and by R2, as scikit-learn defines them.

    Where the table knows the value before the one to predict, `persistence_skill` stands beside them: 1 - MSE / MSE of
    predicting that value, so 0 is no better than persistence and 1 is perfect. R2 is the same beside the mean.

    The model returns [n] or [n, 1] predictions in the targets' own unit. The loss is the mean squared error over the
    variance of train's targets: 1 is the error of their mean, whatever the unit, so that penalties weigh the same for
    every table, and learning rates mean the same for every model that normalises its inputs and outputs itself.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Inputs, targets and splits.
        name: Short name of the task.
        batch_size: Rows a batch where the caller states none.
        protect: Globs over module paths that are never pruned.
    """

    metrics: Sequence[MetricSpec] = (
        MetricSpec("rmse", "min", (0.0, math.inf)),
        MetricSpec("r2", "max", (-math.inf, 1.0)),
    )

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: Table,
        *,
        name: str = "regression",
        batch_size: int = 64,
        protect: Sequence[str] = (),
    ) -> None:
        super().__init__(model, data, name=name, batch_size=batch_size, protect=protect)
        self.data = data
        if data.last is not None:
            self.metrics = (*self.metrics, MetricSpec("persistence_skill", "max", (-math.inf, 1.0)))
        self._variance = float(np.var(data.y[data.splits["train"]]))

    def loss(self, outputs: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared error in units of the variance of train's targets."""
        targets = batch[1]
        return F.mse_loss(_predictions(outputs, len(targets)), targets) / self._variance

    def distill_loss(self, student: Any, teacher: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared difference in units of the variance of train's targets."""
        count = len(batch[1])
        return F.mse_loss(_predictions(student, count), _predictions(teacher, count)) / self._variance

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` by RMSE, in the targets' unit, and R2.

        Raises:
            CandidateError: A prediction is not finite.
        """
        rows = self.data.rows(split, limit=limit, seed=seed)
        predicted = np.concatenate([self._predicted(predict, part) for part in self.parts_of(rows)])
        return self._scored(rows, predicted)

    def aggregate(self, per_unit: Mapping[str, Floats]) -> dict[str, float]:
        """Return RMSE and R2; R2 of constant targets is 1 where they are met exactly, else 0, as in scikit-learn."""
        target, squared = per_unit["target"], float(np.mean(per_unit["squared_error"]))
        found = {"rmse": math.sqrt(squared), "r2": _skill(squared, float(np.mean((target - target.mean()) ** 2)))}
        if "persistence_error" in per_unit:
            found["persistence_skill"] = _skill(squared, float(np.mean(per_unit["persistence_error"])))
        return found

    def baselines(self, split: Split) -> dict[str, Evaluated]:
        """Return what a model has to beat, scored on a split.

        `mean` predicts the mean of train's targets; `persistence` the value known last, where the table has one.
        """
        rows = self.data.rows(split)
        mean = float(self.data.y[self.data.splits["train"]].mean())
        found = {"mean": self._scored(rows, np.full(len(rows), mean))}
        if self.data.last is not None:
            found["persistence"] = self._scored(rows, self.data.last[rows])
        return found

    def _scored(self, rows: npt.NDArray[np.int64], predicted: Floats) -> Evaluated:
        target = self.data.y[rows]
        per_unit = {"squared_error": (predicted - target) ** 2, "target": target}
        if self.data.last is not None:
            per_unit["persistence_error"] = (self.data.last[rows] - target) ** 2
        outputs = predicted.astype(np.float32)[:, None]
        return Evaluated(self.aggregate(per_unit), self.data.unit, tuple(str(row) for row in rows), per_unit, outputs)

    def _predicted(self, predict: Predict, rows: npt.NDArray[np.int64]) -> Floats:
        with torch.no_grad():
            outputs = self.structure(predict(self.data.take(rows)))
        values: Floats = _predictions(outputs, len(rows)).detach().cpu().double().numpy()
        if not np.isfinite(values).all():
            raise CandidateError("The model's outputs hold NaN or infinity.", reason="nonfinite", stage="quality")
        return values


def _skill(error: float, reference: float) -> float:
    """Return 1 - error / reference; of a reference without error, 1 for no error and 0 for any."""
    return 1.0 - error / reference if reference > 0.0 else float(error == 0.0)


def _predictions(outputs: Any, rows: int) -> Tensor:
    """Return [rows] predictions.

    Raises:
        TaskError: Outputs are of another shape.
    """
    if isinstance(outputs, Tensor) and tuple(outputs.shape) in ((rows,), (rows, 1)):
        return outputs.reshape(rows)
    found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
    raise TaskError(
        f"The model must return [{rows}, 1] predictions for {rows} rows. Got {found}.",
        hint="Wrap the model, or override structure() to pick the predictions.",
    )
