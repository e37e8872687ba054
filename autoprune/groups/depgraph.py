"""Model -> indices that go together, as torch-pruning's DependencyGraph (Fang et al., 2023) sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.errors import GroupError
from autoprune.groups.cloning import named_tensors
from autoprune.groups.types import IntArray
from autoprune.tasks.protocol import Inputs

Key = tuple[str, int]
Producer = _ConvNd | nn.Linear | nn.Embedding


@dataclass
class RootGroup:
    """One group of torch-pruning.

    Args:
        roots: [channels] atom of every channel of the group's root layer.
        producers: (parameter, dim) pairs whose rows are channels of this group.
        batch_norms: Paths of the BatchNorms on these channels.
    """

    roots: IntArray
    producers: list[Key] = field(default_factory=list)
    batch_norms: list[str] = field(default_factory=list)


class Coupling:
    """Atoms (indices of tensor dimensions) joined into classes that are removed together.

    Args:
        model: The traced model.

    Attributes:
        dimensions: (tensor name, dim) -> [size] atoms. A tensor with several names stands under its first.
        inputs: Grouped convolution's path -> [input channels] atoms.
        refused: (atoms, reason) that must stay.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.tensors = named_tensors(model)
        self.dimensions: dict[Key, IntArray] = {}
        self.inputs: dict[str, IntArray] = {}
        self.refused: list[tuple[IntArray, str]] = []
        self._first_name: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            self._first_name.setdefault(id(tensor), name)
        self._edges: list[IntArray] = []
        self._count = 0

    def fresh(self, size: int) -> IntArray:
        """Return [size] new atoms."""
        self._count += size
        return np.arange(self._count - size, self._count, dtype=np.int64)

    def unite(self, left: IntArray, right: IntArray) -> None:
        """Join two equally shaped arrays of atoms element by element."""
        self._edges.append(np.stack([left.ravel(), right.ravel()]))

    def refuse(self, atoms: IntArray, reason: str) -> None:
        """Keep these atoms, and all that is joined to them, out of every group."""
        self.refused.append((atoms, reason))

    def classes(self) -> IntArray:
        """Return [atoms] the class of every atom."""
        edges = np.concatenate(self._edges, axis=1) if self._edges else np.zeros((2, 0), np.int64)
        graph = coo_matrix((np.ones(edges.shape[1], np.int8), tuple(edges)), shape=(self._count, self._count))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)

    def dimension(self, name: str, dim: int) -> IntArray:
        """Return the atoms of a tensor dimension; all names of a shared tensor give the same."""
        tensor = self.tensors[name]
        key = (self._first_name[id(tensor)], dim % tensor.dim())
        if key not in self.dimensions:
            self.dimensions[key] = self.fresh(tensor.shape[dim])
        return self.dimensions[key]

    def outputs_of(self, path: str, module: nn.Module) -> IntArray | None:
        """Return the atoms of a layer's output channels, or None where they cannot be removed."""
        places = [(f"{path}.{leaf}".lstrip("."), dim) for leaf, dim in _output_places(module)]
        sized = [self.dimension(name, dim) for name, dim in places if name in self.tensors]
        for other in sized[1:]:
            self.unite(sized[0], other)
        if not sized:
            return None
        if isinstance(module, nn.GroupNorm):
            return self._tie_columns(sized[0], module.num_groups)
        if isinstance(module, _ConvNd) and module.groups > 1:
            if is_depthwise(module):
                self.unite(sized[0], self.grouped_inputs(path, module))
                return sized[0]
            return self._tie_columns(sized[0], module.groups)
        return sized[0]

    def inputs_of(self, path: str, module: nn.Module) -> IntArray | None:
        """Return the atoms of a layer's input channels, or None where they cannot be removed."""
        if isinstance(module, _ConvTransposeNd):
            return self.dimension(f"{path}.weight".lstrip("."), 0) if module.groups == 1 else None
        if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
            return self._tie_columns(self.grouped_inputs(path, module), module.groups)
        if isinstance(module, _ConvNd | nn.Linear) and not is_depthwise(module):
            return self.dimension(f"{path}.weight".lstrip("."), 1)
        return self.outputs_of(path, module)

    def grouped_inputs(self, path: str, module: _ConvNd) -> IntArray:
        """Return the atoms of a grouped convolution's input channels."""
        if path not in self.inputs:
            self.inputs[path] = self.fresh(module.in_channels)
        return self.inputs[path]

    def _tie_columns(self, atoms: IntArray, groups: int) -> IntArray | None:
        """Make a unit the same channel of every group, so that groups stay equally wide."""
        if len(atoms) == groups:
            return None
        rows = atoms.reshape(groups, -1)
        self.unite(np.broadcast_to(rows[:1], rows.shape), rows)
        return atoms


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution has one input and one output channel a group."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels == module.out_channels


def _output_places(module: nn.Module) -> Sequence[tuple[str, int]]:
    """Return the (tensor, dim) pairs of a layer that are its output channels; empty where it is not understood."""
    if isinstance(module, _ConvTransposeNd):
        return [("weight", 1), ("bias", 0)] if module.groups == 1 else []
    if isinstance(module, _ConvNd | nn.Linear):
        return [("weight", 0), ("bias", 0)]
    if isinstance(module, _NormBase):
        return [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)]
    if isinstance(module, nn.GroupNorm) or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1):
        return [("weight", 0), ("bias", 0)]
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return [("weight", 0)]
    return [("weight", 1)] if isinstance(module, nn.Embedding) else []


def couple(model: nn.Module, inputs: Inputs) -> tuple[Coupling, list[RootGroup]]:
    """Trace `model` (which is left in eval mode) and join the indices of every group.

    Raises:
        GroupError: torch-pruning cannot trace the model.
    """
    coupling = Coupling(model)
    names = {id(module): path for path, module in coupling.modules.items()}
    names |= {id(tensor): name for name, tensor in coupling.tensors.items()}
    groups = []
    for is_output, items in _dependency_groups(model, inputs):
        group = RootGroup(coupling.fresh(len(items[0].idxs)))
        for item in items:
            target = item.dep.target
            if id(target.module) in names:
                _join(coupling, group, names[id(target.module)], item, outward=is_output(item.dep.handler))
        groups.append(group)
    return coupling, groups


def _join(coupling: Coupling, group: RootGroup, name: str, item: Any, *, outward: bool) -> None:
    """Join the indices of one layer with the channels of the root from which they come."""
    module = item.dep.target.module
    if isinstance(module, nn.Parameter):
        atoms: IntArray | None = coupling.dimension(name, item.dep.target.pruning_dim)
    elif outward:
        atoms = coupling.outputs_of(name, module)
    else:
        atoms = coupling.inputs_of(name, module)
    if atoms is None:
        if next(iter(module.parameters(recurse=False)), None) is not None:
            coupling.refuse(group.roots, f"it reaches {name!r} ({type(module).__name__}), which cannot be cut")
        return
    indices, roots = item.idxs, item.root_idxs
    if any(r is None for r in roots) or max(indices, default=0) >= len(atoms):
        coupling.refuse(group.roots, f"its indices cannot be followed into {name!r}")
        return
    coupling.unite(atoms[np.array(indices, dtype=np.int64)], group.roots[np.array(roots, dtype=np.int64)])
    if isinstance(module, Producer) and (outward or is_depthwise(module)):
        group.producers.append((f"{name}.weight".lstrip("."), _output_places(module)[0][1]))
    if isinstance(module, _BatchNorm) and name not in group.batch_norms:
        group.batch_norms.append(name)


def _dependency_groups(model: nn.Module, inputs: Inputs) -> Iterator[tuple[Callable[[Any], bool], list[Any]]]:
    """Yield, per group of torch-pruning, the test for output handlers and the group's items."""
    import torch_pruning

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    roots = (_ConvNd, nn.Linear, nn.Embedding)
    try:
        with torch.enable_grad():
            graph.build_dependency(
                model, inputs, forward_fn=_call, unwrapped_parameters=[], ignored_params=[], verbose=False
            )
            groups = [list(g.items) for g in graph.get_all_groups(ignored_layers=[], root_module_types=roots)]
    except Exception as error:
        raise GroupError(
            f"torch-pruning cannot trace the model: {type(error).__name__}: {error}",
            hint="Make the forward pass exportable by torch.export, so that it can be traced exactly.",
        ) from error
    for items in groups:
        yield graph.is_out_channel_pruning_fn, items


def _call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    outputs = tensors_in(model(*inputs.args, **inputs.kwargs))
    return [tensor for tensor in outputs if tensor.grad_fn is not None]


def unreached_layers(model: nn.Module, inputs: Inputs) -> dict[str, frozenset[int]]:
    """Return the layers that a forward pass neither calls nor uses, with the sizes of their inputs and outputs.

    A parameter without gradient of any output was not used; neither was it where a detour hides the gradient, so the
    layers that were called are taken out.

    Args:
        model: Run as it is; its float parameters require gradients.
        inputs: Arguments of one forward pass.
    """
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, __, p=path: called.add(p)) for path, module in model.named_modules()
    ]
    try:
        with torch.enable_grad():
            outputs = _call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        [t.sum() for t in outputs], list(named.values()), allow_unused=True
    )
    found: dict[str, frozenset[int]] = {}
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        path = name.rpartition(".")[0]
        if gradient is None and path not in called:
            found[path] = found.get(path, frozenset()) | frozenset(parameter.shape[:2])
    return found


def tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors of a model's output in order, through dicts, lists and tuples."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in tensors_in(value)]
    if isinstance(outputs, list | tuple):
        return [tensor for value in outputs for tensor in tensors_in(value)]
    return []
