"""Outputs of two models on the same units -> how often they agree, and what became of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.evaluation.quality import DEFAULT_MARGIN, aligned, bonett_price, wilson
from autoprune.evaluation.types import Agreement, ClassScore, Interval, PairedChange
from autoprune.tasks.base import TEMPERATURE
from autoprune.tasks.protocol import Evaluated

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Classified:
    """[n] labels and answers, each a number below `classes`."""

    labels: Counts
    answers: Counts
    classes: int

    @property
    def hits(self) -> Floats:
        """[n] 1 where the answer is right, else 0."""
        return np.asarray(self.answers == self.labels, dtype=np.float64)


def agreement(pruned: Evaluated, dense: Evaluated) -> Agreement | None:
    """Return how far two models agree; None where the task gives no finite outputs of one or two dimensions.

    As in `BaseTask.distill_loss`, outputs [n_units, 1] (or [n_units]) are regressions, all others logits, softened by
    the temperature used there.

    Raises:
        TaskError: The two were not scored on the same units.
    """
    dense = aligned(dense, pruned)
    ours, theirs = _rows(pruned), _rows(dense)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    if ours.shape[1] == 1:
        return Agreement(rmse=float(np.sqrt(np.mean(np.square(ours - theirs)))))
    equal = ours.argmax(axis=1) == theirs.argmax(axis=1)
    n = len(equal)
    low, high = wilson(float(equal.sum()), n)
    same = Interval(float(equal.mean()), low, high, n, pruned.unit, "wilson")
    return Agreement(same=same, kl=_divergence(theirs, ours))


def by_class(scored: Evaluated, dense: Evaluated | None = None) -> tuple[ClassScore, ...]:
    """Return the accuracy on each class that occurs, with its change against the dense model on the same units.

    Intervals are Wilson's, those of the change Bonett and Price's (2012). Empty where the task gives no labels beside
    [n_units, classes] outputs.

    Raises:
        TaskError: The two were not scored on the same units.
    """
    told, known = _classified(scored), None if dense is None else _classified(aligned(dense, scored))
    if told is None or (dense is not None and known is None):
        return ()
    hits, before, found = told.hits, None if known is None else known.hits, []
    for number in np.unique(told.labels):
        own = told.labels == number
        n, right = int(own.sum()), float(hits[own].sum())
        accuracy = Interval(right / n, *wilson(right, n), n, scored.unit, "wilson")
        change = None if before is None else _change(hits[own], before[own])
        found.append(ClassScore(int(number), accuracy, change))
    return tuple(found)


def confusion(scored: Evaluated) -> Counts | None:
    """Return [classes, classes] counts of units by label (row) and prediction (column); None as in `by_class`."""
    told = _classified(scored)
    if told is None:
        return None
    n = told.classes
    return np.bincount(told.labels * n + told.answers, minlength=n**2).reshape(n, n).astype(np.int64)


def _change(hits: Floats, before: Floats) -> PairedChange:
    low, high = bonett_price(hits, before)
    delta = float(hits.mean() - before.mean())
    return PairedChange(delta, low, high, "bonett-price", low >= -DEFAULT_MARGIN, DEFAULT_MARGIN)


def _classified(scored: Evaluated) -> _Classified | None:
    outputs = _rows(scored)
    if outputs is None or scored.labels is None or outputs.shape[1] < 2:
        return None
    return _Classified(scored.labels, outputs.argmax(axis=1).astype(np.int64), outputs.shape[1])


def _rows(scored: Evaluated) -> Floats | None:
    """Return [n_units, k] outputs, or None where there are none of that form, all finite."""
    outputs = scored.outputs
    if outputs is None or outputs.ndim not in (1, 2) or len(outputs) == 0 or not np.isfinite(outputs).all():
        return None
    return np.asarray(outputs.reshape(len(outputs), -1), dtype=np.float64)


def _divergence(reference: Floats, other: Floats) -> float:
    """Return the mean over rows of KL(softened reference || softened other), nats."""
    first, second = (_log_softmax(rows / TEMPERATURE) for rows in (reference, other))
    return float(max(0.0, np.mean(np.sum(np.exp(first) * (first - second), axis=1))))


def _log_softmax(rows: Floats) -> Floats:
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)
