"""Task -> the first fatal problem of its optional parts: corruptions, shifted domains, names and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.base import tensors_of
from autoprune.tasks.failures import user_code
from autoprune.tasks.optional import CLEAN, class_names_of, evaluate_shift, samples_of, shift_key, shifts_of
from autoprune.tasks.protocol import Evaluated, Inputs, Predict, Sample, Task

UNITS = 32
SAMPLES = 4
ROUNDING = 1e-4


def check_optional(task: Task, model: nn.Module) -> None:
    """Try the parts that a task need not have, on a few units each.

    Raises:
        TaskError: The first fatal problem.
    """

    def predict(inputs: Inputs) -> Any:
        with torch.no_grad():
            return model(*inputs[0], **inputs[1])

    _check_class_names(task, predict)
    with user_code("task.shifts()"):
        shifts = shifts_of(task)
    _demand_names(shifts, "task.shifts()")
    _check_corruptions(task, shifts)
    _check_shifts(task, predict, shifts)
    _check_samples(task)


def _check_class_names(task: Task, predict: Predict) -> None:
    with user_code("task.class_names"):
        names = class_names_of(task)
    _demand_names(names, "task.class_names")
    if not names:
        return
    with user_code("task.evaluate('val')"):
        scored = task.evaluate(predict, "val", limit=UNITS, seed=0)
    if scored.outputs is None or scored.labels is None or scored.outputs.ndim != 2:
        return
    if scored.outputs.shape[1] != len(names):
        raise TaskError(
            f"task.class_names names {len(names)} classes, but the model tells {scored.outputs.shape[1]} apart.",
            hint="Name each of its outputs once, in the order of the classes' numbers, or none.",
        )


def _demand_names(names: Sequence[Any], what: str) -> None:
    strange = [name for name in names if not isinstance(name, str) or not name]
    if strange:
        raise TaskError(f"{what} must be strings that are not empty. Got {strange[0]!r}.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{what} must differ. Got {twice[0]!r} more than once.")


def _check_corruptions(task: Task, shifts: Sequence[str]) -> None:
    with user_code("task.corruptions()"):
        corruptions = dict(task.corruptions())
    _demand_names(list(corruptions), "The names in task.corruptions()")
    taken = {CLEAN, *map(shift_key, shifts)} & set(corruptions)
    if taken:
        raise TaskError(
            f"A corruption must not be called {min(taken)!r}: results have another condition of that name.",
            hint=f"Results call the data as they are {CLEAN!r}, and a shifted domain X {shift_key('X')!r}.",
        )
    inputs = task.example_inputs(batch_size=2)
    before = [tensor.clone() for tensor in tensors_of(inputs)]
    for name, corrupt in corruptions.items():
        with user_code(f"The corruption {name!r}"):
            first, second = (tensors_of(Inputs(*corrupt(inputs))) for _ in range(2))
        if [(t.shape, t.dtype) for t in first] != [(t.shape, t.dtype) for t in before]:
            raise TaskError(
                f"The corruption {name!r} must return Inputs like those it is given.",
                hint="Take Inputs and return Inputs; image_corruptions() of autoprune.tasks is an example.",
            )
        if not all(bool(torch.isfinite(t).all()) for t in first if t.is_floating_point()):
            raise TaskError(f"The corruption {name!r} makes NaN or infinity.")
        if not _equal(first, second) or not _equal(tensors_of(inputs), before):
            raise TaskError(
                f"The corruption {name!r} must give the same at every call and leave its argument as it was.",
                hint="Draw noise from a generator that is made in the call, with a fixed seed.",
            )
        if _equal(first, before):
            raise TaskError(f"The corruption {name!r} leaves the example inputs as they were: it measures nothing.")


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _check_shifts(task: Task, predict: Predict, names: Sequence[str]) -> None:
    for name in names:
        with user_code(f"task.evaluate_shift({name!r})"):
            scored = evaluate_shift(task, predict, name, limit=UNITS, seed=0)
        if not isinstance(scored, Evaluated) or not {m.name for m in task.metrics} <= set(scored.metrics):
            raise TaskError(f"task.evaluate_shift({name!r}) must return an Evaluated with every metric of the task.")


def _check_samples(task: Task) -> None:
    with user_code("task.samples('val')"):
        samples = samples_of(task, "val", count=SAMPLES, seed=0)
    for sample in samples:
        if not isinstance(sample, Sample):
            raise TaskError(f"task.samples() must return Sample objects. Got {type(sample).__name__}.")
        for field in ("id", "text", "label"):
            told = getattr(sample, field)
            if not isinstance(told, str) and (field == "id" or told is not None):
                raise TaskError(f"The {field} of a sample must be a string. Got {type(told).__name__}.")
        if sample.image is not None:
            with user_code("The image of a sample"):
                _check_image(sample.image)


def _check_image(image: Any) -> None:
    """Demand what pictures are drawn from; the least excess over 0..1, of rounding, is let pass."""
    wanted = "The image of a sample must be an array [h, w] or [h, w, 3] of numbers in 0..1"
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiub":
        found = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TaskError(f"{wanted}. Got {found}.", hint="Convert it by numpy.asarray(image, dtype='float32').")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise TaskError(f"{wanted}. Got {image.shape}.", hint="Colours come last: numpy.moveaxis(image, 0, -1).")
    low, high = float(image.min()), float(image.max())
    if not -ROUNDING <= low <= high <= 1.0 + ROUNDING:
        raise TaskError(f"{wanted}. Got values from {low:g} to {high:g}.", hint="Scale it; NaN cannot be drawn.")
