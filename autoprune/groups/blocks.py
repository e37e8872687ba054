"""Model -> blocks that can leave it: those around which a shortcut leads, whatever the widths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.groups.bypass import argument, main_output, returns_of, stand_in
from autoprune.groups.cloning import clone_model
from autoprune.groups.edits import replace_module
from autoprune.groups.recording import FORWARD_ERRORS, Call, Recording
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import Argument, Edit, ModelGroups, Returns
from autoprune.tasks.protocol import Inputs

_PROBES = 2
_REMOVED = 0.45
_SEED = 0
_EXACT = 1e-3

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Block:
    """What may be a block, and how it was called.

    Args:
        call: Its only call; the tensors are those of the pass.
        source: Which argument is the tensor that a shortcut would carry to the output.
        returns: What can stand for its outputs.
    """

    call: Call
    source: Argument
    returns: Returns

    @property
    def input(self) -> Tensor:
        """The tensor that goes in."""
        found: Tensor = argument(self.source, self.call.args, self.call.kwargs)
        return found

    @property
    def leaves(self) -> list[Any]:
        """What lies in its arguments and in their containers."""
        return tree_leaves((self.call.args, dict(self.call.kwargs)))

    def run(self, module: nn.Module, source: Tensor) -> Tensor:
        """Call a module as the block was called, with another tensor, and return its first output."""
        args, kwargs = list(self.call.args), dict(self.call.kwargs)
        if isinstance(self.source, int):
            args[self.source] = source
        else:
            kwargs[self.source] = source
        output: Tensor = main_output(module(*args, **kwargs))
        return output


def removable_blocks(model: nn.Module, groups: ModelGroups, inputs: Inputs, seen: Recording) -> tuple[Edit, ...]:
    """Return the edits that take a block away, in order of definition.

    A block is a module with weights inside that turns a tensor into another of the same shape, once a pass, and that
    the model repeats. It may take further arguments, which it must not change, and return a tuple, as long as its
    arguments can stand for that (`returns_of`). It is removable where its input reaches its output past all its
    weights (Veit et al., NeurIPS 2016), and where both keep one width when the channels of all groups are cut at
    random, so that what follows still fits after any slicing. Of nested ones the outermost counts, unless it only
    chains those within it. What a block does besides, such as setting an attribute that others read, is not seen.

    Args:
        model: A copy that may be run, in eval mode; it comes back as it was.
        groups: All that can be cut in it.
        inputs: Arguments of one forward pass.
        seen: A pass of the model.
    """
    found = _candidates(model, seen)
    found = {path: block for path, block in found.items() if _has_shortcut(model.get_submodule(path), block)}
    found = {path: b for path, b in found.items() if not _changes_arguments(model.get_submodule(path), b)}
    keep = _same_after_slicing(model, groups, inputs, found)
    found = {path: block for path, block in found.items() if path in keep}
    chosen = set(_outermost(model, found))
    return tuple(Edit("remove", p, returns=found[p].returns) for p, _ in model.named_modules() if p in chosen)


def _candidates(model: nn.Module, seen: Recording) -> dict[str, _Block]:
    """Return the modules that could be blocks, by what was seen of them."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    kinds = Counter((type(module), _pattern(path)) for path, module in model.named_modules())
    out = {}
    for path, module in model.named_modules():
        if not path or len(seen.calls.get(path, ())) != 1 or places[id(module)] > 1:
            continue
        repeated = kinds[type(module), _pattern(path)] > 1 and type(module) is not nn.Sequential
        inner = any(True for _ in module.children()) and any(p.dim() > 1 for p in module.parameters())
        roads = returns_of(seen, path) if repeated and inner else None
        if roads is None:
            continue
        block = _Block(seen.calls[path][0], *roads)
        output = main_output(block.call.result)
        if block.input.shape == output.shape and block.input.dtype == output.dtype and output.is_floating_point():
            out[path] = block
    return out


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "*", path)


def _has_shortcut(module: nn.Module, block: _Block) -> bool:
    """Tell whether a block without its layers hands its input on.

    What it makes of its input then, it must hand on unchanged: so the input itself, or, where a norm or an activation
    comes last, the input as that leaves it, but neither twice the input nor the input negated.
    """
    source, emptied = block.input, clone_model(module, _emptied(module))
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(_SEED)).to(source)
    try:
        with torch.no_grad():
            left, right = block.run(emptied, source.clone()).clone(), block.run(emptied, source + noise)
            again = block.run(emptied, left.clone())
    except FORWARD_ERRORS:
        return False
    follows = bool((left - right).abs().nan_to_num().max() > 0)
    scale = float(left.abs().nan_to_num().max())
    return follows and torch.allclose(again, left, _EXACT, _EXACT * scale, equal_nan=True)


def _emptied(module: nn.Module) -> dict[int, Tensor]:
    """Return by id the tensors with which all layers make zeros and all norms leave a normal input as it is."""
    out: dict[int, Tensor] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        leaf = name.rpartition(".")[2]
        if tensor.is_floating_point() and (isinstance(tensor, nn.Parameter) or leaf.startswith("running_")):
            one = leaf == "running_var" or (tensor.dim() == 1 and leaf not in ("bias", "beta", "running_mean"))
            out[id(tensor)] = torch.ones_like(tensor) if one else torch.zeros_like(tensor)
    return out


def _changes_arguments(module: nn.Module, block: _Block) -> bool:
    """Tell whether a call changes its arguments: a list that grows, a tensor that is written to."""
    before = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in block.leaves]
    try:
        with torch.no_grad():
            block.run(module, block.input.clone())
    except FORWARD_ERRORS:
        return True
    after = block.leaves
    return len(after) != len(before) or not all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(after, before, strict=True)
    )


def _same_after_slicing(
    model: nn.Module, groups: ModelGroups, inputs: Inputs, blocks: Mapping[str, _Block]
) -> set[str]:
    """Return the blocks whose input and output keep one shape in randomly sliced models."""
    keep = set(blocks)
    slicer, rng = Slicer(model, groups.plan), np.random.default_rng(_SEED)
    for _ in range(_PROBES if keep and groups.groups else 0):
        shapes = _shapes(slicer.slice(_random_alive(groups, rng)), inputs, {path: blocks[path].source for path in keep})
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


def _shapes(model: nn.Module, inputs: Inputs, sources: Mapping[str, Argument]) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes of input and output of some modules in one pass; none where the model does not run."""
    found: dict[str, tuple[Shape, Shape]] = {}

    def noting(path: str, source: Argument) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            found[path] = tuple(argument(source, args, kwargs).shape), tuple(main_output(output).shape)

        return note

    for path, source in sources.items():
        model.get_submodule(path).register_forward_hook(noting(path, source), with_kwargs=True)
    try:
        with torch.no_grad():
            model.eval()(*inputs.args, **inputs.kwargs)
    except FORWARD_ERRORS:
        return {}
    return found


def _outermost(model: nn.Module, found: Mapping[str, _Block]) -> list[str]:
    """Return the blocks that lie in no other one; one that only chains blocks gives way to these."""
    chosen: list[str] = []
    for path in sorted(found, key=lambda p: -p.count(".")):
        inner = {other: found[other] for other in chosen if other.startswith(f"{path}.")}
        if not inner or not _is_identity(model, path, found[path], inner):
            chosen = [other for other in chosen if other not in inner] + [path]
    return chosen


def _is_identity(model: nn.Module, path: str, block: _Block, inner: Mapping[str, _Block]) -> bool:
    """Tell whether a block without its inner ones changes nothing."""
    with _without(model, inner), torch.no_grad():
        return bool(torch.equal(block.run(model.get_submodule(path), block.input.clone()), block.input))


@contextmanager
def _without(model: nn.Module, blocks: Mapping[str, _Block]) -> Iterator[None]:
    taken = [(model.get_submodule(path), block.returns) for path, block in blocks.items()]
    stands = [stand_in(module, returns) for module, returns in taken]
    for (module, _), stand in zip(taken, stands, strict=True):
        replace_module(model, module, stand)
    try:
        yield
    finally:
        for (module, _), stand in zip(taken, stands, strict=True):
            replace_module(model, stand, module)
