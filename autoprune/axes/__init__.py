"""Declarations of every value of every axis: what it is called, needs, excludes and where it comes from. No torch here.

The functions themselves register in `autoprune.pruning`; a test holds both lists equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from autoprune.axes import criteria, values
from autoprune.axes.presets import PRESETS
from autoprune.axes.types import Axis, AxisValue, Capability, Level, Preset

__all__ = [
    "AXES",
    "EDITS",
    "MASKED",
    "PRESETS",
    "STRUCTURED",
    "TENSORS",
    "Axis",
    "AxisValue",
    "Capability",
    "Level",
    "Preset",
    "exclusions",
    "refusal",
]

_TABLES = (
    criteria.CRITERIA,
    criteria.NORMALIZATIONS,
    values.GRANULARITIES,
    values.SCOPES,
    values.SELECTIONS,
    values.SCHEDULES,
    values.REGULARIZERS,
    values.REGROWTHS,
    values.RECOVERIES,
    values.OPTIMIZERS,
)

AXES: Mapping[str, Mapping[str, AxisValue]] = MappingProxyType(
    {table[0].axis: MappingProxyType({v.name: v for v in table}) for table in _TABLES}
)

STRUCTURED = ("channel", "head", "ffn", "scale")
"""Granularities that work on the units of structural groups."""

MASKED = ("weight", "n_m", "block")
"""Granularities that keep zeros in place: no shape changes."""

TENSORS = (*MASKED, "rank")
"""Granularities that work on single weight tensors."""

EDITS = ("depth", "activation", "norm", "pooling", "bias")
"""Granularities that take modules or parameters out of the module tree."""


def refusal(point: Mapping[str, str]) -> str | None:
    """Return why values of some axes make no sense together; None where they do.

    Args:
        point: Axis -> value; axes left out are not looked at.
    """
    for axis, name in point.items():
        value = AXES[axis][name]
        for other, why in value.excludes.items():
            other_axis, _, other_name = other.partition("=")
            if point.get(other_axis) == other_name:
                return f"{axis} {name!r} does not go with {other_axis} {other_name!r}: {why}"
    granularity, criterion = point.get("granularity"), point.get("criterion")
    if granularity is None or criterion is None:
        return None
    able = _RANKS.get(granularity)
    if able is not None and criterion not in able:
        return (
            f"criterion {criterion!r} does not go with granularity {granularity!r}: it is ranked by {', '.join(able)}"
        )
    return None


def exclusions(axis: str, name: str) -> dict[str, str]:
    """Return `axis=name` -> why, of every value of the other axes that one value does not go with, either way."""
    pairs = [(other, o) for other, table in AXES.items() if other != axis for o in table]
    found = {f"{other}={o}": refusal({axis: name, other: o}) for other, o in pairs}
    return {value: why for value, why in found.items() if why is not None}


_WEIGHT_CRITERIA = tuple(v.name for v in criteria.CRITERIA if "weight" in v.levels)
_RANKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(MASKED, _WEIGHT_CRITERIA),
        **dict.fromkeys(EDITS, ("contribution", "random")),
        "depth": ("contribution", "angle", "l1", "l2", "random"),
        "rank": ("l2",),
    }
)
