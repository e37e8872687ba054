"""Members -> rows that tables and picks show: every figure as text, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.report.document import FrontDocument, LatencyResult, Member
from autoprune.report.html.numbers import NONE, about, amount, data_size, figure, times
from autoprune.report.html.quantities import Quantity, Split, split_shown
from autoprune.report.parts import Change, Estimate
from autoprune.report.rows import asked_metrics

PICKS = {
    "balanced": ("balanced", "diamond", "s-balanced"),
    "most_accurate": ("most accurate", "up", "s-accurate"),
    "fastest": ("fastest", "right", "s-fastest"),
    "smallest": ("smallest", "square", "s-smallest"),
}
CARD_ORDER = ("most_accurate", "balanced", "fastest", "smallest")


@dataclass(frozen=True)
class Look:
    """How a model is marked everywhere: shape and class of its colour."""

    shape: str
    css: str


@dataclass(frozen=True)
class Shown:
    """A figure as text, with its 95% interval where it has one."""

    value: str
    interval: str = ""
    n: int = 0
    unit: str = ""


@dataclass(frozen=True)
class ChangeShown:
    """A paired change against the dense model as text; `verdict` says whether it is within the margin."""

    value: str
    interval: str
    noninferior: bool
    margin: str


@dataclass(frozen=True)
class ModelRow:
    """Everything about one model that a reader is shown."""

    id: str
    name: str
    look: Look
    picks: tuple[str, ...]
    strategy: str
    feasible: bool
    metrics: tuple[Shown, ...]
    changes: tuple[ChangeShown | None, ...]
    latency: Shown
    speedup: Shown
    clean: bool
    size: str
    smaller: str
    parameters: str
    macs: str
    warnings: tuple[str, ...]
    command: str
    directory: str


@dataclass(frozen=True)
class Models:
    """The dense model and the members as rows, and the metrics that are their columns."""

    metrics: tuple[Quantity, ...]
    split: Split
    dense: ModelRow
    members: tuple[ModelRow, ...]

    def row(self, identity: str) -> ModelRow:
        """Return the row of a member."""
        return next(row for row in self.members if row.id == identity)


def models_of(front: FrontDocument, quantities: Sequence[Quantity], commands: dict[str, str]) -> Models:
    """Return all rows of a front."""
    split = split_shown(front)
    metrics = metrics_of(front, quantities)
    maker = _Rows(front, metrics, split, commands)
    return Models(metrics, split, maker.row(front.baseline), tuple(maker.row(member) for member in front.members))


def metrics_of(front: FrontDocument, quantities: Sequence[Quantity]) -> tuple[Quantity, ...]:
    """Return the metrics that were asked for: objectives first, others as plain values."""
    known = {q.key: q for q in quantities}
    found = [known.get(name) or Quantity(name, "max", "value") for name in asked_metrics(front)]
    return tuple(sorted(found, key=lambda q: list(known).index(q.key) if q.key in known else len(known)))


def look_of(front: FrontDocument, member: Member) -> Look:
    """Return how a member is marked: by the first pick it is, in the order balanced to smallest."""
    roles = roles_of(front, member)
    for name, (_, shape, css) in PICKS.items():
        if name in roles:
            return Look(shape, css)
    return Look("circle", "s-member")


def roles_of(front: FrontDocument, member: Member) -> set[str]:
    """Return which picks a member is."""
    return {name for name, identity in front.picks.items() if identity == member.id}


def ratio_text(ratio: float, better: str, worse: str, same: str) -> str:
    """Return a ratio in words: `4.1x smaller`, `1.2x larger` or `the same size`; nothing of what is no ratio."""
    if not 0.0 < ratio < math.inf:
        return NONE
    if 0.995 < ratio < 1.005:
        return same
    return f"{about(ratio)} {better}" if ratio > 1 else f"{about(1 / ratio)} {worse}"


def smaller_text(front: FrontDocument, member: Member) -> str:
    """Return how much smaller a member is than the dense model, by its bytes."""
    return ratio_text(front.baseline.bytes / max(member.bytes, 1), "smaller", "larger", "the same size")


def estimate_shown(metric: Quantity, estimate: Estimate | None) -> Shown:
    """Return a metric with its interval."""
    if estimate is None:
        return Shown(NONE)
    interval = f"[{metric.bare(estimate.low)}, {metric.bare(estimate.high)}]"
    return Shown(metric.shown(estimate.value), interval, estimate.n, estimate.unit)


def change_shown(metric: Quantity, change: Change | None) -> ChangeShown | None:
    """Return a paired change with its interval and its margin."""
    if change is None:
        return None
    interval = f"[{metric.bare_change(change.low)}, {metric.bare_change(change.high)}]"
    margin = f"{100 * change.margin:.3g} points" if metric.kind == "fraction" else figure(change.margin)
    return ChangeShown(metric.change(change.delta), interval, change.noninferior, margin)


def speedup_shown(latency: LatencyResult | None) -> Shown:
    """Return a speed-up with its interval."""
    if latency is None:
        return Shown(NONE)
    return Shown(times(latency.speedup), f"[{latency.speedup_low:.2f}, {latency.speedup_high:.2f}]")


@dataclass(frozen=True)
class _Rows:
    front: FrontDocument
    metrics: Sequence[Quantity]
    split: Split
    commands: dict[str, str]

    def row(self, member: Member) -> ModelRow:
        front = self.front
        deployed, dense = front.deployment(member), member is front.baseline
        latency = deployed.latency
        measured = deployed.quality.test if self.split == "test" else deployed.quality.val
        span = f"[{figure(latency.low)}, {figure(latency.high)}]" if latency else ""
        return ModelRow(
            id=member.id,
            name=member.name,
            look=Look("star", "s-dense") if dense else look_of(front, member),
            picks=tuple(PICKS[name][0] for name in CARD_ORDER if name in roles_of(front, member)),
            strategy=member.strategy,
            feasible=member.feasible,
            metrics=tuple(estimate_shown(m, measured.get(m.key)) for m in self.metrics),
            changes=tuple(None if dense else change_shown(m, deployed.versus_dense.get(m.key)) for m in self.metrics),
            latency=Shown(f"{figure(latency.ms)} ms", span) if latency else Shown(NONE),
            speedup=speedup_shown(latency),
            clean=latency is None or latency.clean,
            size=data_size(member.bytes),
            smaller="" if dense else smaller_text(front, member),
            parameters=amount(member.parameters),
            macs=amount(member.macs),
            warnings=tuple(warning.text for warning in member.warnings),
            command=self.commands.get(member.id, ""),
            directory=member.directory or "",
        )
