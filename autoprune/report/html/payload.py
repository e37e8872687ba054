"""Front, rows and figures -> what the page's script works with, as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from autoprune.errors import ConfigError
from autoprune.report.document import FrontDocument
from autoprune.report.html.commands import prefix_of
from autoprune.report.html.figures import Figure
from autoprune.report.html.quantities import Quantity
from autoprune.requirements import parse_requirement


def payload(front: FrontDocument, quantities: Sequence[Quantity], figures: Iterable[Figure]) -> dict[str, Any]:
    """Return the charts by id, and the models with the figures that `pick` goes by."""
    asked = demandable(quantities)
    keys = dict.fromkeys([front.metric.name, "latency_ms", *(q.key for q in asked)])
    return {
        "prefix": prefix_of(front),
        "metric": {"key": front.metric.name, "sign": quantities[0].sign},
        "quantities": [
            {"key": q.key, "label": q.label, "kind": q.kind, "direction": q.direction, "log": q.log} for q in asked
        ],
        "models": [
            {
                "id": member.id,
                "name": member.name,
                "feasible": member.feasible,
                "values": {key: front.values(member).get(key) for key in keys},
            }
            for member in front.members
        ],
        "charts": {figure.id: figure.chart.live() for figure in figures},
    }


def demandable(quantities: Sequence[Quantity]) -> list[Quantity]:
    """Return the quantities whose names a demand on the command line can hold."""
    found = []
    for quantity in quantities:
        try:
            parse_requirement(f"{quantity.key}>=0")
        except ConfigError:
            continue
        found.append(quantity)
    return found
