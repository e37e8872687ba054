"""Objectives of a front -> quantities: how each is called, written, and drawn on an axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from autoprune.markup import printable
from autoprune.report.document import FrontDocument, Member, Objective
from autoprune.report.html.charts import Kind
from autoprune.report.html.numbers import amount, data_size, figure, signed, signed_figure

Split = Literal["test", "val"]
Values = Mapping[str, float]

_KINDS: Mapping[str, Kind] = {"fraction": "fraction", "ms": "ms", "bytes": "bytes", "count": "count"}
_LABELS = {
    "latency_ms": "latency",
    "macs": "MACs",
    "bytes": "size",
    "compressed_bytes": "compressed size",
    "nonzero": "non-zero parameters",
    "speedup": "speed-up",
}
_SHOW: Mapping[Kind, Callable[[float], str]] = {
    "fraction": lambda v: f"{100 * v:.1f}%",
    "ms": lambda v: f"{figure(v)} ms",
    "bytes": data_size,
    "count": amount,
    "value": lambda v: figure(v, 4),
}


@dataclass(frozen=True)
class Quantity:
    """One figure of a model that models are compared by.

    Args:
        key: Its name in the document.
        direction: Which way is better.
        kind: How it is written.
        log: Whether differences count as ratios.
    """

    key: str
    direction: Literal["min", "max"]
    kind: Kind
    log: bool = False

    @property
    def label(self) -> str:
        """What it is called in a sentence."""
        return _LABELS.get(self.key, printable(self.key).replace("_", " "))

    @property
    def title(self) -> str:
        """What an axis is called."""
        unit = {"fraction": " (%)", "ms": " (ms)"}.get(self.kind, "")
        return f"{self.label}{unit}"

    @property
    def sign(self) -> float:
        """Factor that makes it one to minimise."""
        return -1.0 if self.direction == "max" else 1.0

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return _SHOW[self.kind](value)

    def bare(self, value: float) -> str:
        """Return a value without its unit, for intervals."""
        return f"{100 * value:.1f}" if self.kind == "fraction" else self.shown(value).removesuffix(" ms")

    def drawn(self, value: float) -> float:
        """Return a value in the unit of its axis: fractions are drawn in percent."""
        return 100 * value if self.kind == "fraction" else value

    def change(self, delta: float) -> str:
        """Return a change with sign and unit; fractions change by points."""
        return f"{self.bare_change(delta)} points" if self.kind == "fraction" else self.bare_change(delta)

    def bare_change(self, delta: float) -> str:
        """Return a change with its sign and no unit."""
        return signed(100 * delta) if self.kind == "fraction" else signed_figure(delta)


def quantities_of(front: FrontDocument) -> tuple[Quantity, ...]:
    """Return the objectives as quantities, at least two: a single one is shown against latency, or against size."""
    found = tuple(_quantity(objective) for objective in front.objectives)
    if len(found) > 1:
        return found
    models = (front.baseline, *front.members)
    timed = all(front.deployment(model).latency is not None for model in models)
    other = Quantity("latency_ms", "min", "ms", log=True) if timed else Quantity("bytes", "min", "bytes", log=True)
    return (*found, other)


def cost_of(quantities: tuple[Quantity, ...]) -> Quantity:
    """Return what the first quantity is drawn against: latency where it counts, else the last one."""
    return next((q for q in quantities[1:] if q.key == "latency_ms"), quantities[-1])


def split_values(front: FrontDocument, member: Member, split: Split) -> dict[str, float]:
    """Return the figures of a member with the metrics of one split alone."""
    quality = front.deployment(member).quality
    metrics = {*quality.val, *quality.test}
    measured = {name: e.value for name, e in (quality.test if split == "test" else quality.val).items()}
    return {k: v for k, v in front.values(member).items() if k not in metrics} | measured


def split_shown(front: FrontDocument) -> Split:
    """Return the split whose figures stand for the members: test where it was read."""
    models = (front.baseline, *front.members)
    read = any(front.metric.name in front.deployment(m).quality.test for m in models)
    return "test" if read else "val"


def _quantity(objective: Objective) -> Quantity:
    kind = _KINDS.get(objective.unit, "value")
    return Quantity(objective.name, objective.direction, kind, objective.scale == "log")
