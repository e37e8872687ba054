"""Sliced model + edits -> model without some blocks, activations, norms, biases, or with low-rank layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.errors import ArtifactError, GroupError
from autoprune.groups.bypass import misfit, stand_in
from autoprune.groups.factors import can_factor, factors_of, full_rank
from autoprune.groups.types import Edit, EditKind, Part, PartKind

_ORDER: tuple[EditKind, ...] = ("remove", "no_bias", "fold_norm", "average_pool", "low_rank")
_KIND_OF: dict[PartKind, EditKind] = {
    "depth": "remove",
    "activation": "remove",
    "norm": "fold_norm",
    "pooling": "average_pool",
    "bias": "no_bias",
}
_ONE_STAYS = ("depth", "activation")
_POOLINGS: tuple[tuple[type[nn.Module], Callable[..., nn.Module]], ...] = (
    (nn.MaxPool1d, nn.AvgPool1d),
    (nn.MaxPool2d, nn.AvgPool2d),
    (nn.MaxPool3d, nn.AvgPool3d),
)


def edits_of(part: Part, sparsity: float, scores: npt.NDArray[np.float64]) -> tuple[Edit, ...]:
    """Return the edits that take the lowest-scored members of a part away; of equal scores the later goes.

    At least one block and one activation stay; norms, poolings and biases may all go.

    Args:
        part: Modules or biases of one kind.
        sparsity: Share of the members that goes, in [0, 1).
        scores: [width] importance, higher stays.

    Raises:
        GroupError: The part is a tensor, or the scores have another length.
    """
    if np.shape(scores) != (part.width,):
        raise GroupError(f"{part.name} needs [{part.width}] scores. Got shape {np.shape(scores)}.")
    stay = max(int(part.kind in _ONE_STAYS), round(part.width * (1.0 - sparsity)))
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return tuple(edit_of(part, int(member)) for member in sorted(order[stay:]))


def edit_of(part: Part, member: int) -> Edit:
    """Return the edit that takes one member of a part away.

    Raises:
        GroupError: The part is a tensor.
    """
    if part.kind not in _KIND_OF:
        raise GroupError(f"{part.name} is a {part.kind}; no edit of the module tree takes its entries away.")
    other = part.partners[member] if part.partners else ""
    returns = part.returns[member] if part.returns else None
    return Edit(_KIND_OF[part.kind], part.members[member], other=other, returns=returns)


def apply_edits(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Change a model's modules in place, after slicing: the same edits of the same model give the same modules.

    The order in which they are given does not matter: blocks go first, then biases, norms (which leave a bias of their
    own), poolings and ranks. What lies inside a removed module needs no other edit, and a norm whose layer went stays.

    Raises:
        ArtifactError: A path is not in the model, or its module is not of the edit's kind.
        CandidateError: A weight to be factored is not finite.
    """
    check_edits(model, edits)
    for kind in _ORDER:
        for edit in effective(edits):
            if edit.kind == kind:
                _APPLY[kind](model, edit)


def check_edits(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Check that every edit fits a model.

    Raises:
        ArtifactError: Naming the first path that does not.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for edit in edits:
        path = edit.path.rpartition(".")[0] if edit.kind == "no_bias" else edit.path
        module = modules.get(path)
        if not edit.path or module is None:
            _refuse(edit, "has no such module")
        if edit.other and edit.other not in modules:
            _refuse(edit, f"has no module {edit.other!r}")
        problem = _misfit(edit, module, modules.get(edit.other, model))
        if problem:
            _refuse(edit, problem)


def _misfit(edit: Edit, module: nn.Module, other: nn.Module) -> str:
    """Return why an edit does not fit its modules, or an empty text."""
    found = type(module).__name__
    if edit.kind == "fold_norm":
        return _no_fold(module, other)
    if edit.kind == "no_bias":
        named = edit.path.rpartition(".")[2] == "bias"
        has = isinstance(module, _ConvNd | nn.Linear) and module.bias is not None
        return "" if named and has else f"has no bias there, but {found}"
    if edit.kind == "average_pool":
        return "" if can_average(module) else f"has {found} there, no max pooling without dilation"
    if edit.kind == "low_rank":
        if not can_factor(module):
            return f"has {found} there, which cannot be factored"
        most = full_rank(tuple(module.get_parameter("weight").shape))
        return "" if 1 <= edit.value <= most else f"has a weight of rank {most} there, not {edit.value}"
    return misfit(module, edit.returns)


def can_average(module: nn.Module) -> bool:
    """Tell whether a module is a max pooling that an average pooling of the same window can replace."""
    if not isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) or module.return_indices:
        return False
    dilation = module.dilation if isinstance(module.dilation, tuple) else (module.dilation,)
    return all(step == 1 for step in dilation)


def _no_fold(norm: nn.Module, layer: nn.Module) -> str:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return f"has {type(norm).__name__} there, no BatchNorm with statistics"
    if not isinstance(layer, _ConvNd | nn.Linear):
        return f"has {type(layer).__name__} before the norm, no convolution or linear layer"
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return "" if outputs == len(norm.running_mean) else f"has {outputs} outputs before {len(norm.running_mean)} norms"


def effective(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return the edits without those of what a removed module takes with it."""
    removed = {edit.path for edit in edits if edit.kind == "remove"}

    def gone(path: str, *, itself: bool) -> bool:
        above = path.split(".")
        return any(".".join(above[:n]) in removed for n in range(1, len(above) + int(itself)))

    return tuple(
        edit
        for edit in edits
        if not gone(edit.path, itself=edit.kind != "remove") and not gone(edit.other, itself=True)
    )


def _remove(model: nn.Module, edit: Edit) -> None:
    block = model.get_submodule(edit.path)
    replace_module(model, block, stand_in(block, edit.returns))


def _no_bias(model: nn.Module, edit: Edit) -> None:
    model.get_submodule(edit.path.rpartition(".")[0]).register_parameter("bias", None)


def _fold_norm(model: nn.Module, edit: Edit) -> None:
    """Scale a layer's outputs as the norm after it does in eval mode: w' = w g / s, b' = beta + (b - mean) g / s."""
    norm, layer = model.get_submodule(edit.path), model.get_submodule(edit.other)
    assert isinstance(norm, _BatchNorm)
    assert isinstance(layer, _ConvNd | nn.Linear)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
        if norm.affine:
            scale = scale * norm.weight.double()
        bias = shift * scale if not norm.affine else norm.bias.double() + shift * scale
        layer.weight.copy_(_scaled(layer, scale))
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
    replace_module(model, norm, nn.Identity())


def _scaled(layer: _ConvNd | nn.Linear, scale: Tensor) -> Tensor:
    """Return a layer's weight with every output multiplied by its own scale [outputs]."""
    weight = layer.weight.double()
    if not isinstance(layer, _ConvTransposeNd):
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    by_group = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return (by_group * scale.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def _average_pool(model: nn.Module, edit: Edit) -> None:
    """Average over the same windows; what was padded does not count, as it does not in the maximum."""
    pool = model.get_submodule(edit.path)
    assert isinstance(pool, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d)
    kind = next(made for of, made in _POOLINGS if isinstance(pool, of))
    window = (pool.kernel_size, pool.stride, pool.padding)
    replace_module(model, pool, kind(*window, ceil_mode=pool.ceil_mode, count_include_pad=False))


def _low_rank(model: nn.Module, edit: Edit) -> None:
    layer = model.get_submodule(edit.path)
    replace_module(model, layer, factors_of(layer, edit.value))


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another wherever the model holds it, in the other's mode."""
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in list(parent.__dict__["_modules"].items()):
            if child is old:
                setattr(parent, name, new)


_APPLY: dict[EditKind, Callable[[nn.Module, Edit], None]] = {
    "remove": _remove,
    "no_bias": _no_bias,
    "fold_norm": _fold_norm,
    "average_pool": _average_pool,
    "low_rank": _low_rank,
}


def _refuse(edit: Edit, problem: str) -> NoReturn:
    raise ArtifactError(
        f"The plan's edit {edit.kind!r} of {edit.path!r} does not fit: the model {problem}.",
        hint="Pass the model definition that was pruned, with the same sizes.",
    )
