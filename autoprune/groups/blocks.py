"""Model -> blocks that can leave it: those around which a shortcut leads, whatever the widths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.groups.cloning import clone_model
from autoprune.groups.edits import replace_module
from autoprune.groups.recording import FORWARD_ERRORS, Recording
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import ModelGroups
from autoprune.tasks.protocol import Inputs

_PROBES = 2
_REMOVED = 0.45
_SEED = 0

Shape = tuple[int, ...]


def removable_blocks(model: nn.Module, groups: ModelGroups, inputs: Inputs, seen: Recording) -> tuple[str, ...]:
    """Return the paths of the blocks that an identity can stand for, in order of definition.

    A block is a module with layers inside that turns one tensor into another of the same shape, once a pass, and that
    the model repeats. It is removable where its input reaches its output past all its weights (Veit et al., NeurIPS
    2016), and where both keep one width when the channels of all groups are cut at random, so that what follows still
    fits after any slicing. Of nested ones the outermost counts, unless it only chains those within it.

    Args:
        model: A copy that may be run, in eval mode; it comes back as it was.
        groups: All that can be cut in it.
        inputs: Arguments of one forward pass.
        seen: A pass of the model.
    """
    sources = {path: call.source for path in _candidates(model, seen) if (call := seen.only_call(path)) is not None}
    found = {path: source.clone() for path, source in sources.items() if source is not None}
    found = {path: source for path, source in found.items() if _has_shortcut(model.get_submodule(path), source)}
    keep = _same_after_slicing(model, groups, inputs, tuple(found))
    found = {path: source for path, source in found.items() if path in keep}
    chosen = set(_outermost(model, found))
    return tuple(path for path, _ in model.named_modules() if path in chosen)


def _candidates(model: nn.Module, seen: Recording) -> list[str]:
    """Return the modules that could be blocks, by what was seen of them."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(path)
    kinds = Counter((type(module), _pattern(path)) for path, module in model.named_modules())
    out = []
    for path, module in model.named_modules():
        call = seen.only_call(path)
        if not path or call is None or len(names[id(module)]) > 1 or not any(True for _ in module.children()):
            continue
        assert call.source is not None
        assert call.output is not None
        same = call.source.shape == call.output.shape and call.source.dtype == call.output.dtype
        layers = any(isinstance(part, _ConvNd | nn.Linear) for part in module.modules())
        repeated = kinds[type(module), _pattern(path)] > 1 and type(module) is not nn.Sequential
        if same and layers and repeated and call.source.is_floating_point():
            out.append(path)
    return out


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "*", path)


def _has_shortcut(block: nn.Module, source: Tensor) -> bool:
    """Tell whether a block's output still follows its input when all its layers' weights are zero."""
    weights = [p for p in block.parameters() if p.dim() > 1]
    layers = [m for m in block.modules() if isinstance(m, _ConvNd | nn.Linear) and m.bias is not None]
    zeros = {id(p): torch.zeros_like(p) for p in (*weights, *(m.bias for m in layers if m.bias is not None))}
    emptied = clone_model(block, zeros)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(_SEED)).to(source)
    try:
        with torch.no_grad():
            left, right = emptied(source.clone()), emptied(source + noise)
    except FORWARD_ERRORS:
        return False
    return bool((left - right).abs().nan_to_num().max() > 0)


def _same_after_slicing(model: nn.Module, groups: ModelGroups, inputs: Inputs, paths: Sequence[str]) -> set[str]:
    """Return the blocks whose input and output keep one shape in randomly sliced models."""
    keep = set(paths)
    slicer, rng = Slicer(model, groups.plan), np.random.default_rng(_SEED)
    for _ in range(_PROBES if keep and groups.groups else 0):
        sliced = slicer.slice(_random_alive(groups, rng))
        shapes = _shapes(sliced, inputs, keep)
        keep &= {path for path, (before, after) in shapes.items() if before == after}
    return keep


def _random_alive(groups: ModelGroups, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw living units so that groups of one width are cut by different amounts, as far as there are enough."""
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    amounts: dict[int, Iterator[int]] = {}
    for group in groups.groups:
        if group.width < 2:
            continue
        if group.width not in amounts:
            amounts[group.width] = _amounts(group.width, rng)
        removed = rng.choice(group.width, next(amounts[group.width]), replace=False)
        alive[group.start + removed] = False
    for dimension in groups.plan.dimensions:
        if not np.append(alive, True)[dimension.units].any():
            alive[dimension.units[0]] = True
    return alive


def _amounts(width: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (1 + rng.permutation(max(1, int(_REMOVED * width)))).tolist()


def _shapes(model: nn.Module, inputs: Inputs, paths: set[str]) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes of input and output of some modules in one pass; none where the model does not run."""
    found: dict[str, tuple[Shape, Shape]] = {}

    def note(path: str, source: Tensor, output: Tensor) -> None:
        found[path] = tuple(source.shape), tuple(output.shape)

    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda _, args, out, p=path: note(p, args[0], out))
    try:
        with torch.no_grad():
            model.eval()(*inputs.args, **inputs.kwargs)
    except FORWARD_ERRORS:
        return {}
    return found


def _outermost(model: nn.Module, found: Mapping[str, Tensor]) -> list[str]:
    """Return the blocks that lie in no other one; one that only chains blocks gives way to these."""
    chosen: list[str] = []
    for path in sorted(found, key=lambda p: -p.count(".")):
        inner = [other for other in chosen if other.startswith(f"{path}.")]
        if not inner or not _is_identity(model.get_submodule(path), found[path], path, inner):
            chosen = [other for other in chosen if other not in inner] + [path]
    return chosen


def _is_identity(block: nn.Module, source: Tensor, path: str, inner: Sequence[str]) -> bool:
    """Tell whether a block without its inner ones changes nothing."""
    with _without(block, [other.removeprefix(f"{path}.") for other in inner]), torch.no_grad():
        return bool(torch.equal(block(source.clone()), source))


@contextmanager
def _without(model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    taken = [(path, model.get_submodule(path)) for path in paths]
    stands = [nn.Identity() for _ in taken]
    for (_, module), stand in zip(taken, stands, strict=True):
        replace_module(model, module, stand)
    try:
        yield
    finally:
        for (_, module), stand in zip(taken, stands, strict=True):
            replace_module(model, stand, module)
