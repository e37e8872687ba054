"""Partition -> groups: numbers the units, names the groups, explains what is protected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.groups.layers import WEIGHTED, layer_kind, layer_of, output_dim, weighted_layers
from autoprune.groups.tracing import Partition, Trace
from autoprune.groups.tracing.axes import components
from autoprune.groups.tracing.labels import Block, BoolArray
from autoprune.groups.types import (
    NO_UNIT,
    AttributeRule,
    DimensionUnits,
    Granularity,
    GroupedWeight,
    IntArray,
    ModelGroups,
    ProtectedLayer,
    PruningGroup,
    SlicingPlan,
)

GRANULARITIES: tuple[Granularity, ...] = ("channel", "block", "conv_group", "head_dim", "head")


@dataclass(frozen=True, eq=False)
class RuleSite:
    """An attribute that follows the size of a tensor dimension.

    Args:
        atoms: [size, k] what lies on that dimension.
    """

    module: str
    attribute: str
    atoms: IntArray


@dataclass(frozen=True, eq=False)
class Assembly:
    """Groups, and the unit of every atom.

    Args:
        unit_of: [atoms] unit number or `NO_UNIT`.
    """

    groups: ModelGroups
    unit_of: IntArray

    def alive_atoms(self, alive: BoolArray) -> BoolArray:
        """Return [atoms] which atoms the model has when it has the units `alive` [unit_count].

        `NO_UNIT` is -1, so it reads the True that is appended.
        """
        return np.append(alive, True)[self.unit_of]

    def atoms_of(self, group: PruningGroup) -> BoolArray:
        """Return [atoms] which atoms belong to a group."""
        return (self.unit_of >= group.start) & (self.unit_of < group.start + group.width)


@dataclass(frozen=True, eq=False)
class _Cluster:
    """Producers that share units; `classes` in order of the first producer's rows."""

    producers: list[tuple[str, int]]
    classes: IntArray


def assemble(trace: Trace, part: Partition, rules: Sequence[RuleSite] = ()) -> Assembly:
    """Number the units of every group and write down how they map to tensor indices."""
    clusters = [c for c in _clusters(trace, part) if len(c.classes) > 1]
    unit_of_class = np.full(part.count, NO_UNIT, dtype=np.int64)
    start = 0
    for cluster in clusters:
        unit_of_class[cluster.classes] = np.arange(start, start + len(cluster.classes))
        start += len(cluster.classes)
    unit_of = unit_of_class[part.class_of]
    plan = _plan(trace, unit_of, start, rules)
    groups = _groups(trace, part, clusters, plan)
    protected = _protected(trace, part, {layer_of(trace.model, p) for c in clusters for p, _ in c.producers})
    notes = tuple(f"{cause}; what feeds it is protected" for cause in trace.unknown.values())
    return Assembly(ModelGroups(groups, protected, plan, "torch.export", notes), unit_of)


def _clusters(trace: Trace, part: Partition) -> list[_Cluster]:
    """Put producers that share a unit together, in order of first use."""
    rows = {key: part.free(trace.weights.atoms(*key)) for key in trace.weights.producers}
    edges = [np.stack([np.full(len(free), free[0]), free]) for free in rows.values() if len(free)]
    component = components(part.count, edges)
    members: dict[int, list[tuple[str, int]]] = {}
    for key, free in rows.items():
        if len(free):
            members.setdefault(int(component[free[0]]), []).append(key)
    clusters = []
    for producers in members.values():
        classes = np.concatenate([rows[key] for key in producers])
        clusters.append(_Cluster(producers, classes[np.sort(np.unique(classes, return_index=True)[1])]))
    return clusters


def _plan(trace: Trace, unit_of: IntArray, count: int, rules: Sequence[RuleSite]) -> SlicingPlan:
    dimensions = []
    for name, labels in trace.weights.labels.items():
        for factor in labels.factors:
            units = unit_of[factor.atoms]
            if (units != NO_UNIT).any():
                dimensions.append(DimensionUnits(name, factor.visible[0], units))
    cut = {d.parameter for d in dimensions if d.dim == 0}
    grouped = []
    for name, columns in trace.weights.grouped.items():
        units = unit_of[columns]
        if name in cut or (units != NO_UNIT).any():
            grouped.append(GroupedWeight(name, name.rpartition(".")[0], len(units), units))
    followed = tuple(AttributeRule(r.module, r.attribute, unit_of[r.atoms]) for r in rules)
    live = tuple(r for r in followed if (r.units != NO_UNIT).any())
    return SlicingPlan(count, tuple(dimensions), tuple(grouped), live)


def _groups(trace: Trace, part: Partition, clusters: list[_Cluster], plan: SlicingPlan) -> tuple[PruningGroup, ...]:
    ranks = _granularity_ranks(part)
    norms = _batch_norm_units(trace.model, plan)
    groups: list[PruningGroup] = []
    start = 0
    for cluster in clusters:
        width = len(cluster.classes)
        carried = [path for path, units in norms.items() if ((units >= start) & (units < start + width)).any()]
        groups.append(
            PruningGroup(
                name=_unique_name(trace.model, cluster.producers, [g.name for g in groups]),
                start=start,
                width=width,
                granularity=GRANULARITIES[int(ranks[cluster.classes].max())],
                producers=tuple(cluster.producers),
                batch_norms=tuple(carried),
                exact_masking=not part.inexact[cluster.classes].any(),
            )
        )
        start += width
    return tuple(groups)


def _unique_name(model: nn.Module, producers: list[tuple[str, int]], taken: list[str]) -> str:
    """Return the first producing layer, or the parameter where that layer already names a group."""
    parameter, dim = producers[0]
    for name in (layer_of(model, parameter), parameter):
        if name not in taken:
            return name
    return f"{parameter}.dim{dim}"


def _batch_norm_units(model: nn.Module, plan: SlicingPlan) -> dict[str, IntArray]:
    units = {d.parameter: d.units for d in plan.dimensions}
    paths = (path for path, module in model.named_modules() if isinstance(module, _BatchNorm))
    return {path: units[f"{path}.weight"] for path in paths if f"{path}.weight" in units}


def _granularity_ranks(part: Partition) -> IntArray:
    """Return [classes] the index in `GRANULARITIES` of the largest thing of which each class is one."""
    ranks = np.zeros(part.count, dtype=np.int64)
    for block, axis in part.axes.axis_of.items():
        if axis is not None:
            rank = GRANULARITIES.index(_granularity(block, axis, part.axes.contracted[block]))
            np.maximum.at(ranks, part.class_of[block.atoms.ravel()], rank)
    return ranks


def _granularity(block: Block, axis: int, contracted: frozenset[int]) -> Granularity:
    if block.kind == "conv_groups":
        if block.atoms.shape[1] == 1:
            return "channel"
        return "conv_group" if axis == 0 else "block"
    if block.kind == "view" and contracted:
        return "head_dim" if axis in contracted else "head"
    return "block"


def _protected(trace: Trace, part: Partition, grouped: set[str]) -> tuple[ProtectedLayer, ...]:
    """List every weighted layer that is in no group, in order of the forward pass, then those never used."""
    model = trace.model
    found: dict[str, ProtectedLayer] = {}
    for key in trace.weights.producers:
        layer = layer_of(model, key[0])
        if layer not in grouped and layer not in found:
            atoms = trace.weights.atoms(*key)
            reason = str(part.cause(atoms) or "its outputs form a single unit")
            found[layer] = ProtectedLayer(layer, layer_kind(model, layer), len(atoms), reason)
    for layer, parameter in weighted_layers(model).items():
        if layer not in grouped and layer not in found and _is_layer(trace, part, layer, parameter):
            width = int(model.get_parameter(parameter).shape[output_dim(model, parameter)])
            reason = _idle_reason(trace, part, parameter, width)
            found[layer] = ProtectedLayer(layer, layer_kind(model, layer), width, reason)
    return tuple(found.values())


def _is_layer(trace: Trace, part: Partition, layer: str, parameter: str) -> bool:
    """Tell layers from tables that merely follow others (positional embeddings)."""
    if isinstance(trace.model.get_submodule(layer), WEIGHTED):
        return True
    labels = trace.weights.labels.get(parameter)
    return labels is not None and not any(len(part.free(f.atoms)) for f in labels.factors)


def _idle_reason(trace: Trace, part: Partition, parameter: str, width: int) -> str:
    labels = trace.weights.labels.get(parameter)
    if labels is None:
        return "it is not used in the forward pass"
    if width == 1:
        return "it has a single output"
    causes = (part.cause(f.atoms) for f in labels.factors)
    return str(next((c for c in causes if c is not None), "nothing it makes can be removed"))
