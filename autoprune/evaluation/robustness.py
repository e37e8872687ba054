"""Deployed form -> quality where the data are unlike those of training: corrupted inputs and shifted domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.errors import AutopruneError, CandidateError
from autoprune.evaluation.quality import checked, predictor_of
from autoprune.runtimes import Session
from autoprune.tasks import evaluate_shift, shifts_of
from autoprune.tasks.failures import user_code
from autoprune.tasks.optional import CLEAN, shift_key
from autoprune.tasks.protocol import Evaluated, Inputs, Predict, Task

Kind = Literal["clean", "corruption", "shift"]


@dataclass(frozen=True)
class Condition:
    """What a model meets.

    Args:
        kind: `clean` is `val` as it is, `corruption` is `val` with its inputs corrupted, `shift` other data.
        name: As the task names it.
    """

    kind: Kind
    name: str

    @property
    def key(self) -> str:
        """Its name in documents, unlike that of any other condition."""
        return self.name if self.kind != "shift" else shift_key(self.name)


@dataclass(frozen=True)
class Conditions:
    """How a model fares under each condition.

    Args:
        scored: Condition -> scores, on units that are the same for every model.
        failed: Condition -> why there are no scores: the model's outputs make the metric impossible, or the task's own
            code failed.
    """

    scored: dict[Condition, Evaluated]
    failed: dict[Condition, str]


def conditions_of(task: Task) -> tuple[Condition, ...]:
    """Return all conditions that a task knows, `clean` first for comparison; empty where it knows no other."""
    found = [Condition("corruption", name) for name in task.corruptions()]
    found += [Condition("shift", name) for name in shifts_of(task)]
    return (Condition("clean", CLEAN), *found) if found else ()


def corrupted(predict: Predict, corrupt: Callable[[Any], Any]) -> Predict:
    """Return a `predict` whose model sees its inputs corrupted; labels stay with the task."""

    def on_corrupted(inputs: Inputs) -> Any:
        return predict(Inputs(*corrupt(inputs)))

    return on_corrupted


def score_conditions(
    task: Task, session: Session, conditions: Sequence[Condition], *, units: int, seed: int
) -> Conditions:
    """Score a deployed model under each condition, on a stratified subset of at most `units` units.

    A metric that is not finite or beyond its bounds is a finding, and code of the task's that fails under one condition
    tells nothing of the others: such a condition is listed as failed.
    """
    predict, corruptions = predictor_of(session, task), dict(task.corruptions())

    def score_under(condition: Condition) -> Evaluated:
        if condition.kind == "shift":
            return evaluate_shift(task, predict, condition.name, limit=units, seed=seed)
        change = corruptions.get(condition.name) if condition.kind == "corruption" else None
        seen = predict if change is None else corrupted(predict, change)
        return task.evaluate(seen, "val", limit=units, seed=seed)

    result = Conditions({}, {})
    for condition in conditions:
        try:
            with user_code(f"The task under {condition.key}"):
                result.scored[condition] = checked(task, score_under(condition))
        except AutopruneError as error:
            finding = error.__cause__ if isinstance(error.__cause__, CandidateError) else error
            result.failed[condition] = str(finding)
    return result
