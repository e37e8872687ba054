"""Front -> which model to take, and why to believe it."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.report.document import FrontDocument, Member
from autoprune.report.html.models import PICKS, ModelRow, Models, ratio_text, smaller_text
from autoprune.report.html.quantities import Quantity

_ORDER = ("balanced", "most_accurate", "fastest", "smallest")


@dataclass(frozen=True)
class Verdict:
    """The answer of the report.

    Args:
        row: The model to take; None where there is none.
        role: Which pick it is.
        gains: Size and speed against the dense model.
        change: Change of the first metric with its interval; empty where it was not compared.
        reasons: One sentence each.
        problem: Why there is no model to take.
    """

    row: ModelRow | None = None
    role: str = ""
    gains: str = ""
    change: str = ""
    reasons: tuple[str, ...] = ()
    problem: str = ""


def verdict_of(front: FrontDocument, models: Models, quantities: tuple[Quantity, ...]) -> Verdict:
    """Return the verdict on the balanced pick, or on the next one that there is."""
    if not front.members:
        return Verdict(
            problem="There is no model to take: no finalist was better than the dense model. "
            "Search again with a larger budget under another name."
        )
    role, member = _chosen(front)
    row = models.row(member.id)
    gains = [smaller_text(front, member)]
    latency = front.deployment(member).latency
    if latency is not None:
        gains.append(ratio_text(latency.speedup, "faster", "slower", "as fast"))
    metric = quantities[0]
    index = next((i for i, m in enumerate(models.metrics) if m.key == metric.key), None)
    compared = row.changes[index] if index is not None else None
    change = f"{compared.value} of {metric.label} {compared.interval}" if compared else ""
    return Verdict(
        row, role, " and ".join(gains), change, tuple(_reasons(front, models, row, metric) + _limits(member))
    )


def _chosen(front: FrontDocument) -> tuple[str, Member]:
    members = {member.id: member for member in front.members}
    picks = {str(name): identity for name, identity in front.picks.items()}
    for name in _ORDER:
        if name in picks:
            return PICKS[name][0], members[picks[name]]
    return "first of the front", front.members[0]


def _reasons(front: FrontDocument, models: Models, row: ModelRow, metric: Quantity) -> list[str]:
    """Return what was measured, on what, and whether the loss is within the margin."""
    found = []
    split = "test data, which the search never saw" if models.split == "test" else "the search's own validation data"
    index = next((i for i, m in enumerate(models.metrics) if m.key == metric.key), None)
    if index is not None:
        shown, dense, change = row.metrics[index], models.dense.metrics[index], row.changes[index]
        where = f"on {split} (n = {shown.n:,} {shown.unit}s)" if shown.n else f"on {split}"
        found.append(
            f"Its {metric.label} is {shown.value} {shown.interval} {where}; the dense model has {dense.value}."
        )
        if change is not None:
            found.append(_noninferiority(change.noninferior, change.margin, metric.label))
    member = next(m for m in front.members if m.id == row.id)
    latency, target = front.deployment(member).latency, front.targets[front.first_target]
    if latency is not None:
        threads = "1 thread" if target.threads == 1 else f"{target.threads} threads"
        found.append(
            f"The speed-up is {row.speedup.value} {row.speedup.interval}, timed side by side with the dense model on "
            f"{front.first_target} (batch {target.batch}, {threads}, {target.device})."
        )
    return found


def _noninferiority(proven: bool, margin: str, label: str) -> str:
    if proven:
        return f"It is non-inferior: the whole 95% interval of the paired change lies within the margin of {margin}."
    return (
        f"Non-inferiority is not shown: the 95% interval of the paired change reaches beyond the margin of {margin}, "
        f"so a larger loss of {label} cannot be ruled out."
    )


def _limits(member: Member) -> list[str]:
    found = [] if member.feasible else ["It does not satisfy the constraints of the run."]
    return found + [f"Note: {warning.text}" for warning in member.warnings]
