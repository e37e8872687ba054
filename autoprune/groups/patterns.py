"""Globs over layer names -> which groups the search may touch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from torch import nn

from autoprune.errors import GroupError
from autoprune.groups.layers import layer_kind, layer_of
from autoprune.groups.types import (
    NO_UNIT,
    AttributeRule,
    DimensionUnits,
    GroupedWeight,
    IntArray,
    ModelGroups,
    ProtectedLayer,
    PruningGroup,
    SlicingPlan,
)


def apply_patterns(
    model: nn.Module, groups: ModelGroups, *, protect: Sequence[str], only: Sequence[str]
) -> ModelGroups:
    """Return the groups that the patterns allow; the others' layers become protected, naming the pattern.

    Args:
        model: The model of the groups.
        groups: All that can be pruned.
        protect: Globs; a group with a producing layer that matches any of them is protected.
        only: Globs; a group without any producing layer that matches one of them is protected.

    Raises:
        GroupError: A pattern matches no weighted layer.
    """
    layers = {group.name: producing_layers(model, group) for group in groups.groups}
    known = [*dict.fromkeys(name for names in layers.values() for name in names), *(p.name for p in groups.protected)]
    if known:
        _check_patterns([*protect, *only], known)
    reasons = {name: reason for name, names in layers.items() if (reason := _exclusion(names, protect, only))}
    return without(model, groups, reasons)


def producing_layers(model: nn.Module, group: PruningGroup) -> tuple[str, ...]:
    """Return the layers that make a group's units, in order, without repeats."""
    return tuple(dict.fromkeys(layer_of(model, parameter) for parameter, _ in group.producers))


def without(model: nn.Module, groups: ModelGroups, reasons: Mapping[str, str]) -> ModelGroups:
    """Return `groups` without some, their units numbered anew.

    Args:
        model: The model of the groups.
        groups: All that can be pruned.
        reasons: Name of a group to leave out -> why.
    """
    if not reasons:
        return groups
    number = np.full(groups.plan.unit_count + 1, NO_UNIT, dtype=np.int64)
    kept: list[PruningGroup] = []
    start = 0
    for group in groups.groups:
        if group.name not in reasons:
            number[group.start : group.start + group.width] = np.arange(start, start + group.width)
            kept.append(replace(group, start=start))
            start += group.width
    stays = {layer for group in kept for layer in producing_layers(model, group)}
    left_out = [
        ProtectedLayer(layer, layer_kind(model, layer), _rows(groups.plan, group, model, layer), reasons[group.name])
        for group in groups.groups
        if group.name in reasons
        for layer in producing_layers(model, group)
        if layer not in stays
    ]
    plan = _renumbered(groups.plan, number, start)
    return replace(groups, groups=tuple(kept), protected=(*groups.protected, *left_out), plan=plan)


def _renumbered(plan: SlicingPlan, number: IntArray, count: int) -> SlicingPlan:
    """Return the plan in new unit numbers; `number[-1]` stands for `NO_UNIT`."""

    def used(units: IntArray) -> bool:
        return bool((number[units] != NO_UNIT).any())

    dimensions = tuple(DimensionUnits(d.parameter, d.dim, number[d.units]) for d in plan.dimensions if used(d.units))
    cut = {d.parameter for d in dimensions if d.dim == 0}
    return SlicingPlan(
        count,
        dimensions,
        tuple(
            GroupedWeight(g.parameter, g.module, g.groups, number[g.in_units])
            for g in plan.grouped
            if g.parameter in cut or used(g.in_units)
        ),
        tuple(AttributeRule(r.module, r.attribute, number[r.units]) for r in plan.rules if used(r.units)),
    )


def _rows(plan: SlicingPlan, group: PruningGroup, model: nn.Module, layer: str) -> int:
    mine = {(p, dim) for p, dim in group.producers if layer_of(model, p) == layer}
    return max(len(d.units) for d in plan.dimensions if (d.parameter, d.dim) in mine)


def _exclusion(layers: Sequence[str], protect: Sequence[str], only: Sequence[str]) -> str | None:
    hit = next((pattern for pattern in protect if any(fnmatchcase(layer, pattern) for layer in layers)), None)
    if hit is not None:
        return f"protected by the pattern {hit!r}"
    if any(fnmatchcase(layer, pattern) for pattern in only for layer in layers):
        return None
    return f"not selected by {', '.join(repr(pattern) for pattern in only) or 'an empty list of patterns'}"


def _check_patterns(patterns: Sequence[str], known: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=5, cutoff=0.0)
            raise GroupError(
                f"The pattern {pattern!r} matches no layer with weights.",
                hint=f"Patterns are globs over layer names. The nearest: {', '.join(near)}.",
            )
