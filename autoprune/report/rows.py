"""Front document -> rows of figures and of text, for every kind of table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoprune.markup import interval_text
from autoprune.report.document import FrontDocument, Member, PredictorInfo
from autoprune.report.parts import Change, Estimate

Cell = str | int | float | bool | None


def member_rows(front: FrontDocument, *, baseline: bool = False) -> list[dict[str, Cell]]:
    """Return one flat row of figures a member, in the front's order; `baseline` puts the dense model first.

    Latency columns are those of the first target; other targets' columns end in `@TARGET`.
    """
    members = [front.baseline, *front.members] if baseline else list(front.members)
    return [_figures(front, member) for member in members]


def text_table(front: FrontDocument) -> tuple[list[str], list[list[str]]]:
    """Return (headers, rows) for readers, the dense model first; of the metrics those that were asked for."""
    metrics = asked_metrics(front)
    headers = ["model", *(_metric_header(front, name) for name in metrics), "no loss", "latency ms", "speed-up [95%]"]
    headers += ["parameters", "MACs", "bytes"]
    rows = [_texts(front, member, metrics) for member in (front.baseline, *front.members)]
    return headers, rows


def asked_metrics(front: FrontDocument) -> list[str]:
    """Return the members' metrics that a reader asked for: objectives and what a constraint names."""
    found = dict.fromkeys(n for m in (front.baseline, *front.members) for n in front.estimates(m))
    asked = {o.name for o in front.objectives} | _constrained(front)
    return [name for name in found if name in asked]


def remarks(front: FrontDocument) -> list[str]:
    """Return what is to be said of a front beside its table: one plain line each, where it is known."""
    lines = []
    if front.picks:
        names = {member.id: member.name for member in front.members}
        lines.append("; ".join(f"{what.replace('_', ' ')}: {names[ident]}" for what, ident in front.picks.items()))
    margins = {c.margin for m in front.members if (c := _change(front, m)) is not None}
    if len(margins) == 1:
        margin = f"{margins.pop():.3g}"
        lines.append(f"no loss: {front.metric.name} at most {margin} worse than the dense model's, with 95% confidence")
    gain = front.gain_over_best_control
    if gain is not None:
        interval = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        lines.append(f"hypervolume gained over the best control, {gain.control.replace('_', ' ')}: {interval}")
    if front.predictor is not None:
        lines.append(_predictor(front.predictor))
    return lines


def _figures(front: FrontDocument, member: Member) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "id": member.id,
        "name": member.name,
        "directory": member.directory,
        "strategy": member.strategy,
        "feasible": member.feasible,
    }
    for split, estimates in front.deployment(member).quality:
        for metric, estimate in estimates.items():
            key = f"{metric}_{split}"
            row |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    for metric, change in front.deployment(member).versus_dense.items():
        row |= {f"{metric}_delta": change.delta, f"{metric}_noninferior": change.noninferior}
    for target in front.targets:
        latency = member.deployments[target].latency if target in member.deployments else None
        suffix = "" if target == front.first_target else f"@{target}"
        for name, field in (("latency_ms", "ms"), ("speedup", "speedup")):
            for end in ("", "_low", "_high"):
                source = f"{field}{end}" if field == "speedup" or not end else end[1:]
                row[f"{name}{end}{suffix}"] = None if latency is None else getattr(latency, source)
        row[f"latency_clean{suffix}"] = None if latency is None else latency.clean
    for size in ("parameters", "nonzero", "macs", "bytes", "compressed_bytes", "peak_memory_bytes"):
        row[size] = getattr(member, size)
    return row


def _texts(front: FrontDocument, member: Member, metrics: Sequence[str]) -> list[str]:
    estimates = front.estimates(member)
    latency = front.deployment(member).latency
    change = _change(front, member)
    cells = [member.name, *(_interval(estimates.get(name)) for name in metrics)]
    cells.append("–" if change is None else "yes" if change.noninferior else "not shown")
    if latency is None:
        cells += ["–", "–"]
    else:
        flag = "" if latency.clean else " (noisy)"
        speedup = f"{latency.speedup:.2f}x [{latency.speedup_low:.2f}, {latency.speedup_high:.2f}]"
        cells += [f"{latency.ms:.4g}{flag}", speedup]
    return [*cells, f"{member.parameters:,}", f"{member.macs:,}", f"{member.bytes:,}"]


def _change(front: FrontDocument, member: Member) -> Change | None:
    """Return a member's paired change of the first objective; None of the dense model."""
    return front.deployment(member).versus_dense.get(front.metric.name)


def _constrained(front: FrontDocument) -> set[str]:
    """Return the names that the constraints speak of, such as `recall` in `recall>=0.9`."""
    return {re.split(r"[<>=() ]", constraint.expression, maxsplit=1)[0] for constraint in front.constraints}


def _predictor(info: PredictorInfo) -> str:
    figures = [
        ("rank correlation", info.kendall_tau, info.cost_only.kendall_tau),
        ("same-cost concordance", info.same_cost_concordance, info.cost_only.concordance),
    ]
    told = [f"{name} {ours:.2f} (cost alone {_figure(cost)})" for name, ours, cost in figures if ours is not None]
    if info.coverage_90 is not None:
        told.append(f"{info.coverage_90:.0%} inside its 90% interval")
    line = f"predictor, on {info.n} candidates it had not seen: {', '.join(told) or 'too few to tell'}"
    return f"{line}; set aside: {info.fallback_reason or 'no better than its prior'}" if info.fallback_used else line


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return interval_text(estimate.value, estimate.low, estimate.high)


def _metric_header(front: FrontDocument, metric: str) -> str:
    read = any(metric in front.deployment(m).quality.test for m in (front.baseline, *front.members))
    return f"{metric} {'test' if read else 'val'} [95%]"
