"""Task -> its optional parts, or what stands for them where a task written without `BaseTask` has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from autoprune.errors import TaskError
from autoprune.tasks.protocol import Evaluated, Predict, Sample, Split, Task

CLEAN = "clean"


def signal_of(task: Task) -> str | None:
    """Return the metric that a task names as its smooth signal; None where it names none."""
    signal: str | None = getattr(task, "signal", None)
    return signal


def class_names_of(task: Task) -> tuple[str, ...]:
    """Return the names of a task's classes in the order of their numbers; empty where it names none.

    Raises:
        TaskError: They are one text, not a sequence of names.
    """
    return _names(getattr(task, "class_names", ()), "task.class_names")


def shifts_of(task: Task) -> tuple[str, ...]:
    """Return the names of a task's shifted domains.

    Raises:
        TaskError: They are one text, not a sequence of names.
    """
    shifts: Callable[[], Any] | None = getattr(task, "shifts", None)
    return () if shifts is None else _names(shifts(), "task.shifts()")


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
    known = shifts_of(task)
    if score is None or name not in known:
        raise unknown_shift(task.name, name, known)
    return score(predict, name, limit=limit, seed=seed)


def shift_key(name: str) -> str:
    """Return what documents call a shifted domain, beside `CLEAN` and the names of corruptions."""
    return f"shift:{name}"


def unknown_shift(task: str, name: str, known: Iterable[str]) -> TaskError:
    """Return the error of a shifted domain that is not among the `known` ones of a task."""
    hint = f"Its domains, as shifts() names them: {', '.join(known) or 'none'}."
    return TaskError(f"The task {task!r} has no shifted domain {name!r}.", hint=hint)


def samples_of(task: Task, split: Split, *, count: int, seed: int) -> tuple[Sample, ...]:
    """Return at most `count` units for pictures, drawn by `seed`; empty where a task shows none."""
    samples: Callable[..., Any] | None = getattr(task, "samples", None)
    return tuple((None if samples is None else samples(split, count, seed)) or ())[:count]


def _names(found: Any, what: str) -> tuple[str, ...]:
    if isinstance(found, str):
        raise TaskError(f"{what} must be a sequence of names. Got the text {found!r}.", hint=f"Write ({found!r},).")
    return tuple(found)
