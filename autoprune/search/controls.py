"""Space and importance -> the baselines that every run compares itself with, as jobs of their own.

Each control is a sweep from little to much; `count` of its policies, spread evenly over the logarithm of the MACs, are
evaluated like the search's short candidates, with the space's default strategy. They are chosen without looking at any
result but the sensitivities, and scored on val as everything is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution

from autoprune.groups.types import PruningGroup
from autoprune.pareto import spread
from autoprune.policy import Policy
from autoprune.pruning.criteria import normalized
from autoprune.records import CONTROL, CandidateRecord, candidate_id
from autoprune.registry import Registry
from autoprune.search.costs import cost_model
from autoprune.search.executors.base import Job
from autoprune.search.idle import changed_costs
from autoprune.search.objectives import error_like
from autoprune.search.workbench import Workbench
from autoprune.space import LEVEL_PREFIX, BoundSpace

SENSITIVITY = "sensitivity"
FROM_SCRATCH = "from_scratch"
SWEEP_STEPS = 200
DRAWS = 50
CONCENTRATION = 3.0
_EDGE = 1e-3

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int64]
Params = dict[str, Any]
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ControlContext:
    """What a control may look at.

    Args:
        space: The run's space.
        count: Candidates wanted.
        macs: [n, G] widths of the space's groups -> [n] MACs; weights that are not zero, where no MACs change.
        importance: Group name -> [width] l1 importance of its units, divided by the group's mean; empty where weights
            or modules are searched.
        sensitivity: Group name -> (sparsity, loss over the dense model's) of one-shot cuts of that group, ascending.
        rng: Source of draws.
    """

    space: BoundSpace
    count: int
    macs: Callable[[npt.ArrayLike], Floats]
    importance: Mapping[str, Floats]
    sensitivity: Mapping[str, Curve]
    rng: np.random.Generator


@dataclass(frozen=True)
class ControlPlan:
    """What the controls want evaluated.

    Args:
        policies: Control -> its policies. Two controls may want the same policy: they share its record.
        notes: Controls that are left out, and why.
    """

    policies: Mapping[str, tuple[Policy, ...]]
    notes: tuple[str, ...] = field(default=())

    def ids(self) -> dict[str, tuple[str, ...]]:
        """Return control -> ids of its records; a record of the search is its own where the policies are equal."""
        return {name: tuple(candidate_id(p.digest, "short") for p in found) for name, found in self.policies.items()}


Control = Callable[[ControlContext], list[Params]]
CONTROLS: Registry[Control] = Registry("control")
"""Name -> function of a context that returns the parameters of at most `count` policies, fewest MACs first."""


@CONTROLS.register("uniform")
def uniform(context: ControlContext) -> list[Params]:
    """Remove the same share of every group."""
    shares = np.linspace(0.0, context.space.spec.sparsity.max, SWEEP_STEPS)
    return _spread(context, [_levels(context, dict.fromkeys(_names(context.space), share)) for share in shares])


@CONTROLS.register("random")
def random(context: ControlContext) -> list[Params]:
    """Draw every group's share around a mean that is drawn for the candidate, so that all costs occur."""
    most = context.space.spec.sparsity.max
    rows = []
    for mean in context.rng.uniform(_EDGE, 1.0 - _EDGE, size=DRAWS * context.count):
        shape = (CONCENTRATION * mean, CONCENTRATION * (1.0 - mean))
        drawn = most * context.rng.beta(*shape, size=len(context.space.groups))
        rows.append(_levels(context, dict(zip(_names(context.space), drawn, strict=True))))
    return _spread(context, rows)


@CONTROLS.register("global_magnitude")
def global_magnitude(context: ControlContext) -> list[Params]:
    """Cut every unit below one threshold of normalised importance (global ranking of Torch-Pruning, CVPR 2023)."""
    if not context.importance:
        return []
    pooled = np.concatenate([context.importance[name] for name in _names(context.space)])
    rows = []
    for share in np.linspace(0.0, context.space.spec.sparsity.max, SWEEP_STEPS):
        threshold = np.quantile(pooled, share)
        rows.append(_levels(context, {n: float((s < threshold).mean()) for n, s in context.importance.items()}))
    return _spread(context, rows)


@CONTROLS.register("sensitivity_threshold")
def sensitivity_threshold(context: ControlContext) -> list[Params]:
    """Cut every group as far as its own one-shot loss stays under a threshold, for all thresholds (as FastNAS does)."""
    if not context.sensitivity:
        return []
    rises = [_rises(context, name) for name in _names(context.space)]
    thresholds = np.unique(np.concatenate([rise[np.isfinite(rise)] for rise in rises]))
    rows = np.array([[np.flatnonzero(rise <= limit)[-1] for rise in rises] for limit in thresholds])
    return _spread(context, rows)


def plan_controls(bench: Workbench, records: Sequence[CandidateRecord], count: int) -> ControlPlan:
    """Return every control's policies: a function of space, seed, count and the sensitivity records alone.

    Args:
        bench: The driver's workbench.
        records: Of the run so far; the one-shot cuts of single groups bear the origin `sensitivity`.
        count: Candidates a control.
    """
    context = _context(bench, records, count)
    policies: dict[str, tuple[Policy, ...]] = {}
    notes = []
    free = "per_group" in bench.space.branches.scopes
    for index, (name, control) in enumerate(CONTROLS.items()):
        rng = np.random.default_rng([bench.config.search.seed, index])
        wanted = control(replace(context, rng=rng)) if count > 0 and free else []
        policies[name] = tuple(dict.fromkeys(bench.space.policy_of(params) for params in wanted))
        if not wanted and count > 0:
            why = "it has nothing to go by" if free else "groups of this space have no sparsity of their own"
            notes.append(f"The control {name} is left out: {why}.")
    return ControlPlan({name: found for name, found in policies.items() if found}, tuple(notes))


def control_jobs(bench: Workbench, records: Sequence[CandidateRecord], count: int) -> list[Job]:
    """Return the controls' candidates that no short record holds yet, each policy once, fewest MACs first.

    Args:
        bench: The driver's workbench.
        records: Of the run so far.
        count: Candidates a control.
    """
    wanted: dict[Policy, str] = {}
    for name, policies in plan_controls(bench, records, count).policies.items():
        for policy in policies:
            wanted.setdefault(policy, name)
    known = {record.id for record in records}
    first = max((record.number for record in records), default=0) + 1
    left = [(p, n) for p, n in wanted.items() if candidate_id(p.digest, "short") not in known]
    return [Job(first + i, policy, "short", origin=f"{CONTROL}{name}") for i, (policy, name) in enumerate(left)]


def control_records(plan: ControlPlan, records: Sequence[CandidateRecord]) -> dict[str, list[CandidateRecord]]:
    """Return control -> its complete records: those that it wanted, whoever had them evaluated, and its own earlier."""
    complete = {r.id: r for r in records if r.state == "complete"}
    found = {name: {i: complete[i] for i in ids if i in complete} for name, ids in plan.ids().items()}
    for record in complete.values():
        if record.is_control:
            found.setdefault(record.origin.removeprefix(CONTROL), {})[record.id] = record
    return {name: list(own.values()) for name, own in found.items() if own}


def sensitivity_curves(
    records: Sequence[CandidateRecord], loss: Callable[[CandidateRecord], float]
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Return group -> (sparsity, loss over the dense model's), ascending, of the one-shot cuts of single groups.

    A cut of several groups at once counts for each of them: it bounds what each alone would lose.

    Args:
        records: Of the run; without the dense model's record the least loss stands for its.
        loss: Complete record -> value to be minimised.
    """
    cuts = [r for r in records if r.origin == SENSITIVITY and r.state == "complete" and r.fidelity == "proxy"]
    if not cuts:
        return {}
    whole = [loss(r) for r in records if r.state == "complete" and not r.is_control and not pruned(r)]
    dense = whole[0] if whole else min(map(loss, cuts))
    found: dict[str, dict[float, list[float]]] = {}
    for record in cuts:
        for group, sparsity in record.policy["sparsity"].items():
            found.setdefault(group, {}).setdefault(float(sparsity), []).append(loss(record) - dense)
    return {g: tuple((s, float(np.mean(v))) for s, v in sorted(by.items())) for g, by in found.items()}


def pruned(record: CandidateRecord) -> bool:
    """Tell whether a record's policy removes anything."""
    return bool(record.policy["sparsity"] or record.policy.get("amount"))


def _context(bench: Workbench, records: Sequence[CandidateRecord], count: int) -> ControlContext:
    names = _names(bench.space)
    structural = [g for g in bench.space.groups if isinstance(g, PruningGroup)]
    importance = {}
    if len(structural) == len(names):
        scores = normalized(bench.pruner.scores("l1"), bench.groups)
        importance = {g.name: scores[g.start : g.start + g.width] for g in structural}
    costs = cost_model(bench)
    counted = costs.macs if "macs" in changed_costs(bench.space) else costs.nonzero
    curves = sensitivity_curves(records, lambda record: _loss(bench, record))
    return ControlContext(bench.space, count, counted, importance, curves, np.random.default_rng(0))


def _loss(bench: Workbench, record: CandidateRecord) -> float:
    """Return a complete record's value on val that is lower for a better model."""
    evaluation = record.evaluation or {}
    return error_like(bench.task, {n: float(found["value"]) for n, found in evaluation["quality"]["val"].items()})


def _names(space: BoundSpace) -> list[str]:
    return [group.name for group in space.groups]


def _levels(context: ControlContext, shares: Mapping[str, float]) -> Levels:
    """Return [G] levels whose widths are nearest to removing these shares of the groups."""
    space = context.space
    gaps = [np.abs(1.0 - np.array(space.widths[g.name]) / g.width - shares[g.name]) for g in space.groups]
    return np.array([int(gap.argmin()) for gap in gaps], dtype=np.int64)


def _rises(context: ControlContext, name: str) -> Floats:
    """Return [levels] the loss that each width of a group costs by its curve; infinite past an unmeasured group's."""
    group = next(g for g in context.space.groups if g.name == name)
    removed = 1.0 - np.array(context.space.widths[name]) / group.width
    curve = context.sensitivity.get(name)
    if not curve:
        return np.where(removed > 0.0, np.inf, 0.0)
    known = np.array([(0.0, 0.0), *curve])
    sparsity, rise = known[:, 0], np.maximum.accumulate(known[:, 1])
    beyond = np.maximum(removed - sparsity[-1], 0.0)
    slope = (rise[-1] - rise[-2]) / (sparsity[-1] - sparsity[-2])
    return np.asarray(np.interp(removed, sparsity, rise) + slope * beyond)


def _spread(context: ControlContext, rows: Sequence[Levels] | Levels) -> list[Params]:
    """Return the parameters of `count` different rows [n, G] of levels, spread over the MACs; never the dense model."""
    levels = np.unique(np.asarray(rows, dtype=np.int64), axis=0)
    levels = levels[levels.any(axis=1)]
    if not len(levels):
        return []
    table = [context.space.widths[name] for name in _names(context.space)]
    widths = np.array([[widths[level] for widths, level in zip(table, row, strict=True)] for row in levels])
    chosen = spread(np.log(context.macs(widths))[:, None], context.count)
    keys = [LEVEL_PREFIX + name for name in _names(context.space)]
    strategy = _magnitude(context.space)
    return [strategy | dict(zip(keys, map(int, levels[i]), strict=True)) for i in chosen]


def _magnitude(space: BoundSpace) -> Params:
    """Return the choices that rank units by l1, where the space knows it; all others keep the space's default.

    Of granularity and scope those are taken under which most groups have a level of their own.
    """
    ranked = {
        name: "l1"
        for name, dist in space.distributions().items()
        if name.startswith("criterion") and isinstance(dist, CategoricalDistribution) and "l1" in dist.choices
    }
    return space.uniform(0.0) | ranked
