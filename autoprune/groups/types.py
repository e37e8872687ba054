"""Model -> groups: the data that tracing produces and pruning consumes. No tracing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Granularity = Literal["channel", "head", "head_dim", "conv_group", "block"]
PartKind = Literal["tensor", "depth", "activation", "norm", "pooling", "bias"]
EditKind = Literal["remove", "fold_norm", "no_bias", "average_pool", "low_rank"]
MaskKind = Literal["weight", "n_m", "block"]
NO_UNIT = -1
Argument = int | str
"""Position or name of an argument in a call."""
Returns = Argument | tuple[Argument | None, ...] | None
"""What a removed block's stand-in returns: an argument, or a tuple of some; None = its only one."""


@dataclass(frozen=True)
class DimensionUnits:
    """Which unit every index of one parameter (or buffer) dimension belongs to.

    Args:
        parameter: Dotted name in the (prepared) model.
        dim: Dimension of that tensor.
        units: [size of dim] global unit number, or `NO_UNIT` where the index is never removed.
    """

    parameter: str
    dim: int
    units: IntArray


@dataclass(frozen=True)
class GroupedWeight:
    """Columns of a grouped convolution's weight [out, in / groups, ...], which differ from group to group.

    Args:
        parameter: Dotted name of the weight.
        module: Dotted name of its module, whose `groups` follows the surviving groups.
        groups: Number of convolution groups before pruning.
        in_units: [groups, in / groups] global unit number of every input channel, or `NO_UNIT`.
    """

    parameter: str
    module: str
    groups: int
    in_units: IntArray


@dataclass(frozen=True)
class AttributeRule:
    """An integer module attribute that must follow the size of a tensor dimension.

    Args:
        module: Dotted module name.
        attribute: Attribute name, such as `num_heads`; `sizes[1]` for an item of a list or tuple.
        units: [size, k] unit numbers; an index is alive while any of its k units is. `NO_UNIT` is always alive.
    """

    module: str
    attribute: str
    units: IntArray


@dataclass(frozen=True)
class SlicingPlan:
    """Everything needed to cut any set of units out of the model: a candidate is a gather.

    Args:
        unit_count: Number of units in all groups together.
        dimensions: Every (parameter, dim) that some unit touches.
        grouped: Grouped convolutions' weights; their rows stand in `dimensions`, their columns here.
        rules: Attributes to patch after slicing.
    """

    unit_count: int
    dimensions: tuple[DimensionUnits, ...]
    grouped: tuple[GroupedWeight, ...] = ()
    rules: tuple[AttributeRule, ...] = ()


@dataclass(frozen=True)
class PruningGroup:
    """Units that live on the same layers; pruning chooses which of them stay.

    Args:
        name: Module path of the first layer that produces the units; unique within the model.
        start: Number of its first unit; units are `start .. start + width - 1`.
        width: Number of units before pruning.
        granularity: What one unit is.
        producers: (parameter, dim) pairs whose rows make the units, such as a convolution's weight and 0.
        batch_norms: Module paths of the BatchNorms that scale these units; empty when there are none.
        exact_masking: Whether zeroing a unit equals removing it (no statistic over units, as in LayerNorm).
        feed_forward: Whether linear layers alone touch its units: the hidden layer of a feed-forward net.
    """

    name: str
    start: int
    width: int
    granularity: Granularity
    producers: tuple[tuple[str, int], ...]
    batch_norms: tuple[str, ...] = ()
    exact_masking: bool = True
    feed_forward: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths of the producing layers, in order, without repeats."""
        return tuple(dict.fromkeys(parameter.rpartition(".")[0] for parameter, _ in self.producers))


@dataclass(frozen=True)
class Part:
    """Something prunable that slicing does not cut: a weight tensor's entries, or modules and biases of one kind.

    Args:
        name: The parameter's dotted name for a tensor, else `@` and the kind, such as `@depth`.
        kind: What it is.
        members: What its units are: the parameter itself for a tensor, else module paths (parameters for biases).
        width: Number of units: entries of a tensor, else the number of members.
        shape: A tensor's own shape, as its layer stores it.
        partners: The layer before each member, which takes it in; of norms alone.
        factored: Whether low-rank factors can take a tensor's place (granularity `rank`).
        returns: What each member's stand-in returns; of blocks alone, and empty where all return their only argument.
    """

    name: str
    kind: PartKind
    members: tuple[str, ...]
    width: int
    shape: tuple[int, ...] = ()
    partners: tuple[str, ...] = ()
    factored: bool = True
    returns: tuple[Returns, ...] = ()


@dataclass(frozen=True)
class Edit:
    """One change of the module tree, made after slicing.

    Args:
        kind: `remove`: the module becomes the identity; `fold_norm`: a BatchNorm goes into the layer before it;
            `no_bias`: the parameter goes; `average_pool`: a max pooling becomes an average pooling of the same window;
            `low_rank`: a linear or convolution layer becomes two of rank `value`.
        path: Module path, or the parameter's for `no_bias`.
        value: Rank for `low_rank`, else 0.
        other: Path of the layer that a norm is folded into, else empty.
        returns: Which arguments a removed block's stand-in returns; None = its only one.
    """

    kind: EditKind
    path: str
    value: int = 0
    other: str = ""
    returns: Returns = None


@dataclass(frozen=True)
class ProtectedLayer:
    """A layer whose outputs cannot (or may not) be pruned, and why."""

    name: str
    kind: str
    width: int
    reason: str


@dataclass(frozen=True)
class ModelGroups:
    """What can be pruned in one model.

    Args:
        groups: Prunable groups in order of the forward pass.
        protected: Weighted layers that are not prunable, with the reason.
        plan: How units map to tensor indices.
        tracer: Which engine found them.
        notes: Things a user should know (operators that were not understood, replaced modules).
        parts: What else can be pruned, without slicing.
    """

    groups: tuple[PruningGroup, ...]
    protected: tuple[ProtectedLayer, ...]
    plan: SlicingPlan
    tracer: Literal["torch.export", "torch-pruning"]
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def __getitem__(self, name: str) -> PruningGroup:
        return self._by_name[name]

    @property
    def _by_name(self) -> Mapping[str, PruningGroup]:
        return {g.name: g for g in self.groups}

    def unit_group(self) -> IntArray:
        """Return [unit_count] the index in `groups` of every unit."""
        out = np.full(self.plan.unit_count, NO_UNIT, dtype=np.int64)
        for index, group in enumerate(self.groups):
            out[group.start : group.start + group.width] = index
        return out


@dataclass(frozen=True)
class ArchitecturePlan:
    """What a pruned architecture is, without weights: enough to rebuild it from the original model definition.

    Serialises to `plan.json`. Tensors not named keep their shape.

    Args:
        kept: Parameter or buffer name -> dimension -> kept indices, ascending.
        grouped: Grouped convolution weight -> per surviving group, (kept rows within the weight, kept columns).
        attributes: Module path -> attribute -> value.
        shapes: Original shape of every named tensor, checked on load.
        prepared: Module paths that `prepare_model` bakes or replaces before slicing.
        edits: Changes of the module tree after slicing, in order.
        masks: Parameter -> granularity of its zeros (`weight`, `n_m`, `block`), of tensors that keep their shape.
    """

    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    grouped: Mapping[str, Sequence[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prepared: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)
