"""Model + living units -> smaller model: one gather a tensor, straight from the original weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.errors import CandidateError, GroupError
from autoprune.groups.architecture import architecture_from_json, architecture_to_json, check_architecture
from autoprune.groups.cloning import clone_model, follow_sizes, named_tensors, set_size
from autoprune.groups.edits import apply_edits
from autoprune.groups.types import ArchitecturePlan, GroupedWeight, IntArray, SlicingPlan

__all__ = [
    "Slicer",
    "architecture_from_json",
    "architecture_of",
    "architecture_to_json",
    "mask_model",
    "rebuild",
    "slice_model",
]

# Elements of a block in `_gather_in_blocks`: 1 MiB of float32, measured best for large convolutions.
_BLOCK = 2**18

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _GroupedCut:
    """What stays of a grouped convolution's weight.

    Args:
        rows: [groups, outputs a group] kept rows of the whole weight, per surviving group.
        columns: [groups, inputs a group] kept columns, per surviving group.
    """

    rows: IntArray
    columns: IntArray


@dataclass(frozen=True)
class _Cut:
    """One architecture by tensor name and module path; index tensors of equal content may be shared."""

    kept: Mapping[str, Mapping[int, Tensor]]
    grouped: Mapping[str, _GroupedCut] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Slicer:
    """Cuts many candidates out of one model.

    What depends on the plan alone is computed once. Weights may change in place between two calls; parameter and
    buffer objects must not be replaced.

    Args:
        model: The (prepared) model that the plan was made for; it is never changed.
        plan: How units map to tensor indices.

    Raises:
        GroupError: The plan does not fit the model.
    """

    def __init__(self, model: nn.Module, plan: SlicingPlan) -> None:
        self.model = model
        self.plan = plan
        self._tensors = named_tensors(model)
        self._units: list[IntArray] = []
        self._dimensions: list[tuple[str, int, int]] = []
        numbers: dict[bytes, int] = {}
        for dimension in sorted(plan.dimensions, key=lambda d: (d.parameter, d.dim)):
            _check_fits(self._tensors, dimension.parameter, dimension.dim, len(dimension.units))
            key = dimension.units.tobytes()
            if key not in numbers:
                numbers[key] = len(self._units)
                self._units.append(dimension.units)
            self._dimensions.append((dimension.parameter, dimension.dim, numbers[key]))
        for grouped in plan.grouped:
            _check_fits(self._tensors, grouped.parameter, 1, grouped.in_units.shape[1])
        names = {name for name, _, _ in self._dimensions} | {g.parameter for g in plan.grouped}
        self._holders = _holders(model, {id(self._tensors[name]) for name in names})

    def slice(self, alive: BoolArray) -> nn.Module:
        """Return the model without the units that are False in `alive` [unit_count].

        Raises:
            CandidateError: A dimension would be left without any index.
        """
        return _apply(self.model, self._tensors, self._cut(alive), self._holders)

    def outline(self, alive: BoolArray) -> nn.Module:
        """Return a model of the shapes that `slice` gives, whose cut tensors hold anything and the others' memory.

        Exporting it is as good as exporting the slice, and takes no memory for weights: no entry is ever touched.
        """
        cut = self._cut(alive)
        blank = {
            name: self._tensors[name].new_empty(
                [len(dims[d]) if d in dims else n for d, n in enumerate(self._tensors[name].shape)]
            )
            for name, dims in cut.kept.items()
        }
        for name, grouped in cut.grouped.items():
            original = self._tensors[name]
            blank[name] = original.new_empty([grouped.rows.size, grouped.columns.shape[1], *original.shape[2:]])
        replacements = {id(self._tensors[name]): data for name, data in blank.items()}
        shared = {id(tensor): tensor.detach() for tensor in self._tensors.values()}
        return _finish(clone_model(self.model, shared | replacements), cut, self._holders)

    def mask(self, alive: BoolArray) -> nn.Module:
        """Return a clone of full size in which every entry of a removed unit is zero."""
        living = self._extend(alive)
        zeroed: dict[int, Tensor] = {}
        for dimension in self.plan.dimensions:
            removed = np.flatnonzero(~living[dimension.units])
            if len(removed):
                data = self._copy_once(dimension.parameter, zeroed)
                data.index_fill_(dimension.dim, torch.from_numpy(removed).to(data.device), 0)
        for grouped in self.plan.grouped:
            dead = torch.from_numpy(~living[grouped.in_units])
            if dead.any():
                data = self._copy_once(grouped.parameter, zeroed)
                by_group = data.view(grouped.groups, -1, *data.shape[1:])
                by_group.transpose(1, 2)[dead.to(data.device)] = 0
        return clone_model(self.model, zeroed)

    def architecture(self, alive: BoolArray, prepared: Sequence[str] = ()) -> ArchitecturePlan:
        """Return the pruned architecture without weights; `prepared` names the modules that were replaced before."""
        cut = self._cut(alive)
        return ArchitecturePlan(
            kept={name: {dim: tuple(k.tolist()) for dim, k in dims.items()} for name, dims in cut.kept.items()},
            grouped={
                name: [(tuple(r), tuple(c)) for r, c in zip(g.rows.tolist(), g.columns.tolist(), strict=True)]
                for name, g in cut.grouped.items()
            },
            attributes=cut.attributes,
            shapes={name: tuple(self._tensors[name].shape) for name in sorted({*cut.kept, *cut.grouped})},
            prepared=tuple(prepared),
        )

    def _copy_once(self, name: str, copies: dict[int, Tensor]) -> Tensor:
        original = self._tensors[name]
        if id(original) not in copies:
            copies[id(original)] = original.detach().clone(memory_format=torch.contiguous_format)
        return copies[id(original)]

    def _extend(self, alive: BoolArray) -> BoolArray:
        """Append True, which is what `NO_UNIT` (-1) reads."""
        if alive.shape != (self.plan.unit_count,) or alive.dtype != np.bool_:
            raise GroupError(
                f"alive must be a boolean array of shape ({self.plan.unit_count},). Got {alive.dtype} {alive.shape}.",
                hint="Pass one flag for every unit of the plan.",
            )
        return np.append(alive, True)

    def _cut(self, alive: BoolArray) -> _Cut:
        living = self._extend(alive)
        found = [np.flatnonzero(living[units]) for units in self._units]
        indices = [torch.from_numpy(index) for index in found]
        counts = [len(index) for index in found]
        grouped_names = {g.parameter for g in self.plan.grouped}
        kept: dict[str, dict[int, Tensor]] = {}
        rows: dict[str, Tensor] = {}
        for name, dim, number in self._dimensions:
            if not counts[number]:
                raise _nothing_left(name, dim)
            if dim == 0 and name in grouped_names:
                rows[name] = indices[number]
            elif counts[number] < len(self._units[number]):
                kept.setdefault(name, {})[dim] = indices[number]
        grouped, attributes = self._cut_grouped(living, rows)
        for rule in self.plan.rules:
            attributes.setdefault(rule.module, {})[rule.attribute] = int(living[rule.units].any(axis=1).sum())
        return _Cut(kept, grouped, attributes)

    def _cut_grouped(
        self, living: BoolArray, rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, _GroupedCut], dict[str, dict[str, int]]]:
        cuts: dict[str, _GroupedCut] = {}
        attributes: dict[str, dict[str, int]] = {}
        for weight in self.plan.grouped:
            outputs = self._tensors[weight.parameter].shape[0]
            kept = rows[weight.parameter].numpy() if weight.parameter in rows else np.arange(outputs)
            columns = living[weight.in_units]
            if len(kept) < outputs or not columns.all():
                cuts[weight.parameter] = _cut_groups(weight, kept, columns, outputs)
                attributes[weight.module] = {"groups": len(cuts[weight.parameter].rows)}
        return cuts, attributes


def slice_model(model: nn.Module, plan: SlicingPlan, alive: BoolArray) -> nn.Module:
    """Return a smaller model that shares no tensor with `model`; for many candidates keep a `Slicer`."""
    return Slicer(model, plan).slice(alive)


def mask_model(model: nn.Module, plan: SlicingPlan, alive: BoolArray) -> nn.Module:
    """Return a clone of full size in which every entry of a removed unit is zero."""
    return Slicer(model, plan).mask(alive)


def architecture_of(
    model: nn.Module, plan: SlicingPlan, alive: BoolArray, prepared: Sequence[str] = ()
) -> ArchitecturePlan:
    """Return the pruned architecture without weights; `prepared` names the modules that were replaced before."""
    return Slicer(model, plan).architecture(alive, prepared)


def rebuild(model: nn.Module, architecture: ArchitecturePlan) -> nn.Module:
    """Return the pruned architecture, its weights gathered from `model` (prepared as `architecture.prepared` says).

    Edits follow the slicing; masks change no shape and are left to the weights.

    Raises:
        ArtifactError: The plan does not fit the model; the message names the tensor, attribute or module.
    """
    tensors = named_tensors(model)
    check_architecture(model, tensors, architecture)
    cut = _Cut(
        kept={name: {dim: torch.tensor(dims[dim]) for dim in sorted(dims)} for name, dims in architecture.kept.items()},
        grouped={
            name: _GroupedCut(np.array([r for r, _ in groups]), np.array([c for _, c in groups]))
            for name, groups in architecture.grouped.items()
        },
        attributes=architecture.attributes,
    )
    holders = _holders(model, {id(tensors[name]) for name in architecture.shapes})
    pruned = _apply(model, tensors, cut, holders)
    apply_edits(pruned, architecture.edits)
    return pruned


def _apply(model: nn.Module, tensors: Mapping[str, Tensor], cut: _Cut, holders: Iterable[str]) -> nn.Module:
    replacements: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, dims in cut.kept.items():
            replacements[id(tensors[name])] = _gather(tensors[name], dims)
        for name, grouped in cut.grouped.items():
            replacements[id(tensors[name])] = _gather_grouped(tensors[name], grouped)
    return _finish(clone_model(model, replacements), cut, holders)


def _finish(clone: nn.Module, cut: _Cut, holders: Iterable[str]) -> nn.Module:
    """Set the attributes of a clone that follow its tensors' sizes."""
    for path, values in cut.attributes.items():
        module = clone.get_submodule(path)
        for attribute, value in values.items():
            set_size(module, attribute, value)
    for path in holders:
        follow_sizes(clone.get_submodule(path))
    return clone


def _gather(data: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    if not data.is_cpu:
        dims = {dim: index.to(data.device) for dim, index in dims.items()}
    if data.numel() > _BLOCK * 4 and len(dims) == 2 and 0 in dims:
        return _gather_in_blocks(data, dims[0], dims)
    for dim, index in dims.items():
        data = data.index_select(dim, index)
    return data


def _gather_in_blocks(data: Tensor, rows: Tensor, indices: Mapping[int, Tensor]) -> Tensor:
    """Gather rows and one other dimension a block of rows at a time, so that what lies between stays in the cache."""
    dim = max(indices)
    shape = [len(indices[d]) if d in indices else size for d, size in enumerate(data.shape)]
    out = data.new_empty(shape)
    height = max(1, _BLOCK // data[0].numel())
    for start in range(0, len(rows), height):
        block = data.index_select(0, rows[start : start + height])
        torch.index_select(block, dim, indices[dim], out=out[start : start + height])
    return out


def _gather_grouped(weight: Tensor, cut: _GroupedCut) -> Tensor:
    rows = torch.from_numpy(cut.rows.reshape(-1)).to(weight.device)
    groups, inputs = cut.columns.shape
    if inputs == weight.shape[1]:
        return weight.index_select(0, rows)
    if (cut.columns == cut.columns[0]).all():
        columns = torch.from_numpy(cut.columns[0].copy()).to(weight.device)
        return weight.index_select(0, rows).index_select(1, columns)
    by_row = torch.from_numpy(np.repeat(cut.columns, cut.rows.size // groups, axis=0)).to(weight.device)
    return weight[rows[:, None], by_row]


def _cut_groups(weight: GroupedWeight, rows: IntArray, columns: BoolArray, outputs: int) -> _GroupedCut:
    """Split kept `rows` by convolution group; all surviving groups must keep equally many rows and columns."""
    per_group = np.bincount(rows // (outputs // weight.groups), minlength=weight.groups)
    surviving = per_group > 0
    row_counts, column_counts = per_group[surviving], columns[surviving].sum(axis=1)
    ragged = len(set(row_counts.tolist())) > 1 or len(set(column_counts.tolist())) > 1
    if ragged or columns[~surviving].any() or not column_counts.all():
        raise GroupError(
            f"The units removed leave unequal convolution groups in {weight.parameter!r}.",
            hint="Remove whole convolution groups, or the same number of channels from each.",
        )
    count = int(surviving.sum())
    return _GroupedCut(rows.reshape(count, -1), np.nonzero(columns[surviving])[1].reshape(count, -1))


def _check_fits(tensors: Mapping[str, Tensor], name: str, dim: int, size: int) -> None:
    tensor = tensors.get(name)
    if tensor is None or dim >= tensor.dim() or tensor.shape[dim] != size:
        found = "no such tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise GroupError(
            f"The plan needs {name!r} with size {size} in dimension {dim}. The model has {found}.",
            hint="Slice the same (prepared) model that the groups were found in.",
        )


def _holders(model: nn.Module, tensors: set[int]) -> tuple[str, ...]:
    """Return the paths of the modules that directly hold any of the tensors."""
    found = []
    for path, module in model.named_modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(id(tensor) in tensors for tensor in own):
            found.append(path)
    return tuple(found)


def _nothing_left(name: str, dim: int) -> CandidateError:
    return CandidateError(
        f"Nothing would be left of {name!r} in dimension {dim}.",
        reason="error",
        stage="prune",
        hint="Keep at least one unit of every group.",
    )
