"""Deployed form -> quality: scores on a split, their intervals, and the paired change against the dense model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation.types import Interval, PairedChange
from autoprune.runtimes import Session
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, Split, Task

RESAMPLES = 1000
DEFAULT_MARGIN = 0.005
LARGEST = float(np.finfo(np.float32).max)
ROUNDING = 1e-6
_Z95 = 1.959963984540054
_FEW_VALUES = 16
_CHUNK = 2**22

Floats = npt.NDArray[np.float64]


def predictor_of(session: Session, task: Task) -> Predict:
    """Return the function that `Task.evaluate` calls: the deployed form's outputs as the task expects them."""

    def predict(inputs: Inputs) -> Any:
        return task.structure(session.run(inputs))

    return predict


def score(task: Task, session: Session, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
    """Score a deployed model on a split; `limit` draws a shuffled, stratified subset.

    Raises:
        CandidateError: A metric is not finite or beyond its bounds (reason `nonfinite`, stage `quality`).
        TaskError: The task leaves out a metric or gives one id for several units.
    """
    return checked(task, task.evaluate(predictor_of(session, task), split, limit=limit, seed=seed))


def checked(task: Task, evaluated: Evaluated) -> Evaluated:
    """Return scores whose metrics are possible values.

    Raises:
        CandidateError: A metric is not finite or beyond its bounds (reason `nonfinite`, stage `quality`).
        TaskError: A metric is left out, or one id stands for several units.
    """
    _check(task, evaluated)
    return evaluated


def intervals(
    task: Task, evaluated: Evaluated, *, seed: int, metrics: Sequence[MetricSpec] = ()
) -> dict[str, Interval]:
    """Return every metric with its 95% interval, or only those of `metrics`.

    Wilson's for the mean of a 0/1 statistic (it stays honest at 0 and 1), the percentile bootstrap over units for other
    means, and its bias-corrected form (Efron, 1981) for all else: resampled average precision, for one, lies above that
    of the sample. Units count as independent; where they are not, as days of a market or neighbouring passages of one
    text, the intervals are those of these units and too narrow for new ones.

    Raises:
        CandidateError: A metric is not finite (reason `nonfinite`, stage `quality`).
    """
    _check(task, evaluated)
    n, unit = len(evaluated.ids), evaluated.unit
    found: dict[str, Interval] = {}
    others = []
    for spec in metrics or task.metrics:
        value = evaluated.metrics[spec.name]
        units = _mean_statistic(spec, evaluated)
        if units is None:
            others.append(spec.name)
        elif _is_binary(units):
            low, high = wilson(float(units.sum()), n)
            found[spec.name] = Interval(value, low, high, n, unit, "wilson")
        else:
            low, high = _percentiles(_resampled_means(units, np.random.default_rng(seed)))
            found[spec.name] = Interval(value, low, high, n, unit, f"bootstrap-{RESAMPLES}")
    if others:
        draws = _resampled_metrics(task, [evaluated], others, np.random.default_rng(seed))[0]
        for name in others:
            value = evaluated.metrics[name]
            low, high = _percentiles(draws[name], centre=value)
            found[name] = Interval(value, low, high, n, unit, f"bias-corrected-bootstrap-{RESAMPLES}")
    return {spec.name: found[spec.name] for spec in metrics or task.metrics}


def compare(
    task: Task,
    pruned: Evaluated,
    dense: Evaluated,
    *,
    margin: float = DEFAULT_MARGIN,
    seed: int,
    metrics: Sequence[MetricSpec] = (),
) -> dict[str, PairedChange]:
    """Return every metric's change (pruned - dense) on the same units with its 95% interval.

    For a 0/1 statistic the interval is Bonett and Price's (2012), which adds one unit to either kind of disagreement:
    the bootstrap of a model that agrees everywhere has width zero however few units there are. All others: the
    paired percentile bootstrap, the same units drawn for both models.

    Args:
        task: Names metrics and directions, aggregates resampled units.
        pruned: The candidate's scores.
        dense: The dense model's scores on the same units, in any order.
        margin: Tolerated loss, positive: in the metric's own unit where that has a largest value, such as an accuracy
            or R2, else a share of the dense model's value, such as of an error in dollars.
        seed: Of the bootstrap.
        metrics: Those to compare; all by default.

    Raises:
        TaskError: The two were not scored on the same units.
        CandidateError: A metric is not finite (reason `nonfinite`, stage `quality`).
    """
    _check(task, pruned)
    _check(task, dense)
    dense = aligned(dense, pruned)
    found: dict[str, tuple[float, float, str]] = {}
    others = []
    for spec in metrics or task.metrics:
        left, right = _mean_statistic(spec, pruned), _mean_statistic(spec, dense)
        if left is None or right is None:
            others.append(spec.name)
        elif _is_binary(left) and _is_binary(right):
            found[spec.name] = (*bonett_price(left, right), "bonett-price")
        else:
            bounds = _percentiles(_resampled_means(left - right, np.random.default_rng(seed)))
            found[spec.name] = (*bounds, f"paired-bootstrap-{RESAMPLES}")
    if others:
        rng = np.random.default_rng(seed)
        first, second = _resampled_metrics(task, [pruned, dense], others, rng)
        for name in others:
            found[name] = (*_percentiles(first[name] - second[name]), f"paired-bootstrap-{RESAMPLES}")
    changes = {}
    for spec in metrics or task.metrics:
        base = dense.metrics[spec.name]
        tolerated = margin if math.isfinite(spec.bounds[1]) else margin * abs(base)
        changes[spec.name] = _change(spec, pruned.metrics[spec.name] - base, found[spec.name], tolerated)
    return changes


def aligned(evaluated: Evaluated, reference: Evaluated) -> Evaluated:
    """Return scores with their units in the order of `reference`.

    Raises:
        TaskError: The two were not scored on the same units.
    """
    if reference.ids == evaluated.ids:
        return evaluated
    position = {unit: index for index, unit in enumerate(evaluated.ids)}
    if set(position) != set(reference.ids):
        absent = len(set(reference.ids) ^ set(position))
        message = f"Both models must be scored on the same units; {absent} ids occur for one of them only."
        raise TaskError(message, hint="Score both with the same split, limit and seed.")
    order = np.array([position[unit] for unit in reference.ids])
    per_unit = {key: values[order] for key, values in evaluated.per_unit.items()}
    outputs, labels = (None if v is None else v[order] for v in (evaluated.outputs, evaluated.labels))
    return replace(evaluated, ids=reference.ids, per_unit=per_unit, outputs=outputs, labels=labels)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval of a proportion."""
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bonett_price(left: Floats, right: Floats) -> tuple[float, float]:
    """Return the 95% interval of the difference of two paired proportions (left - right)."""
    n = len(left) + 2
    gained = (float((left > right).sum()) + 1) / n
    lost = (float((left < right).sum()) + 1) / n
    half = _Z95 * math.sqrt((gained + lost - (gained - lost) ** 2) / n)
    return max(-1.0, gained - lost - half), min(1.0, gained - lost + half)


def _change(spec: MetricSpec, delta: float, bounds: tuple[float, float, str], margin: float) -> PairedChange:
    low, high, test = bounds
    noninferior = low >= -margin if spec.direction == "max" else high <= margin
    return PairedChange(delta, low, high, test, noninferior, margin)


def _check(task: Task, evaluated: Evaluated) -> None:
    missing = [spec.name for spec in task.metrics if spec.name not in evaluated.metrics]
    if missing:
        raise TaskError(f"Task {task.name!r} must return the metrics it names. Missing: {', '.join(missing)}.")
    n = len(evaluated.ids)
    if n == 0 or len(set(evaluated.ids)) != n:
        raise TaskError(f"Task {task.name!r} must give every scored unit an id of its own. Got {n} ids.")
    bad = {spec.name: evaluated.metrics[spec.name] for spec in task.metrics if not _is_possible(spec, evaluated)}
    if bad:
        message = f"Metrics must be finite and within their bounds. Got {bad}."
        raise CandidateError(message, reason="nonfinite", stage="quality")


def _is_possible(spec: MetricSpec, evaluated: Evaluated) -> bool:
    """Tell whether a metric is a number that a model computing in single precision may have, within its bounds."""
    value, (low, high) = evaluated.metrics[spec.name], spec.bounds
    return abs(value) <= LARGEST and low - ROUNDING <= value <= high + ROUNDING


def _mean_statistic(spec: MetricSpec, evaluated: Evaluated) -> Floats | None:
    """Return [n_units] values whose plain mean is the metric, or None where the metric is no such mean."""
    units = evaluated.per_unit.get(spec.name)
    if units is None or units.ndim != 1 or len(units) != len(evaluated.ids):
        return None
    value = evaluated.metrics[spec.name]
    return units if math.isclose(float(units.mean()), value, rel_tol=1e-9, abs_tol=1e-12) else None


def _is_binary(units: Floats) -> bool:
    return bool(((units == 0) | (units == 1)).all())


def _resampled_means(units: Floats, rng: np.random.Generator) -> Floats:
    """Return [RESAMPLES] means of units drawn with replacement.

    Statistics with few distinct values are drawn as counts of those values, which is the same distribution.
    """
    n = len(units)
    values, counts = np.unique(units, return_counts=True)
    if len(values) <= _FEW_VALUES:
        drawn = rng.multinomial(n, counts / n, size=RESAMPLES)
        return np.asarray(drawn @ values / n, dtype=np.float64)
    step = max(1, _CHUNK // n)
    parts = [units[rng.integers(n, size=(min(step, RESAMPLES - i), n))].mean(1) for i in range(0, RESAMPLES, step)]
    return np.concatenate(parts)


def _resampled_metrics(
    task: Task, models: list[Evaluated], names: list[str], rng: np.random.Generator
) -> list[Mapping[str, Floats]]:
    """Return per model [RESAMPLES] values of each metric, aggregated from the same drawn units for all models."""
    n = len(models[0].ids)
    draws: list[dict[str, Floats]] = [{name: np.empty(RESAMPLES) for name in names} for _ in models]
    for index in range(RESAMPLES):
        drawn = rng.integers(n, size=n)
        for model, draw in zip(models, draws, strict=True):
            metrics = task.aggregate({key: values[drawn] for key, values in model.per_unit.items()})
            for name in names:
                draw[name][index] = metrics[name]
    return [dict(draw) for draw in draws]


def _percentiles(draws: Floats, *, centre: float | None = None) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles; resamples on which the metric is undefined are left out.

    With the `centre` that the sample has, both are moved by what the draws' median is off it, in standard deviations of
    a normal scale, twice: once for the draws, once for the sample itself.
    """
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        raise CandidateError("No resample has a finite metric.", reason="nonfinite", stage="quality")
    levels = np.array([-_Z95, _Z95])
    if centre is not None:
        below = (np.sum(finite < centre) + 0.5 * np.sum(finite == centre) + 0.5) / (len(finite) + 1)
        levels = levels + 2.0 * ndtri(below)
    low, high = np.quantile(finite, ndtr(levels))
    return float(low), float(high)
