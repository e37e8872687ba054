"""Front and records -> the report's smaller tables: predictor, targets, controls, reproduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoprune.report.document import FrontDocument, PredictorInfo
from autoprune.report.endings import why_ended
from autoprune.report.html.numbers import NONE, duration, figure, signed_figure
from autoprune.report.html.quantities import Quantity, cost_of, split_values


@dataclass(frozen=True)
class TrustRow:
    """A figure of the predictor beside the same of cost alone, and what it means."""

    name: str
    value: str
    cost_only: str
    meaning: str


@dataclass(frozen=True)
class ControlRow:
    """What a control found: how many models, and the best of each quantity among them, on val."""

    name: str
    count: int
    best: tuple[str, ...]


def trust_rows(info: PredictorInfo, metric: Quantity) -> tuple[TrustRow, ...]:
    """Return how far predictions were right, all made before the measurement."""
    error, coverage = info.mean_absolute_error, info.coverage_90
    mean_error = NONE if error is None else metric.change(error).removeprefix("+")
    return (
        TrustRow(
            "Rank correlation",
            _optional(info.kendall_tau),
            _optional(info.cost_only.kendall_tau),
            "Kendall's tau over all pairs: 1 = every pair in the right order, 0 = chance",
        ),
        TrustRow(
            "Same-cost concordance",
            _optional(info.same_cost_concordance),
            _optional(info.cost_only.concordance),
            "share of pairs of nearly equal cost in the right order: 0.5 = chance",
        ),
        TrustRow(
            "Coverage of the 90% interval",
            NONE if coverage is None else f"{100 * coverage:.0f}%",
            "",
            "share of measurements inside the stated interval: 90% is right",
        ),
        TrustRow("Mean absolute error", mean_error, "", f"of {metric.label}, on val"),
        TrustRow("Predictions held against measurements", f"{info.n:,}", "", "each made before its measurement"),
    )


def control_rows(front: FrontDocument, quantities: tuple[Quantity, ...]) -> tuple[ControlRow, ...]:
    """Return the controls, each with the best value of the metric and of the cost among its models."""
    shown = (quantities[0], cost_of(quantities))
    found = []
    for name, members in front.controls.items():
        values = [split_values(front, member, "val") for member in members]
        best = []
        for q in shown:
            told = [v[q.key] for v in values if q.key in v]
            best.append(q.shown(max(told) if q.direction == "max" else min(told)) if told else NONE)
        found.append(ControlRow(name, len(members), tuple(best)))
    return tuple(found)


def gain_sentence(front: FrontDocument) -> str:
    """Return the gain over the best control with its interval, or that there is none to tell."""
    gain = front.gain_over_best_control
    if gain is None:
        return "No gain over simpler methods can be told: the run had no controls to compare with."
    proven = "clearly better" if gain.low > 0 else "clearly worse" if gain.high < 0 else "not clearly different"
    return (
        f"Hypervolume against the best control, {gain.control}: {signed_figure(gain.value)} "
        f"[{signed_figure(gain.low)}, {signed_figure(gain.high)}] (95% interval): the search is {proven}."
    )


def effort_sentence(front: FrontDocument) -> str:
    """Return what the run evaluated and how long it took."""
    counts = front.evaluations
    kinds = [(counts.proxy, "by proxy"), (counts.short, "with short recovery"), (counts.full, "with full recovery")]
    told = [f"{number:,} {kind}" for number, kind in kinds if number] or ["no candidates"]
    extra = [(counts.stopped, "stopped early"), (counts.failed, "failed"), (counts.controls, "for controls")]
    told += [f"{number:,} {kind}" for number, kind in extra if number]
    times = [f"{duration(front.wall_seconds)} of wall time", f"{duration(front.cpu_seconds)} of CPU time"]
    times += [f"{duration(front.gpu_seconds)} of GPU time"] if front.gpu_seconds else []
    reason = why_ended(front)
    ended = f" The search ended: {reason}." if reason else ""
    return f"Candidates: {', '.join(told)}. Cost: {', '.join(times)}.{ended}"


def reproduction_rows(front: FrontDocument) -> Iterator[tuple[str, str]]:
    """Yield what it takes to run the search again, and to see that it was the same."""
    made = front.provenance
    yield "Seed", str(made.seed)
    seeds = sorted({m.recovery_seed for m in front.members if m.recovery_seed is not None})
    if seeds:
        yield "Recovery seeds", ", ".join(map(str, seeds))
    yield "autoprune", made.autoprune + (f", commit {made.commit}" if made.commit else "")
    yield "Versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())
    yield "Configuration, SHA-256", made.config_sha256
    yield "Task source, SHA-256", made.task_sha256
    yield "Data fingerprint", made.data_fingerprint
    yield "Reads of the test split", f"{made.test_reads:,}"
    if front.hypervolume:
        ranges = "; ".join(f"{k} {figure(a)} to {figure(b)}" for k, (a, b) in front.hypervolume.normalisation.items())
        corner = ", ".join(figure(v) for v in front.hypervolume.reference)
        yield "Hypervolume", f"{figure(front.hypervolume.value, 4)}, reference ({corner}), from 0 to 1: {ranges}"


def _optional(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}".replace("-", "−")
