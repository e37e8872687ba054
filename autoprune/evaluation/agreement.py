"""Outputs of two models on the same units -> how often they agree, and what became of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.evaluation.quality import DEFAULT_MARGIN, aligned, bonett_price, wilson
from autoprune.evaluation.types import Agreement, ClassScore, Interval, PairedChange
from autoprune.tasks.base import TEMPERATURE
from autoprune.tasks.protocol import Evaluated

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


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
    hits, before = _hits(scored), None if dense is None else _hits(aligned(dense, scored))
    if hits is None or scored.labels is None or (dense is not None and before is None):
        return ()
    found = []
    for number in np.unique(scored.labels):
        own = scored.labels == number
        n, right = int(own.sum()), float(hits[own].sum())
        accuracy = Interval(right / n, *wilson(right, n), n, scored.unit, "wilson")
        change = None if before is None else _change(hits[own], before[own])
        found.append(ClassScore(int(number), accuracy, change))
    return tuple(found)


def confusion(scored: Evaluated) -> Counts | None:
    """Return [classes, classes] counts of units by label (row) and prediction (column); None as in `by_class`."""
    outputs = _rows(scored)
    if outputs is None or scored.labels is None or outputs.shape[1] < 2:
        return None
    classes = outputs.shape[1]
    cells = scored.labels * classes + outputs.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def _change(hits: Floats, before: Floats) -> PairedChange:
    low, high = bonett_price(hits, before)
    delta = float(hits.mean() - before.mean())
    return PairedChange(delta, low, high, "bonett-price", low >= -DEFAULT_MARGIN, DEFAULT_MARGIN)


def _hits(scored: Evaluated) -> Floats | None:
    outputs = _rows(scored)
    if outputs is None or scored.labels is None or outputs.shape[1] < 2:
        return None
    return np.asarray(outputs.argmax(axis=1) == scored.labels, dtype=np.float64)


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
