"""Widths -> parameters, multiply-accumulates and bytes of many candidates at once, without building any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from autoprune.errors import GroupError
from autoprune.groups.cloning import named_tensors
from autoprune.groups.layers import output_dim
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import NO_UNIT, GroupedWeight, IntArray, ModelGroups
from autoprune.predictor.operations import Operation, count_operations, width_exponents
from autoprune.predictor.parts import Edited, PartCosts
from autoprune.tasks.protocol import Inputs

FloatArray = npt.NDArray[np.float64]
LayerKind = Literal["linear", "convolution", "grouped", "none"]


@dataclass(frozen=True)
class _Sizes:
    """Sizes of tensor dimensions as linear functions of the widths; the last one is the constant 1.

    Args:
        constant: [K + 1] indices that no searched group touches.
        slope: [K + 1, G] indices that one unit of a group stands for.
    """

    constant: FloatArray
    slope: FloatArray

    def at(self, widths: FloatArray) -> FloatArray:
        """Return [n, K + 1] sizes at [n, G] widths."""
        return np.asarray(self.constant + widths @ self.slope.T)


@dataclass(frozen=True)
class _Tensors:
    """Every parameter and buffer: its elements are the product of its dimensions' sizes.

    Args:
        factor: [T] product of the dimensions that never change.
        dimensions: [T, D] row of `_Sizes` of every dimension that changes; the last row fills up.
        itemsize: [T] bytes of one element.
        parameters: The first so many tensors are parameters, the others buffers.
    """

    factor: FloatArray
    dimensions: IntArray
    itemsize: FloatArray
    parameters: int

    def elements(self, sizes: FloatArray) -> FloatArray:
        """Return [n, T] surviving elements at [n, K + 1] sizes."""
        return np.asarray(sizes[:, self.dimensions].prod(axis=2) * self.factor)


@dataclass(frozen=True)
class _Work:
    """Operations: macs * (share of the weight's elements) * product of (share of a group's width ** exponent).

    Args:
        tensor: [L] number of the weight; -1 where no weight takes part.
        macs: [L] multiply-accumulates of the dense model.
        exponents: [L, G].
        layer: [L] number of the layer that an operation belongs to.
    """

    tensor: IntArray
    macs: FloatArray
    exponents: FloatArray
    layer: IntArray


@dataclass(frozen=True)
class _Shapes:
    """Outputs and inputs of every layer's weight: a factor times a row of `_Sizes`.

    Args:
        row: [L, 2].
        factor: [L, 2].
    """

    row: IntArray
    factor: FloatArray


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of the groups' and parts' widths.

    Counts equal those of the really sliced model where every unit of a group stands for equally many indices, which
    is so for channels, heads and blocks. Operations without a weight (the products inside attention) follow power laws
    in the widths, found by slicing one group at a time. Zeros that masks keep change `nonzero` alone; of modules that
    are taken out and of low rank the cost is a straight line between two measured models.

    Args:
        names: Searched groups and parts: the columns of `widths`; all others stay whole.
        full: [G] units of the groups before pruning.
        layer_names: The weight of every layer that multiplies; an empty name stands for operations without a weight.
        layer_kinds: What each of them is; "none" for operations without a weight.
    """

    names: tuple[str, ...]
    full: FloatArray
    layer_names: tuple[str, ...]
    layer_kinds: tuple[LayerKind, ...]
    _shapes: _Shapes
    _sizes: _Sizes
    _tensors: _Tensors
    _work: _Work
    _parts: PartCosts

    @classmethod
    def of(
        cls,
        model: nn.Module,
        groups: ModelGroups,
        example: Inputs,
        names: Sequence[str],
        edited: Edited | None = None,
    ) -> CostModel:
        """Derive the cost of a model from its slicing plan and a few forward passes.

        Args:
            model: The prepared dense model; put into eval mode.
            groups: Its groups.
            example: Inputs of ONE example (batch size 1).
            names: Groups that are searched, in the order of the columns of `widths`; then parts.
            edited: Gives the model without a part, once for each; None = all parts' zeros stay in place.

        Raises:
            GroupError: A name is no group of the model, or a part comes before a group.
        """
        known, parts = [group.name for group in groups.groups], {part.name: part for part in groups.parts}
        unknown = [name for name in names if name not in known and name not in parts]
        if unknown:
            raise GroupError(f"{unknown[0]!r} is no group. Groups: {', '.join(known)}.", hint="Name prunable groups.")
        searched = [parts[name] for name in names if name not in known]
        names = names[: len(names) - len(searched)]
        if any(name not in known for name in names):
            raise GroupError("Parts stand before groups.", hint="Name the groups first.")
        builder = _Builder(model, groups, names, PartCosts.of(model, searched, example, edited))
        operations = count_operations(model, example)
        slicer = Slicer(model, groups.plan)
        cost = builder.cost(operations, np.zeros((len(operations), len(names))))
        if not names:
            return cost
        full = cost.full[: len(names)]
        half = np.maximum(np.ceil(full / 2), 1)
        halved = count_operations(slicer.slice(builder.alive(half)), example)
        if cost.macs(np.append(half, cost.full[len(names) :])[None])[0] == sum(operation.macs for operation in halved):
            return cost
        probes = [np.where(np.arange(len(names)) == g, half, full) for g in range(len(names))]
        counted = (count_operations(slicer.slice(builder.alive(widths)), example) for widths in probes)
        return builder.cost(operations, width_exponents(operations, counted, half / full))

    def parameters(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n] parameters at [n, G] surviving units."""
        units, parts = self._split(widths)
        counted = self._elements(units)[:, : self._tensors.parameters].sum(axis=1)
        return self._reduced(counted, self._parts.left(self._parts.parameters, parts))

    def nonzero(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n] parameters that masks do not keep at zero, at least 1; those that are zero anyway count too."""
        return np.asarray(np.maximum(self.parameters(widths) - self._parts.zeros(self._split(widths)[1]), 1.0))

    def macs(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n] multiply-accumulates of one example at [n, G] surviving units."""
        units, parts = self._split(widths)
        return self._reduced(np.rint(self._operations(units).sum(axis=1)), self._parts.left(self._parts.macs, parts))

    def bytes(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n] bytes of all parameters and buffers at [n, G] surviving units."""
        units, parts = self._split(widths)
        return self._reduced(self._elements(units) @ self._tensors.itemsize, self._parts.left(self._parts.bytes, parts))

    def layers(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n, 2 L] at [n, G] surviving units: MACs of the L layers of `layer_names`, then elements of each."""
        widths, parts = self._split(widths)
        elements = self._elements(widths)
        layers = len(self.layer_names)
        out = np.zeros((len(elements), 2 * layers))
        operations = self._operations(widths)
        for number, (layer, tensor) in enumerate(zip(self._work.layer, self._work.tensor, strict=True)):
            out[:, layer] += operations[:, number]
            if tensor >= 0:
                out[:, layers + layer] = elements[:, tensor]
        out[:, :layers] *= self._parts.left(self._parts.macs, parts)[:, None]
        out[:, layers:] *= self._parts.left(self._parts.parameters, parts)[:, None]
        return out

    def channels(self, widths: npt.ArrayLike) -> FloatArray:
        """Return [n, L, 2] outputs and inputs (of one convolution group) of each layer's weight; 1 without a weight."""
        sizes = self._sizes.at(self._split(widths)[0])
        return np.asarray(sizes[:, self._shapes.row] * self._shapes.factor)

    def _elements(self, units: FloatArray) -> FloatArray:
        return self._tensors.elements(self._sizes.at(units))

    def _operations(self, given: FloatArray) -> FloatArray:
        """Return [n, L] multiply-accumulates of every operation."""
        work, full = self._work, self.full[: given.shape[1]]
        dense = self._tensors.elements(self._sizes.at(full[None]))[0]
        share = np.append(self._elements(given) / dense, np.ones((len(given), 1)), axis=1)[:, work.tensor]
        scaled = np.flatnonzero(work.exponents.any(axis=1))
        if len(scaled):
            share[:, scaled] *= np.exp(np.log(given / full) @ work.exponents[scaled].T)
        return np.asarray(share * work.macs)

    @staticmethod
    def _reduced(counted: FloatArray, left: FloatArray) -> FloatArray:
        """Return a count of which only shares are left; it stays exact where everything is."""
        return np.asarray(np.where(left < 1.0, np.rint(counted * left), counted))

    def _split(self, widths: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return [n, groups] and [n, parts] kept units."""
        given = np.asarray(widths, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.names):
            raise GroupError(
                f"widths must have shape [n, {len(self.names)}]. Got {list(given.shape)}.",
                hint="Pass one column for every searched group.",
            )
        groups = given.shape[1] - len(self._parts.full)
        return given[:, :groups], given[:, groups:]


class _Builder:
    """Turns a slicing plan into sizes and tensors."""

    def __init__(self, model: nn.Module, groups: ModelGroups, names: Sequence[str], parts: PartCosts) -> None:
        self.parts = parts
        self.groups = [groups[name] for name in names]
        self._model = model
        self._grouped = {grouped.parameter for grouped in groups.plan.grouped}
        self.unit_count = groups.plan.unit_count
        self._full = np.array([group.width for group in self.groups], dtype=np.float64)
        self._column = np.full(self.unit_count + 1, NO_UNIT, dtype=np.int64)
        for column, group in enumerate(self.groups):
            self._column[group.start : group.start + group.width] = column
        self._rows: list[tuple[float, FloatArray]] = []
        self._numbers: dict[bytes, int] = {}
        alias = named_tensors(model)
        self._touched: dict[int, dict[int, int]] = {}
        for dimension in groups.plan.dimensions:
            number = self._number(self._size(dimension.units))
            self._touched.setdefault(id(alias[dimension.parameter]), {})[dimension.dim] = number
        for grouped in groups.plan.grouped:
            number = self._number(self._columns(grouped))
            self._touched.setdefault(id(alias[grouped.parameter]), {})[1] = number
        parameters = dict(model.named_parameters())
        self._all: dict[str, Tensor] = {**parameters, **dict(model.named_buffers())}
        self._parameters = len(parameters)

    def alive(self, widths: FloatArray) -> npt.NDArray[np.bool_]:
        """Return [unit_count] flags that keep the first units of every group."""
        alive = np.ones(self.unit_count, dtype=np.bool_)
        for group, width in zip(self.groups, widths.astype(int), strict=True):
            alive[group.start + width : group.start + group.width] = False
        return alive

    def cost(self, operations: Sequence[Operation], exponents: FloatArray) -> CostModel:
        """Return the cost model of operations whose positions scale with exponents [L, G] of the widths."""
        layer_names = tuple(dict.fromkeys(operation.weight for operation in operations))
        numbers = {name: number for number, name in enumerate(self._all)}
        work = _Work(
            tensor=np.array([numbers.get(operation.weight, -1) for operation in operations], dtype=np.int64),
            macs=np.array([operation.macs for operation in operations], dtype=np.float64),
            exponents=exponents,
            layer=np.array([layer_names.index(operation.weight) for operation in operations], dtype=np.int64),
        )
        return CostModel(
            names=(*(group.name for group in self.groups), *self.parts.names),
            full=np.append(self._full, self.parts.full),
            layer_names=layer_names,
            layer_kinds=tuple(self._kind(name) for name in layer_names),
            _shapes=self._shapes(layer_names),
            _sizes=self._all_sizes(),
            _tensors=self._all_tensors(),
            _work=work,
            _parts=self.parts,
        )

    def _kind(self, weight: str) -> LayerKind:
        if not weight:
            return "none"
        if weight in self._grouped:
            return "grouped"
        return "convolution" if self._all[weight].dim() > 2 else "linear"

    def _shapes(self, layer_names: Sequence[str]) -> _Shapes:
        row = np.full((len(layer_names), 2), len(self._rows), dtype=np.int64)
        factor = np.ones((len(layer_names), 2))
        for layer, name in enumerate(layer_names):
            if not name:
                continue
            tensor, first = self._all[name], output_dim(self._model, name)
            touched = self._touched.get(id(tensor), {})
            for column, dim in enumerate((first, 1 - first)):
                if dim in touched:
                    row[layer, column] = touched[dim]
                elif dim < tensor.dim():
                    factor[layer, column] = tensor.shape[dim]
        return _Shapes(row, factor)

    def _all_sizes(self) -> _Sizes:
        width = len(self.groups)
        rows = [*self._rows, (1.0, np.zeros(width))]
        return _Sizes(np.array([constant for constant, _ in rows]), np.array([slope for _, slope in rows]))

    def _all_tensors(self) -> _Tensors:
        count = len(self._all)
        depth = max((len(dims) for dims in self._touched.values()), default=1)
        factor, dimensions = np.ones(count), np.full((count, depth), len(self._rows), dtype=np.int64)
        for row, tensor in enumerate(self._all.values()):
            dims = self._touched.get(id(tensor), {})
            dimensions[row, : len(dims)] = list(dims.values())
            factor[row] = np.prod([size for dim, size in enumerate(tensor.shape) if dim not in dims])
        itemsize = np.array([tensor.element_size() for tensor in self._all.values()], dtype=np.float64)
        return _Tensors(factor, dimensions, itemsize, self._parameters)

    def _number(self, size: tuple[float, FloatArray]) -> int:
        key = np.append(size[1], size[0]).tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._rows)
            self._rows.append(size)
        return self._numbers[key]

    def _size(self, units: IntArray) -> tuple[float, FloatArray]:
        """Return (indices that always stay, [G] indices a unit) of one dimension."""
        columns = self._column[units]
        searched = columns[columns != NO_UNIT]
        slope = np.bincount(searched, minlength=len(self.groups)) / self._full
        return float(len(units) - len(searched)), slope

    def _columns(self, weight: GroupedWeight) -> tuple[float, FloatArray]:
        """Return the size of a grouped weight's columns: of the mean over the convolution groups.

        A group whose columns all belong to one unit dies with it; while it lives, its columns stay.
        """
        sizes = list(self._columns_by_group(weight))
        constant = float(np.mean([constant for constant, _ in sizes]))
        return constant, np.mean([slope for _, slope in sizes], axis=0)

    def _columns_by_group(self, weight: GroupedWeight) -> Iterator[tuple[float, FloatArray]]:
        for units in weight.in_units:
            if (units == units[0]).all():
                yield float(len(units)), np.zeros(len(self.groups))
            else:
                yield self._size(units)
