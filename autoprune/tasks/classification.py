"""Model and labelled arrays -> a complete classification task."""

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
from autoprune.tasks.arrays import LabelledArrays, named_shift
from autoprune.tasks.in_memory import InMemoryTask
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, Sample, Split
from autoprune.tasks.subsets import stratified_subset


class ClassificationTask(InMemoryTask):
    """Classification of rows held in memory, scored by accuracy and by cross-entropy.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Inputs, labels and splits.
        name: Short name of the task.
        batch_size: Rows a batch where the caller states none.
        protect: Globs over module paths that are never pruned.
        corruptions: Name -> corruption of a batch, such as `image_corruptions()`, for the front's robustness.
    """

    metrics: Sequence[MetricSpec] = (
        MetricSpec("accuracy", "max", (0.0, 1.0)),
        MetricSpec("cross_entropy", "min", (0.0, math.inf)),
    )
    signal: str | None = "cross_entropy"

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: LabelledArrays,
        *,
        name: str = "classification",
        batch_size: int = 64,
        protect: Sequence[str] = (),
        corruptions: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        super().__init__(model, data, name=name, batch_size=batch_size, protect=protect, corruptions=corruptions)
        self.data = data
        self.class_names = tuple(data.class_names)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the mean cross-entropy of [n, classes] logits."""
        labels = batch["labels"] if isinstance(batch, Mapping) else batch[1]
        _check_logits(outputs, len(labels), self.data.classes)
        return F.cross_entropy(outputs, labels)

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` by accuracy and mean cross-entropy (nats), with logits as outputs.

        Raises:
            CandidateError: A logit is not finite.
        """
        return self._scored(predict, self.data, self.data.rows(split, limit=limit, seed=seed))

    def shifts(self) -> Sequence[str]:
        """Return the names of the data's shifted domains."""
        return tuple(self.data.shifts)

    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on all rows of a shifted domain, or on a stratified subset of `limit`, as `evaluate` does.

        Raises:
            TaskError: There is no domain of that name.
            CandidateError: A logit is not finite.
        """
        data = named_shift(self.name, self.data.shifts, name)
        return self._scored(predict, data, stratified_subset(data.y, limit, np.random.default_rng(seed)))

    def _scored(self, predict: Predict, data: LabelledArrays, rows: npt.NDArray[np.int64]) -> Evaluated:
        parts = self.parts_of(rows)
        outputs = np.concatenate([self._logits(predict, data.take(part), len(part)) for part in parts])
        labels = data.y[rows]
        hits = (outputs.argmax(axis=1) == labels).astype(np.float64)
        per_unit = {"accuracy": hits, "cross_entropy": _cross_entropy(outputs, labels)}
        ids = tuple(str(row) for row in rows)
        return Evaluated(self.aggregate(per_unit), data.unit, ids, per_unit, outputs, labels)

    def samples(self, split: Split, count: int, seed: int) -> Sequence[Sample] | None:
        """Return a stratified draw of units as their data show them, or None where they show none."""
        return self.data.samples(self.data.rows(split, limit=count, seed=seed))

    def _logits(self, predict: Predict, inputs: Inputs, count: int) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            logits = self.structure(predict(inputs))
        _check_logits(logits, count, self.data.classes)
        values: npt.NDArray[np.float32] = logits.detach().float().cpu().numpy()
        if not np.isfinite(values).all():
            raise CandidateError("The model's outputs hold NaN or infinity.", reason="nonfinite", stage="quality")
        return values


def _cross_entropy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return [n] negative logarithms of the probability that each label is given."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=1))
    return np.asarray(normaliser - shifted[np.arange(len(labels)), labels], dtype=np.float64)


def _check_logits(logits: Any, rows: int, classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != rows:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TaskError(
            f"The model must return [{rows}, classes] logits for {rows} rows. Got {found}.",
            hint="Wrap the model, or override structure() to pick the logits.",
        )
    if logits.shape[1] < classes:
        raise TaskError(
            f"Labels reach {classes - 1}, but the model has {logits.shape[1]} outputs.",
            hint="Number the classes from 0 and give the model one output a class.",
        )
