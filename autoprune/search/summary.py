"""Front and records -> what is said of them: named picks, hypervolume and its history, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from autoprune.errors import ConfigError
from autoprune.evaluation.types import Evaluation
from autoprune.groups.types import ModelGroups
from autoprune.pareto import hypervolume, knee, non_dominated
from autoprune.pruning.selection import width_after
from autoprune.records import CandidateRecord, Fidelity
from autoprune.report.document import HistoryPoint, Hypervolume, Warned
from autoprune.report.parts import Estimate
from autoprune.search.measured import Measured
from autoprune.search.objectives import Objective, minimised
from autoprune.search.scaling import ranges_of, scaled, table_of
from autoprune.space import SearchSpace, SparsitySpec
from autoprune.tasks.protocol import MetricSpec

PickName = Literal["most_accurate", "balanced", "fastest", "smallest"]
OVERHEAD_MACS = 2.0
OVERHEAD_SHARE = 0.5
FIDELITIES: tuple[Fidelity, ...] = ("proxy", "short", "full")

Values = Mapping[str, float]
Floats = npt.NDArray[np.float64]


def picks_of(
    objectives: Sequence[Objective], ids: Sequence[str], values: Sequence[Values], parameters: Sequence[int]
) -> dict[PickName, str]:
    """Return the named picks: most accurate, balanced (the knee), fastest, smallest; chosen on val."""
    if not ids:
        return {}
    rows = minimised(objectives, values)
    return {
        "most_accurate": ids[int(np.argmin(rows[:, 0]))],
        "balanced": ids[knee(rows)],
        "fastest": ids[int(np.argmin(rows[:, -1]))],
        "smallest": ids[int(np.argmin(parameters))],
    }


def hypervolume_of(
    objectives: Sequence[Objective], metrics: Sequence[MetricSpec], values: Sequence[Values], dense: Values
) -> Hypervolume:
    """Return the front's hypervolume on val in normalised objectives, the reference corner at 1 each.

    A cost counts from a hundredth of the dense model's to the dense model's own, on a logarithmic axis; a metric from
    its best value to max(0.5, 5 x the dense model's error) away from it, or where it has no bounds, half the dense
    value away from the dense value on either side.
    """
    ranges = ranges_of(objectives, metrics, dense)
    corner = [1.0] * len(objectives)
    points = scaled(objectives, ranges, table_of(objectives, values))
    return Hypervolume(value=hypervolume(points, corner), reference=tuple(corner), normalisation=dict(ranges))


def history_of(
    records: Sequence[CandidateRecord],
    objectives: Sequence[Objective],
    metrics: Sequence[MetricSpec],
    dense: Values,
) -> tuple[HistoryPoint, ...]:
    """Return the hypervolume after each evaluation of the search, a fidelity at a time: they are never compared.

    Evaluations are counted through all fidelities, from the cheapest; those that failed or were stopped count too.
    The dense model, the controls and further recovery seeds are no evaluations of the search.

    Args:
        records: Of the run.
        objectives: Of the run.
        metrics: Of the task.
        dense: Objective -> value of the dense model.
    """
    ranges, corner = ranges_of(objectives, metrics, dense), [1.0] * len(objectives)
    fronts = {fidelity: np.empty((0, len(objectives))) for fidelity in FIDELITIES}
    volumes: dict[Fidelity, float] = {}
    points = []
    for evaluation, record in enumerate(searched(records), start=1):
        if record.state == "complete":
            point = scaled(objectives, ranges, table_of(objectives, [record.values]))
            front = np.concatenate([fronts[record.fidelity], point])
            keep = non_dominated(front)
            fronts[record.fidelity] = front[keep]
            if keep[-1]:
                volumes[record.fidelity] = hypervolume(front[keep], corner)
        reached = volumes.get(record.fidelity, 0.0)
        points.append(HistoryPoint(evaluation=evaluation, fidelity=record.fidelity, hypervolume=reached))
    return tuple(points)


def searched(records: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Return the search's own candidates in order: no dense model, no control, no second recovery seed."""
    own = [r for r in records if r.number > 0 and not r.is_control and r.repeat == 0]
    return sorted(own, key=lambda r: (FIDELITIES.index(r.fidelity), r.number, r.id))


def warnings_of(measured: Measured, dense: Evaluation, target: str) -> tuple[Warned, ...]:
    """Return what a user should know of a member's speed before taking it."""
    found, latency = [], measured.evaluation.latency[target]
    macs_ratio = dense.cost.macs / max(measured.evaluation.cost.macs, 1)
    if not latency.clean:
        text = f"{latency.polluted_share:.0%} of the latency samples met foreign load; measure again on a quiet host."
        found.append(Warned(code="noisy_latency", text=text))
    if latency.speedup < 1.0 and macs_ratio > 1.0:
        text = f"{macs_ratio:.1f}x fewer MACs, but not faster than the dense model on {target}."
        found.append(Warned(code="not_faster", text=text))
    elif macs_ratio > OVERHEAD_MACS and latency.speedup < OVERHEAD_SHARE * macs_ratio:
        text = f"{macs_ratio:.1f}x fewer MACs give {latency.speedup:.1f}x on {target}: overhead bounds this target."
        found.append(Warned(code="overhead_bound", text=text))
    return tuple(found)


def off_grid(groups: ModelGroups, removed: Mapping[str, float]) -> tuple[Warned, ...]:
    """Return a warning when groups keep widths that are no multiple of what runs fast on processors.

    Args:
        groups: What the dense model has.
        removed: Group -> share of its units that is gone.
    """
    try:
        grid = SearchSpace(name="grid", description="", sparsity=SparsitySpec(max=0.999)).bind(groups).widths
    except ConfigError:
        return ()
    kept = {n: width_after(groups[n], share) for n, share in removed.items() if n in grid}
    off = [name for name, width in kept.items() if width not in grid[name]]
    if not off:
        return ()
    first, more = off[0], f" and {len(off) - 1} more groups" if len(off) > 1 else ""
    text = (
        f"{first}{more} keep widths that processors use badly: {first} keeps {kept[first]} of {groups[first].width}, "
        f"no multiple of {grid[first][-1]}."
    )
    return (Warned(code="off_grid_width", text=text),)


def disagreements(val: Mapping[str, Estimate], test: Mapping[str, Estimate]) -> tuple[Warned, ...]:
    """Return a warning for each metric whose intervals on val and on test do not even touch."""
    found = []
    for name in val.keys() & test.keys():
        chosen, honest = val[name], test[name]
        if chosen.low > honest.high or honest.low > chosen.high:
            text = (
                f"{name} is {chosen.value:.4g} [{chosen.low:.4g}, {chosen.high:.4g}] on val but {honest.value:.4g} "
                f"[{honest.low:.4g}, {honest.high:.4g}] on test: trust test, and look for a difference of the splits."
            )
            found.append(Warned(code="val_test_differ", text=text))
    return tuple(sorted(found, key=lambda w: w.text))
