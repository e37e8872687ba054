"""What the user brings: a trained model, its data and its metric, as the `Task` protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Split = Literal["train", "calibration", "tune", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "tune", "val", "test")


class Inputs(NamedTuple):
    """Arguments of one call of the model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class MetricSpec(NamedTuple):
    """A metric's name, the direction in which it is better, and its (lowest, highest) possible value."""

    name: str
    direction: Literal["min", "max"]
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Evaluated:
    """Quality of one model on one split.

    Args:
        metrics: Value per metric name; accuracy-like ones are fractions in 0..1.
        unit: The resampling unit: image, document, scene or row.
        ids: [n_units] identities of the units, which pair two models' scores.
        per_unit: Sufficient statistics per metric, each [n_units, ...]; `Task.aggregate` turns them into `metrics`.
        outputs: Optional [n_units, ...] model outputs, for agreement with the dense model.
        labels: Optional [n_units] class numbers of units whose outputs are [n_units, classes], for accuracy by class.
    """

    metrics: dict[str, float]
    unit: str
    ids: tuple[str, ...]
    per_unit: dict[str, npt.NDArray[np.float64]]
    outputs: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One unit as a person sees it; nothing of it is trusted.

    Args:
        id: Identity of the unit, as `Task.evaluate` gives it.
        image: [h, w] or [h, w, 3] values in 0..1; None where the unit is no image.
        text: What it says; None where the unit is no text.
        label: The right answer in words; None where there is no short one.
    """

    id: str
    image: npt.NDArray[np.float32] | None = None
    text: str | None = None
    label: str | None = None


Predict = Callable[[Inputs], Any]


@dataclass
class RecoverContext:
    """Budget and hooks of one recovery; a training loop of the user's own calls the hooks.

    Args:
        steps: Optimizer steps to take.
        lr: Peak learning rate.
        batch_size: Examples a step.
        device: Where to train.
        dtype: Parameter precision.
        generator: Source of all randomness of the recovery.
        teacher: The dense model in eval mode for distillation, or None.
        seed: The candidate's seed, for `Task.batches`.
        penalty: Adds a scalar to the loss, given model, outputs and batch (regularisers, gates, distillation).
        on_step: Called after each optimizer step (masks, projection, the host gate's turn).
        on_report: Called with (step, value); False asks the loop to stop.
        on_checkpoint: Called with (model, optimizer, step).
        optimizer: Name on the optimizer axis: `sgd` or `adamw`; a loop of the user's own may have its own.
    """

    steps: int
    lr: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator
    teacher: nn.Module | None = None
    seed: int = 0
    penalty: Callable[[nn.Module, Any, Any], Tensor] | None = None
    on_step: Callable[[nn.Module, int], None] | None = None
    on_report: Callable[[int, float], bool] | None = None
    on_checkpoint: Callable[[nn.Module, torch.optim.Optimizer, int], None] | None = None
    optimizer: str = "sgd"
    calls: dict[str, int] = field(default_factory=dict)

    def extra_loss(self, model: nn.Module, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar to add to the task's loss (0 without penalty); call it once a step."""
        self._count("extra_loss")
        if self.penalty is None:
            return torch.zeros((), device=self.device, dtype=self.dtype)
        return self.penalty(model, outputs, batch)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Call once after each optimizer step, with the step's number from 0."""
        self._count("after_step")
        if self.on_step is not None:
            self.on_step(model, step)

    def report(self, step: int, value: float) -> bool:
        """Report an intermediate value (a loss: lower is better); return False when the loop has to stop."""
        self._count("report")
        return True if self.on_report is None else self.on_report(step, value)

    def checkpoint(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Offer the state for saving; call it now and then in long recoveries."""
        self._count("checkpoint")
        if self.on_checkpoint is not None:
            self.on_checkpoint(model, optimizer, step)

    def _count(self, hook: str) -> None:
        self.calls[hook] = self.calls.get(hook, 0) + 1


@runtime_checkable
class Task(Protocol):
    """A trained model with its data and metric. Derive from `BaseTask` for the optional parts' defaults.

    `signal`, `class_names`, `shifts`, `evaluate_shift` and `samples` of `BaseTask` may be absent: they are read through
    `autoprune.tasks.optional` alone.
    """

    name: str
    metrics: Sequence[MetricSpec]
    protect: Sequence[str]

    @property
    def fingerprint(self) -> str:
        """Digest of data and splits, compared on resume."""
        ...

    def build_model(self) -> nn.Module:
        """Return the trained model on the CPU; every call gives an equal, independent model."""
        ...

    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        """Return inputs for one forward pass."""
        ...

    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterable[Any]:
        """Yield one pass over a split, shuffled by `seed`; `limit` draws a stratified subset of that many units."""
        ...

    def inputs(self, batch: Any) -> Inputs:
        """Return the model's inputs from a batch."""
        ...

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar mean loss, differentiable in `outputs`."""
        ...

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on a split; `limit` draws a shuffled, stratified subset."""
        ...

    def aggregate(self, per_unit: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Turn per-unit statistics into metrics; also called on resampled units."""
        ...

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        """Train `model` in place within the budget of `ctx`."""
        ...

    def move(self, batch: Any, device: torch.device) -> Any:
        """Return the batch on `device`."""
        ...

    def distill_loss(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        """Return the scalar distance of the student's outputs from the teacher's."""
        ...

    def structure(self, outputs: Any) -> Any:
        """Normalise a model's outputs (ModelOutput, dict, tuple) to what `loss` and `evaluate` take."""
        ...

    def corruptions(self) -> Mapping[str, Callable[[Any], Any]]:
        """Return name -> corruption of a batch, for robustness.

        Each is called with the model's `Inputs`, before the model, and returns them with the same shapes and types;
        it is deterministic and leaves its argument as it was. Labels are never handed over.
        """
        ...
