"""Task -> the first fatal problem of its optional parts: corruptions, shifted domains, names and samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.base import tensors_of
from autoprune.tasks.failures import user_code
from autoprune.tasks.optional import class_names_of, evaluate_shift, samples_of, shifts_of
from autoprune.tasks.protocol import Evaluated, Inputs, Sample, Task

SHIFT_UNITS = 32
SAMPLES = 4


def check_optional(task: Task, model: nn.Module) -> None:
    """Try the parts that a task need not have, on a few units each.

    Raises:
        TaskError: The first fatal problem.
    """
    _check_names(task)
    _check_corruptions(task)
    _check_shifts(task, model)
    _check_samples(task)


def _check_names(task: Task) -> None:
    with user_code("task.class_names"):
        names = class_names_of(task)
    if not all(isinstance(name, str) for name in names):
        raise TaskError(f"task.class_names must be strings in the order of the classes' numbers. Got {names[:3]}.")


def _check_corruptions(task: Task) -> None:
    with user_code("task.corruptions()"):
        corruptions = dict(task.corruptions())
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


def _check_shifts(task: Task, model: nn.Module) -> None:
    def predict(inputs: Inputs) -> Any:
        with torch.no_grad():
            return model(*inputs[0], **inputs[1])

    with user_code("task.shifts()"):
        names = shifts_of(task)
    for name in names:
        with user_code(f"task.evaluate_shift({name!r})"):
            scored = evaluate_shift(task, predict, name, limit=SHIFT_UNITS, seed=0)
        if not isinstance(scored, Evaluated) or not {m.name for m in task.metrics} <= set(scored.metrics):
            raise TaskError(f"task.evaluate_shift({name!r}) must return an Evaluated with every metric of the task.")


def _check_samples(task: Task) -> None:
    with user_code("task.samples('val')"):
        samples = samples_of(task, "val", count=SAMPLES, seed=0)
    for sample in samples:
        if not isinstance(sample, Sample):
            raise TaskError(f"task.samples() must return Sample objects. Got {type(sample).__name__}.")
        shape = None if sample.image is None else sample.image.shape
        if shape is not None and not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            raise TaskError(f"The image of a sample must be [h, w] or [h, w, 3]. Got {tuple(shape)}.")
