"""Task -> its optional parts, or what stands for them where a task written without `BaseTask` has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoprune.errors import TaskError
from autoprune.tasks.protocol import Evaluated, Predict, Sample, Split, Task


def signal_of(task: Task) -> str | None:
    """Return the metric that a task names as its smooth signal; None where it names none."""
    signal: str | None = getattr(task, "signal", None)
    return signal


def class_names_of(task: Task) -> tuple[str, ...]:
    """Return the names of a task's classes in the order of their numbers; empty where it names none."""
    return tuple(getattr(task, "class_names", ()))


def shifts_of(task: Task) -> tuple[str, ...]:
    """Return the names of a task's shifted domains."""
    shifts: Callable[[], Any] | None = getattr(task, "shifts", None)
    return () if shifts is None else tuple(shifts())


def evaluate_shift(task: Task, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
    """Score `predict` on a shifted domain of a task.

    Args:
        task: The task.
        predict: The model.
        name: One of `shifts_of(task)`.
        limit: Draws a shuffled, stratified subset of that many units.
        seed: Of the draw.

    Raises:
        TaskError: The task has no such domain.
    """
    score: Callable[..., Evaluated] | None = getattr(task, "evaluate_shift", None)
    if score is None or name not in shifts_of(task):
        raise TaskError(f"The task {task.name!r} has no shifted domain {name!r}.", hint="Name it in shifts().")
    return score(predict, name, limit=limit, seed=seed)


def samples_of(task: Task, split: Split, *, count: int, seed: int) -> tuple[Sample, ...]:
    """Return at most `count` units for pictures, drawn by `seed`; empty where a task shows none."""
    samples: Callable[..., Any] | None = getattr(task, "samples", None)
    return tuple((None if samples is None else samples(split, count, seed)) or ())[:count]
