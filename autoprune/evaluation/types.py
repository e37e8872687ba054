"""Deployed form -> numbers: what was measured. Predicted numbers have another type, so neither passes for the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval.

    Args:
        value: Point estimate.
        low: Lower bound.
        high: Upper bound.
        n: Number of resampling units.
        unit: What the units are.
        method: How the interval was made, such as `wilson` or `bootstrap-1000`.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    method: str


@dataclass(frozen=True)
class PairedChange:
    """Change of a metric against the dense model on the same units (pruned - dense, in the metric's own unit).

    Args:
        delta: Mean change.
        low: Lower 95% bound.
        high: Upper 95% bound.
        test: Method of the interval.
        noninferior: Whether the worse bound stays within `margin`.
        margin: Tolerated loss, positive, in the metric's own unit.
    """

    delta: float
    low: float
    high: float
    test: str
    noninferior: bool
    margin: float


@dataclass(frozen=True)
class Agreement:
    """How far a model answers as the dense model does on the same units, whether rightly or wrongly.

    Args:
        same: Share of units of equal predicted class, of outputs that are logits.
        kl: Mean Kullback-Leibler divergence of softened outputs from the dense model's, nats; of logits.
        rmse: Root mean square of the difference of outputs, in their own unit; of regressions.
    """

    same: Interval | None = None
    kl: float | None = None
    rmse: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """Accuracy on the units of one class.

    Args:
        number: Of the class.
        accuracy: Share of them that is told rightly.
        change: Against the dense model; None of the dense model itself.
    """

    number: int
    accuracy: Interval
    change: PairedChange | None = None


@dataclass(frozen=True)
class Latency:
    """Latency of one call on a target, with its speed-up over the dense model measured in the same rounds.

    Args:
        ms: Minimum over clean samples, milliseconds a batch.
        low: Lower 95% bound of `ms`.
        high: Upper 95% bound of `ms`.
        samples: Samples kept.
        speedup: dense / pruned, > 1 is faster.
        speedup_low: Lower 95% bound.
        speedup_high: Upper 95% bound.
        clean: Whether enough samples were free of foreign load.
        polluted_share: Share of samples dropped because wall time exceeded CPU time.
        dense_ms: The dense model's latency in the same rounds.
        quantiles_ms: Quantiles of the clean samples at 5%, 25%, 50%, 75% and 95%; empty where they are unknown.
    """

    ms: float
    low: float
    high: float
    samples: int
    speedup: float
    speedup_low: float
    speedup_high: float
    clean: bool
    polluted_share: float
    dense_ms: float
    quantiles_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Size of a model: counts, and bytes of its weights.

    Args:
        parameters: Number of parameters.
        nonzero: Parameters that are not zero.
        macs: Multiply-accumulates of one example.
        bytes: Bytes of all parameters and buffers.
        compressed_bytes: The same after zlib: what transmission costs.
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int
    compressed_bytes: int


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one candidate.

    Args:
        quality: Split -> metric -> value with interval, on the first target's deployed form.
        latency: Target name -> latency.
        cost: Size.
        versus_dense: Metric -> paired change on val.
        seconds: Stage -> wall seconds spent.
        agreement: With the dense model on val; None where the task gives no outputs.
    """

    quality: Mapping[str, Mapping[str, Interval]]
    latency: Mapping[str, Latency]
    cost: Cost
    versus_dense: Mapping[str, PairedChange] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    agreement: Agreement | None = None
