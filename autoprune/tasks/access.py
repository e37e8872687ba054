"""The test split behind one counted door: the search cannot look at it, the front looks once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.optional import class_names_of, evaluate_shift, samples_of, shifts_of, signal_of
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, RecoverContext, Sample, Split, Task


class GuardedTask:
    """A task that refuses its `test` split and is otherwise the wrapped one.

    Args:
        task: The task to guard.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.name: str = task.name
        self.metrics: Sequence[MetricSpec] = task.metrics
        self.protect: Sequence[str] = task.protect
        self.signal: str | None = signal_of(task)
        self.class_names: Sequence[str] = class_names_of(task)

    @property
    def fingerprint(self) -> str:
        """Digest of data and splits."""
        return self._task.fingerprint

    def build_model(self) -> nn.Module:
        """Return the trained model."""
        return self._task.build_model()

    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        """Return inputs for one forward pass."""
        return self._task.example_inputs(batch_size=batch_size, shape=shape)

    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterable[Any]:
        """Yield one pass over a split other than `test`."""
        _refuse_test(split)
        return self._task.batches(split, seed=seed, batch_size=batch_size, limit=limit)

    def inputs(self, batch: Any) -> Inputs:
        """Return the model's inputs from a batch."""
        return self._task.inputs(batch)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar mean loss."""
        return self._task.loss(outputs, batch)

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on a split other than `test`."""
        _refuse_test(split)
        return self._task.evaluate(predict, split, limit=limit, seed=seed)

    def aggregate(self, per_unit: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Turn per-unit statistics into metrics."""
        return self._task.aggregate(per_unit)

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        """Train `model` in place within the budget of `ctx`."""
        self._task.recover(model, ctx)

    def move(self, batch: Any, device: torch.device) -> Any:
        """Return the batch on `device`."""
        return self._task.move(batch, device)

    def distill_loss(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        """Return the scalar distance of the student's outputs from the teacher's."""
        return self._task.distill_loss(student, teacher, batch)

    def structure(self, outputs: Any) -> Any:
        """Normalise a model's outputs."""
        return self._task.structure(outputs)

    def corruptions(self) -> Mapping[str, Callable[[Any], Any]]:
        """Return named corruptions of a batch."""
        return self._task.corruptions()

    def shifts(self) -> Sequence[str]:
        """Return the names of shifted domains."""
        return shifts_of(self._task)

    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on a shifted domain."""
        return evaluate_shift(self._task, predict, name, limit=limit, seed=seed)

    def samples(self, split: Split, count: int, seed: int) -> Sequence[Sample] | None:
        """Return units of a split other than `test` for the report's pictures."""
        _refuse_test(split)
        return samples_of(self._task, split, count=count, seed=seed)


class TestAccess:
    """The only way to the test split, counted.

    Args:
        task: The user's task.
        reads: Reads that earlier sessions of the same run made.

    Attributes:
        task: The task for everything else; it refuses `test`.
        reads: How often the test split was scored.
    """

    __test__ = False

    def __init__(self, task: Task, *, reads: int = 0) -> None:
        self._task = task
        self.task: Task = GuardedTask(task)
        self.reads = reads

    def evaluate_test(self, predict: Predict) -> Evaluated:
        """Score `predict` on the whole test split and count the read."""
        self.reads += 1
        return self._task.evaluate(predict, "test")


def _refuse_test(split: str) -> None:
    if split == "test":
        raise TaskError(
            "The test split is read through TestAccess.evaluate_test only, so that every look at it is counted.",
            hint="Use 'val' to guide choices.",
        )
