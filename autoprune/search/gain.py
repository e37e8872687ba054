"""Records of search and controls -> by how much hypervolume the search beats the best control, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.evaluation.types import Evaluation, Interval
from autoprune.pareto import hypervolume
from autoprune.records import CandidateRecord
from autoprune.report.document import Gain
from autoprune.search.objectives import Objective
from autoprune.search.scaling import Ranges, ranges_of, scaled, table_of
from autoprune.search.workbench import evaluation_of
from autoprune.tasks.protocol import MetricSpec

DRAWS = 1000
_Z95 = 1.959963984540054

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GainScale:
    """What hypervolumes of one run are computed with.

    Args:
        objectives: Of the run.
        metrics: Of the task.
        dense: The dense model's record.
    """

    objectives: Sequence[Objective]
    metrics: Sequence[MetricSpec]
    dense: CandidateRecord

    @property
    def ranges(self) -> Ranges:
        """Objective -> the (best, worst) values that become 0 and 1."""
        return ranges_of(self.objectives, self.metrics, self.dense.values)


def gain_over(
    scale: GainScale,
    ours: Sequence[CandidateRecord],
    controls: Mapping[str, Sequence[CandidateRecord]],
    rng: np.random.Generator,
) -> Gain | None:
    """Return the gain in hypervolume over the best control; None where there is nothing to compare.

    A control is compared with our candidates of its own fidelity, on val; the best one is that which leaves us the
    least gain. It is no comparison at equal budget: a control has a few candidates, the search as many as it was given.

    The interval is a parametric bootstrap, for records hold no per-unit scores. In each draw every quality is moved by
    a normal deviate as wide as its own 95% interval; the deviates of two candidates correlate as far as both, by their
    paired intervals, follow the dense model on the same units, and what is left counts as independent. Latency moves
    by the interval of its paired speed-up, other costs are exact. The best control is chosen anew in each draw. Noise
    lifts the hypervolume of the larger set more, so the basic (reflected) interval is taken, which corrects for it, and
    widened to hold the value where the correction would exclude it.

    Args:
        scale: Objectives, metrics and the dense model.
        ours: Complete records of the search.
        controls: Control -> its complete records; all of one control are of one fidelity.
        rng: Source of the draws.
    """
    pairs = {
        name: ([r for r in ours if r.fidelity == theirs[0].fidelity], list(theirs))
        for name, theirs in controls.items()
        if theirs
    }
    pairs = {name: (left, right) for name, (left, right) in pairs.items() if left}
    if not pairs:
        return None
    everyone = {r.id: r for left, right in pairs.values() for r in (*left, *right)}
    observed = dict(zip(everyone, _observed(scale, list(everyone.values())), strict=True))
    values = {name: _volume(observed, left) - _volume(observed, right) for name, (left, right) in pairs.items()}
    best = min(values, key=lambda name: values[name])
    drawn = dict(zip(everyone, _drawn(scale, list(everyone.values()), rng), strict=True))
    gains = np.min([_volumes(drawn, left) - _volumes(drawn, right) for left, right in pairs.values()], axis=0)
    lower, upper = np.quantile(gains, [0.025, 0.975])
    value = values[best]
    low, high = min(value, 2.0 * value - float(upper)), max(value, 2.0 * value - float(lower))
    return Gain(control=best, value=value, low=low, high=high)


def _observed(scale: GainScale, records: Sequence[CandidateRecord]) -> Floats:
    """Return [n, k] normalised, minimised values."""
    return scaled(scale.objectives, scale.ranges, table_of(scale.objectives, [r.values for r in records]))


def _drawn(scale: GainScale, records: Sequence[CandidateRecord], rng: np.random.Generator) -> Floats:
    """Return [n, DRAWS, k] normalised, minimised values, each moved within its uncertainty."""
    dense, specs = evaluation_of(scale.dense), {m.name: m for m in scale.metrics}
    evaluations = [evaluation_of(r) for r in records]
    columns = []
    for objective in scale.objectives:
        centre = np.array([r.values[objective.name] for r in records])[:, None]
        noise = rng.standard_normal((len(records), DRAWS))
        if objective.name in specs:
            shared = rng.standard_normal(DRAWS)
            width, correlation = np.array([_spread(e, dense, objective.name) for e in evaluations]).T[:, :, None]
            moved = centre + width * (correlation * shared + np.sqrt(1.0 - correlation**2) * noise)
            columns.append(np.clip(moved, *specs[objective.name].bounds))
        elif objective.target is not None:
            width = np.array([[_log_width(e, objective.target)] for e in evaluations])
            columns.append(centre * np.exp(width * noise))
        else:
            columns.append(np.repeat(centre, DRAWS, axis=1))
    return scaled(scale.objectives, scale.ranges, np.stack(columns, axis=-1))


def _spread(evaluation: Evaluation, dense: Evaluation, metric: str) -> tuple[float, float]:
    """Return the standard error of a metric on val, and its correlation in [0, 1] with the dense model's."""
    own = _error(evaluation.quality["val"][metric])
    base = _error(dense.quality["val"][metric])
    change = evaluation.versus_dense.get(metric)
    if change is None or own == 0.0 or base == 0.0:
        return own, 0.0
    paired = (change.high - change.low) / (2.0 * _Z95)
    return own, min(1.0, max(0.0, (own**2 + base**2 - paired**2) / (2.0 * own * base)))


def _error(interval: Interval) -> float:
    return (interval.high - interval.low) / (2.0 * _Z95)


def _log_width(evaluation: Evaluation, target: str) -> float:
    latency = evaluation.latency[target]
    return math.log(latency.speedup_high / latency.speedup_low) / (2.0 * _Z95)


def _volume(points: Mapping[str, Floats], records: Sequence[CandidateRecord]) -> float:
    table = np.array([points[r.id] for r in records])
    return hypervolume(table, [1.0] * table.shape[-1])


def _volumes(points: Mapping[str, Floats], records: Sequence[CandidateRecord]) -> Floats:
    """Return [DRAWS] hypervolumes of the records' drawn values."""
    table = np.array([points[r.id] for r in records])
    corner = [1.0] * table.shape[-1]
    return np.array([hypervolume(table[:, draw], corner) for draw in range(table.shape[1])])
