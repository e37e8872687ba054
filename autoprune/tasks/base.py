"""Defaults of a task's optional parts: a user's own task derives from `BaseTask` and writes the rest."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.tasks.optional import unknown_shift
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, RecoverContext, Sample, Split

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
ADAMW_SHARE = 0.05
GRADIENT_NORM = 5.0
WARM_UP = 0.1
TEMPERATURE = 2.0
FINGERPRINT_BATCHES = 8


class BaseTask(ABC):
    """Everything of a `Task` that has a sensible default.

    Attributes:
        name: Short name of the task.
        metrics: What is measured; the first is the objective.
        protect: Globs over module paths that are never pruned.
        signal: Metric that varies smoothly with quality and is minimised, such as cross-entropy, where there is one:
            it tells candidates apart that the objective finds equal.
        class_names: Names of the classes in the order of their numbers, for the report.
    """

    name: str = "task"
    metrics: Sequence[MetricSpec]
    protect: Sequence[str] = ()
    signal: str | None = None
    class_names: Sequence[str] = ()
    _fingerprint: str | None = None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the trained model on the CPU; every call gives an equal, independent model."""

    @abstractmethod
    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        """Return inputs for one forward pass."""

    @abstractmethod
    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterable[Any]:
        """Yield one pass over a split, shuffled by `seed`; `limit` draws a stratified subset of that many units."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar mean loss, differentiable in `outputs`."""

    @abstractmethod
    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on a split; `limit` draws a shuffled, stratified subset."""

    @property
    def fingerprint(self) -> str:
        """Digest of the opening batches of `train` and `val`, with seed 0."""
        if self._fingerprint is None:
            digest = hashlib.sha256(self.name.encode())
            for split in ("train", "val"):
                for batch in islice(self.batches(split, seed=0), FINGERPRINT_BATCHES):
                    for tensor in tensors_of(batch):
                        _update(digest, tensor)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def inputs(self, batch: Any) -> Inputs:
        """Return the model's inputs from a batch: a mapping but its labels by name, else the first element."""
        if isinstance(batch, Mapping):
            return Inputs((), {k: v for k, v in batch.items() if k not in {"label", "labels", "target", "targets"}})
        return Inputs((batch[0] if isinstance(batch, (tuple, list)) else batch,), {})

    def aggregate(self, per_unit: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Return the mean over units of every statistic."""
        return {name: float(np.mean(values)) for name, values in per_unit.items()}

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        """Train: weight decay on weights, warm-up then cosine to 0, clipped gradients.

        The optimizer is SGD with Nesterov momentum, or AdamW at a twentieth of the learning rate, as `ctx` says.

        Raises:
            CandidateError: The loss is not finite.
        """
        model.to(ctx.device, ctx.dtype).train()
        optimizer, lr = _optimizer(model, ctx)
        every = max(1, ctx.steps // 10)
        total, count = 0.0, 0
        for step, batch in zip(range(ctx.steps), self._endless(ctx), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(step, ctx.steps)
            total += self._train_step(model, optimizer, self.move(batch, ctx.device), ctx)
            count += 1
            ctx.after_step(model, step)
            if (step + 1) % every == 0 or step + 1 == ctx.steps:
                if not ctx.report(step, total / count):
                    break
                ctx.checkpoint(model, optimizer, step)
                total, count = 0.0, 0
        model.eval()

    def move(self, batch: Any, device: torch.device) -> Any:
        """Return the batch with every tensor in it on `device`."""
        return map_tensors(batch, lambda tensor: tensor.to(device))

    def distill_loss(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        """Return the Kullback-Leibler divergence of softened logits, a mean over rows (Hinton et al., 2015).

        Outputs whose last dimension is 1 are regressions and take the mean squared difference.
        """
        del batch
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor):
            raise TaskError(
                f"Distillation needs logits as one tensor. Got {type(student).__name__}.",
                hint="Override structure() to return the logits, or distill_loss() for other outputs.",
            )
        if student.shape[-1] == 1:
            return F.mse_loss(student, teacher)
        classes = student.shape[-1]
        softened = [F.log_softmax(x.reshape(-1, classes) / TEMPERATURE, dim=1) for x in (student, teacher)]
        return F.kl_div(softened[0], softened[1], reduction="batchmean", log_target=True) * TEMPERATURE**2

    def structure(self, outputs: Any) -> Any:
        """Return the logits: a tensor itself, `.logits` or `["logits"]`, or the first of a tuple. Idempotent.

        Raises:
            TaskError: None of these fits.
        """
        if isinstance(outputs, Tensor):
            return outputs
        if isinstance(outputs, Mapping) and "logits" in outputs:
            return outputs["logits"]
        if hasattr(outputs, "logits"):
            return outputs.logits
        if isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
            return outputs[0]
        if isinstance(outputs, Mapping) and len(outputs) == 1:
            return next(iter(outputs.values()))
        found = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
        raise TaskError(
            f"The model returns a {type(outputs).__name__}{found}; which part holds the logits is not known.",
            hint="Override structure() in the task to return what loss() takes.",
        )

    def corruptions(self) -> Mapping[str, Callable[[Any], Any]]:
        """Return no corruption."""
        return {}

    def shifts(self) -> Sequence[str]:
        """Return the names of shifted domains, data unlike those that the model was trained on: none."""
        return ()

    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on a shifted domain as `evaluate` does on a split.

        Raises:
            TaskError: There is no domain of that name.
        """
        del predict, limit, seed
        raise unknown_shift(self.name, name, self.shifts())

    def samples(self, split: Split, count: int, seed: int) -> Sequence[Sample] | None:
        """Return at most `count` units for the report's pictures, drawn by `seed`, or None: there is no picture."""
        del split, count, seed
        return None

    def _train_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, ctx: RecoverContext) -> float:
        args, kwargs = self.inputs(batch)
        outputs = self.structure(model(*args, **kwargs))
        loss = self.loss(outputs, batch) + ctx.extra_loss(model, outputs, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise CandidateError(f"The training loss became {value}.", reason="diverged", stage="recover")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        return value

    def _endless(self, ctx: RecoverContext) -> Iterator[Any]:
        """Yield training batches for ever, each pass in an order of its own."""
        while True:
            seed = int(torch.randint(2**31, (), generator=ctx.generator))
            empty = True
            for batch in self.batches("train", seed=seed, batch_size=ctx.batch_size):
                empty = False
                yield batch
            if empty:
                raise TaskError("batches('train') yields nothing.", hint="Give the task training data.")


def rate(step: int, steps: int) -> float:
    """Return the share in (0, 1] of the peak learning rate: linear warm-up over the first tenth, then cosine to 0."""
    warm = WARM_UP * steps
    if step + 1 < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * max(step - warm + 1, 0.0) / max(steps - warm + 1, 1.0)))


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return `value` with `function` applied to every tensor inside tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, function) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, function) for v in value)
    if isinstance(value, Mapping):
        return {k: map_tensors(v, function) for k, v in value.items()}
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Return every tensor inside tuples, lists and mappings, in order."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, collect)
    return found


def _optimizer(model: nn.Module, ctx: RecoverContext) -> tuple[torch.optim.Optimizer, float]:
    """Return the optimizer and its peak learning rate.

    Raises:
        TaskError: All parameters are frozen, or no optimizer has that name.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise TaskError("All parameters of the model are frozen.", hint="Set requires_grad to True where it may train.")
    weights = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    found: list[dict[str, Any]] = [g for g in groups if g["params"]]
    if ctx.optimizer == "sgd":
        return torch.optim.SGD(found, lr=ctx.lr, momentum=MOMENTUM, nesterov=True), ctx.lr
    if ctx.optimizer == "adamw":
        lr = ctx.lr * ADAMW_SHARE
        # Decay is lr * weight_decay a step: the same pull as SGD's at its learning rate.
        decayed = [{**g, "weight_decay": g["weight_decay"] / ADAMW_SHARE} for g in found]
        return torch.optim.AdamW(decayed, lr=lr), lr
    raise TaskError(f"Unknown optimizer {ctx.optimizer!r}.", hint="Known: sgd, adamw.")


def _update(digest: Any, tensor: Tensor) -> None:
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(array.tobytes())
