"""Pre-flight: what a run would search, what it starts from, how far it can get, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoprune.config import LoadedConfig
from autoprune.evaluation.types import Evaluation, Interval, Latency
from autoprune.groups.types import PruningGroup
from autoprune.pruning import Recovery
from autoprune.search.budget import CONTROL_KINDS, EMISSIONS
from autoprune.search.describe import parts_by_kind
from autoprune.search.directory import RunDirectory
from autoprune.search.objectives import constraints_of
from autoprune.search.phases import proxy_evaluations
from autoprune.search.reach import measure_floor, refuse_unreachable
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef, check_task
from autoprune.tasks.protocol import Task

PROBE_STEPS = 4


@dataclass(frozen=True)
class GroupRow:
    """A prunable group or part: what makes its units, its dense width and the widths it may take."""

    name: str
    granularity: str
    width: int
    widths: tuple[int, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ProtectedRow:
    """A layer that stays whole, and why."""

    name: str
    kind: str
    width: int
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What is known before a run.

    Args:
        name: Run name.
        tracer: What found the groups.
        groups: Prunable groups.
        protected: Layers that stay whole.
        space_size_log10: Decimal logarithm of the number of policies.
        parameters: Parameters of the dense model.
        macs: Multiply-accumulates of one example on the dense model.
        baseline: Metric -> quality of the dense model on val.
        latency: Target -> latency of the dense model.
        floor: Target -> latency with every group at its least width: no policy of the space is faster.
        estimate_seconds: Rough wall time of the whole run.
        warnings: What a user should know before spending the time.
        bytes: Bytes of the dense model's parameters and buffers.
        floor_parameters: Parameters with every group at its least width.
        floor_macs: Multiply-accumulates of one example with every group at its least width.
        floor_bytes: Bytes with every group at its least width.
        parts: What else can be pruned, without slicing: kind -> weight tensors, blocks, activations and so on.
    """

    name: str
    tracer: str
    groups: tuple[GroupRow, ...]
    protected: tuple[ProtectedRow, ...]
    space_size_log10: float
    parameters: int
    macs: int
    baseline: Mapping[str, Interval]
    latency: Mapping[str, Latency]
    floor: Mapping[str, Latency]
    estimate_seconds: float
    warnings: tuple[str, ...]
    bytes: int = 0
    floor_parameters: int = 0
    floor_macs: int = 0
    floor_bytes: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"schema_version": "1.0", **asdict(self)}


def check(loaded: LoadedConfig) -> CheckReport:
    """Load model and data, find the groups, measure the dense model and the floor.

    Raises:
        ConfigError: A setting does not fit the task, or a constraint cannot be met.
        TaskError: The task, its model or its data are unusable.
        GroupError: Nothing can be pruned.
        OutputError: The output cannot be written.
    """
    run_directory_of(loaded).check()
    reference, task, warnings = load_checked_task(loaded)
    bench = Workbench(setup_of(loaded, reference), task)
    bench.require_dense()
    dense = bench.evaluate(bench.model, seed=0, rounds=bench.config.latency.rounds, seconds={})
    floor = measure_floor(bench)
    constraints = constraints_of(bench.config, bench.task, dense.quality["val"][bench.task.metrics[0].name].value)
    refuse_unreachable(bench, constraints, floor)
    return CheckReport(
        name=bench.config.name,
        tracer=bench.groups.tracer,
        groups=tuple(
            GroupRow(
                g.name,
                bench.space.kind(g),
                g.width,
                bench.space.widths[g.name],
                g.layers if isinstance(g, PruningGroup) else g.members,
            )
            for g in bench.space.groups
        ),
        protected=tuple(ProtectedRow(p.name, p.kind, p.width, p.reason) for p in bench.groups.protected),
        space_size_log10=bench.space.size_log10(),
        parameters=dense.cost.parameters,
        macs=dense.cost.macs,
        baseline=dense.quality["val"],
        latency=dense.latency,
        floor=floor.latency,
        floor_parameters=floor.cost.parameters,
        floor_macs=floor.cost.macs,
        floor_bytes=floor.cost.bytes,
        bytes=dense.cost.bytes,
        parts=parts_by_kind(bench.groups),
        estimate_seconds=_estimate(bench, dense),
        warnings=(*warnings, *bench.groups.notes, *bench.space.notes),
    )


def load_checked_task(loaded: LoadedConfig) -> tuple[TaskRef, Task, list[str]]:
    """Return the task of a configuration with its reference and the warnings of its checks.

    Raises:
        TaskError: The task, its model or its data are unusable.
    """
    reference = TaskRef(loaded.config.task, loaded.config.task_args, loaded.base)
    task = reference.load()
    return reference, task, check_task(task)


def setup_of(loaded: LoadedConfig, reference: TaskRef) -> Setup:
    """Return what a run's workers build."""
    return Setup(loaded.config, reference, loaded.base, run_directory_of(loaded).path)


def run_directory_of(loaded: LoadedConfig) -> RunDirectory:
    """Return the directory of a configuration's run."""
    return RunDirectory(Path(loaded.config.output) / loaded.config.name)


def _estimate(bench: Workbench, dense: Evaluation) -> float:
    """Return the rough wall seconds of a run: training steps timed at both ends of the space, plus measurements."""
    budget, search = bench.config.recovery, bench.config.search
    per_step, device = [], bench.devices[0]
    for policy in (bench.space.smallest(), bench.space.policy_of(bench.space.uniform(0.25))):
        started = time.monotonic()
        bench.pruner.prune(policy, Recovery(PROBE_STEPS, budget.batch_size, budget.batch_size, device=device))
        per_step.append((time.monotonic() - started) / PROBE_STEPS)
    step = sum(per_step) / len(per_step)
    measuring = sum(dense.seconds.values())
    proxies = proxy_evaluations(bench.config, len(bench.space.groups))
    shorts = search.budget.evaluations + CONTROL_KINDS * search.controls
    fulls = budget.finalists * budget.seeds
    jobs = (
        proxies * measuring
        + shorts * (budget.short_steps * step + measuring)
        + fulls * (budget.full_steps * step + measuring)
    )
    total = jobs / search.workers + budget.finalists * EMISSIONS * measuring
    limit = search.budget.minutes
    return total if limit is None else min(total, 60.0 * limit)
