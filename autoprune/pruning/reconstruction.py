"""Pruned model -> pruned model whose layers answer as the dense ones did: least squares a layer, no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.groups.types import ArchitecturePlan
from autoprune.pruning.criteria.activations import CONVOLUTIONS
from autoprune.pruning.criteria.base import eval_mode
from autoprune.tasks.protocol import Inputs, Task

ROWS = 20_000
"""Output positions that a layer is solved on, at most."""

RIDGE = 0.01
"""Added to the diagonal of the normal equations, as a share of its mean times unknowns over rows: the fewer the data,
the nearer the solution stays to the weights that are there."""

Solvable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True)
class _Layer:
    """A layer to solve.

    Args:
        path: Module path, in both models.
        calls: How often a forward pass calls it.
        outputs: Indices of the dense layer's outputs that the pruned one has; None for all.
    """

    path: str
    calls: int
    outputs: Tensor | None


@dataclass
class _Normal:
    """The normal equations of the change of a layer's weights, summed over what was seen, float64.

    Args:
        gram: [inputs, inputs] of the layer's inputs, with a last input of 1 where it has a bias.
        slope: [inputs, outputs] inputs times what the layer lacks of the dense outputs.
        rows: Output positions seen.
    """

    gram: Tensor
    slope: Tensor
    rows: int


class _ReachedError(Exception):
    """Ends a forward pass that has shown what was to be seen."""


def reconstruct(
    dense: nn.Module, pruned: nn.Module, architecture: ArchitecturePlan, task: Task, *, limit: int, seed: int
) -> None:
    """Solve the kept weights by least squares, so that each layer gives the dense layer's outputs from what is left.

    In order of the forward pass, for every linear layer and ungrouped convolution that lost inputs: ridge least squares
    of its weight and bias, from the pruned model's own inputs, which the layers solved before have given, to the dense
    layer's outputs at the indices that stayed (He, Zhang and Sun, Channel Pruning, ICCV 2017). The ridge pulls towards
    the weights that the layer has, so that what the data say nothing of stays as it is. An output whose error on the
    calibration data would not fall keeps its weights. Layers are left alone whose weight is shared, parametrised or
    masked, or that an edit concerns. BatchNorm is not recalibrated here.

    Args:
        dense: The prepared dense model; never changed.
        pruned: The model that `architecture` describes, on any device; changed in place, modes as they were.
        architecture: What was kept.
        task: Gives the calibration data.
        limit: Calibration units to solve on. Of the positions of convolutions and sequences at most 20,000 are drawn.
        seed: Seed of both draws.

    Raises:
        TaskError: There is no calibration data.
        CandidateError: An output, or a solved weight, is not finite.
    """
    batches = list(task.batches("calibration", seed=seed, limit=limit))
    if not batches:
        raise TaskError("batches('calibration') yields nothing.", hint="Give the task calibration data.")
    both = tuple([task.inputs(task.move(batch, _device(m))) for batch in batches] for m in (dense, pruned))
    with eval_mode(dense), eval_mode(pruned), torch.no_grad():
        for layer in _layers(pruned, architecture, both[1][0]):
            generator = torch.Generator().manual_seed(seed)
            _solve(pruned.get_submodule(layer.path), _equations(dense, pruned, layer, both, generator), layer.path)


def _layers(pruned: nn.Module, architecture: ArchitecturePlan, inputs: Inputs) -> list[_Layer]:
    """Return the layers that lost inputs, in the order of their first call."""
    edited = {path for edit in architecture.edits for path in (edit.path, edit.other)}
    owners: dict[int, int] = {}
    for module in pruned.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = {}
    for path, module in pruned.named_modules():
        name = f"{path}.weight".lstrip(".")
        cut = 1 in architecture.kept.get(name, {}) and name not in architecture.masks and path not in edited
        if cut and _solvable(module) and all(owners[id(p)] == 1 for p in module.parameters()):
            found[path] = module
    calls = _calls(pruned, list(found), inputs)
    out = []
    for path, count in calls.items():
        kept = architecture.kept[f"{path}.weight".lstrip(".")].get(0)
        out.append(_Layer(path, count, None if kept is None else torch.tensor(kept)))
    return out


def _solvable(module: nn.Module) -> TypeGuard[Solvable]:
    """Tell whether a module is an ungrouped convolution or linear layer with a weight of its own."""
    plain = isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)
    return plain and not list(module.children())


def _calls(model: nn.Module, paths: Sequence[str], inputs: Inputs) -> dict[str, int]:
    """Return path -> number of calls in one forward pass, in the order of the first."""
    counts: dict[str, int] = {}

    def counting(path: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[path] = counts.get(path, 0) + 1

        return count

    handles = [model.get_submodule(path).register_forward_pre_hook(counting(path)) for path in paths]
    try:
        model(*inputs.args, **inputs.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _equations(
    dense: nn.Module,
    pruned: nn.Module,
    layer: _Layer,
    batches: tuple[list[Inputs], ...],
    generator: torch.Generator,
) -> _Normal:
    """Sum up a layer's normal equations over the batches of both models."""
    module = pruned.get_submodule(layer.path)
    assert _solvable(module)
    most = max(1, ROWS // (layer.calls * len(batches[0])))
    total: _Normal | None = None
    for left, right in zip(*batches, strict=True):
        wanted = _seen(dense, layer, left, outputs=True)
        for target, x in zip(wanted, _seen(pruned, layer, right, outputs=False), strict=False):
            rows, targets = _rows(module, x, target.to(x.device), most, generator)
            if layer.outputs is not None:
                targets = targets.index_select(1, layer.outputs.to(targets.device))
            total = _added(total, module, rows.double(), targets.double())
    assert total is not None
    return total


def _added(total: _Normal | None, module: Solvable, rows: Tensor, targets: Tensor) -> _Normal:
    """Add rows [n, inputs] and what their outputs should be [n, outputs] to the normal equations."""
    lacking = targets - rows @ module.weight.double().flatten(1).T
    if module.bias is not None:
        lacking -= module.bias.double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    gram, slope = rows.T @ rows, rows.T @ lacking
    if total is None:
        return _Normal(gram, slope, len(rows))
    return _Normal(total.gram + gram, total.slope + slope, total.rows + len(rows))


def _seen(model: nn.Module, layer: _Layer, inputs: Inputs, *, outputs: bool) -> list[Tensor]:
    """Return what a layer gives, or reads, at each of its calls; the forward pass ends there."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> None:
        found.append(tensor)
        if len(found) == layer.calls:
            raise _ReachedError

    with _hooked(model.get_submodule(layer.path), keep, outputs=outputs), suppress(_ReachedError):
        model(*inputs.args, **inputs.kwargs)
    return found


@contextmanager
def _hooked(module: nn.Module, keep: Callable[[Tensor], None], *, outputs: bool) -> Iterator[None]:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else next(iter(kwargs.values())))

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        keep(output)

    handle = (
        module.register_forward_hook(after) if outputs else module.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        yield
    finally:
        handle.remove()


def _rows(module: Solvable, x: Tensor, outputs: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return [n, weights an output] what the layer multiplies and [n, outputs] what comes out, at drawn positions."""
    patches = x
    if not isinstance(module, nn.Linear):
        if x.ndim == module.weight.ndim - 1:
            x, outputs = x[None], outputs[None]
        patches, outputs = _patches(module, x), outputs.movedim(1, -1)
    count = outputs.numel() // outputs.shape[-1]
    drawn = torch.randperm(count, generator=generator)[:most] if count > most else torch.arange(count)
    places = torch.unravel_index(drawn.to(x.device), outputs.shape[:-1])
    return patches[places].flatten(1), outputs[places]


def _patches(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Return [batch, output positions ..., channels, kernel ...] a view of the padded input."""
    sides: list[int] = []
    for size, step, pad in zip(module.kernel_size, module.dilation, _padding(module), strict=True):
        left = pad if pad >= 0 else step * (size - 1) // 2
        sides = [left, pad if pad >= 0 else step * (size - 1) - left, *sides]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    view = F.pad(x, sides, mode=mode) if any(sides) else x
    for dim, (size, stride, step) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        view = view.unfold(dim, step * (size - 1) + 1, stride)[..., ::step]
    return view.movedim(1, 1 + len(module.kernel_size))


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    """Return the padding by dimension; -1 where it is what keeps the size."""
    if isinstance(module.padding, str):
        return ((-1,) if module.padding == "same" else (0,)) * len(module.kernel_size)
    return tuple(module.padding)


def _solve(module: nn.Module, normal: _Normal, path: str) -> None:
    """Change a layer's weights by what solves its equations, for every output whose error that lowers."""
    assert _solvable(module)
    if not (bool(torch.isfinite(normal.gram).all()) and bool(torch.isfinite(normal.slope).all())):
        raise _not_finite(path)
    size = float(normal.gram.diagonal().mean()) * len(normal.gram) / normal.rows
    ridge = torch.full_like(normal.gram[0], RIDGE * size)
    if module.bias is not None:
        ridge[-1] = 0.0
    factor, failed = torch.linalg.cholesky_ex(normal.gram + torch.diag(ridge))
    if bool(failed):
        return
    change = torch.cholesky_solve(normal.slope, factor)
    old = _joined(module)
    new = (old.double() + change.T).to(old.dtype)
    if not bool(torch.isfinite(new).all()):
        raise _not_finite(path)
    change = (new.double() - old.double()).T
    falls = (change * (normal.gram @ change)).sum(0) < 2.0 * (change * normal.slope).sum(0)
    solved = torch.where(falls[:, None], new, old)
    weights = module.weight[0].numel()
    module.weight.copy_(solved[:, :weights].reshape(module.weight.shape))
    if module.bias is not None:
        module.bias.copy_(solved[:, weights])


def _joined(module: Solvable) -> Tensor:
    """Return [outputs, inputs] the weight, with the bias as its last column where there is one."""
    weight = module.weight.flatten(1)
    return weight.clone() if module.bias is None else torch.cat([weight, module.bias[:, None]], dim=1)


def _not_finite(path: str) -> CandidateError:
    return CandidateError(
        f"The reconstruction of {path!r} is not finite.",
        reason="nonfinite",
        stage="recover",
        hint="Check the model's outputs on the calibration data for NaN or infinity.",
    )


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
