"""Front document -> rows of figures and of text, for every kind of table."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.report.document import Estimate, FrontDocument, Member

Cell = str | int | float | bool | None


def member_rows(front: FrontDocument, *, baseline: bool = False) -> list[dict[str, Cell]]:
    """Return one flat row of figures a member, in the front's order; `baseline` puts the dense model first.

    Latency columns are those of the first target; other targets' columns end in `@TARGET`.
    """
    members = [front.baseline, *front.members] if baseline else list(front.members)
    return [_figures(front, member) for member in members]


def text_table(front: FrontDocument) -> tuple[list[str], list[list[str]]]:
    """Return (headers, rows) for readers, the dense model first."""
    metrics = list(dict.fromkeys(n for m in (front.baseline, *front.members) for n in front.estimates(m)))
    headers = ["model", *(_metric_header(front, name) for name in metrics), "latency ms", "speed-up [95%]"]
    headers += ["parameters", "MACs", "bytes"]
    rows = [_texts(front, member, metrics) for member in (front.baseline, *front.members)]
    return headers, rows


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
    cells = [member.name, *(_interval(estimates.get(name)) for name in metrics)]
    if latency is None:
        cells += ["–", "–"]
    else:
        flag = "" if latency.clean else " (noisy)"
        speedup = f"{latency.speedup:.2f}x [{latency.speedup_low:.2f}, {latency.speedup_high:.2f}]"
        cells += [f"{latency.ms:.4g}{flag}", speedup]
    return [*cells, f"{member.parameters:,}", f"{member.macs:,}", f"{member.bytes:,}"]


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _metric_header(front: FrontDocument, metric: str) -> str:
    read = any(metric in front.deployment(m).quality.test for m in (front.baseline, *front.members))
    return f"{metric} {'test' if read else 'val'} [95%]"
