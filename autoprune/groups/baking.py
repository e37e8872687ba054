"""Layers with computed weights -> layers with plain ones: parametrisations and the older hooks.

`torch.nn.utils.parametrize` computes a tensor at every access (weight_norm, spectral_norm, orthogonal, one of the
user's own), `torch.nn.utils.weight_norm`, `spectral_norm` and `prune` by a hook before every call. Neither can be cut
by index: a norm over a row, or an orthogonal matrix, does not survive. What they compute in eval mode can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm


def tied_tensors(model: nn.Module) -> frozenset[int]:
    """Return the ids of the parameters that several modules hold."""
    held = [id(p) for module in model.modules() for p in dict.fromkeys(module.parameters(recurse=False))]
    return frozenset(number for number, times in Counter(held).items() if times > 1)


def bake(module: nn.Module, tied: Collection[int] = ()) -> bool:
    """Give a module, in place, the plain tensors that it computes in eval mode; its training flag stays.

    A parameter stays one that is trained where anything it was computed from was. The class that a parametrisation
    made for the module, which copies of it share, is left as it is.

    Args:
        module: In any mode.
        tied: Ids of parameters that other modules hold too: what is computed from one stays computed, since a plain
            tensor would no longer follow the other module's.

    Returns:
        Whether there was something to bake. A parametrisation that draws at random even in eval mode stays.
    """
    hooked = [_bake_hook(module, name, remove) for name, remove in _hooked(module)]
    return _bake_parametrised(module, tied) or bool(hooked)


def _hooked(module: nn.Module) -> list[tuple[str, Callable[[nn.Module, str], object]]]:
    """Return (tensor, what removes the hook that computes it) of the older forms."""
    found: list[tuple[str, Callable[[nn.Module, str], object]]] = []
    for hook in vars(module)["_forward_pre_hooks"].values():
        if isinstance(hook, WeightNorm):
            found.append((hook.name, remove_weight_norm))
        elif isinstance(hook, SpectralNorm):
            found.append((hook.name, remove_spectral_norm))
        elif isinstance(hook, prune.BasePruningMethod):
            found.append((vars(hook)["_tensor_name"], prune.remove))
    return found


def _bake_hook(module: nn.Module, name: str, remove: Callable[[nn.Module, str], object]) -> str:
    sources = [value for leaf, value in module.named_parameters(recurse=False) if leaf.startswith(f"{name}_")]
    trained = any(source.requires_grad for source in sources)
    with torch.no_grad():
        remove(module, name)
    module.get_parameter(name).requires_grad_(trained)
    return name


def _bake_parametrised(module: nn.Module, tied: Collection[int]) -> bool:
    if not parametrize.is_parametrized(module):
        return False
    lists = module.get_submodule("parametrizations")
    if any(id(parameter) in tied for parameter in lists.parameters()):
        return False
    flags = {part: part.training for part in lists.modules()}
    lists.eval()
    with torch.no_grad():
        first, again = ({name: getattr(module, name).clone() for name, _ in lists.named_children()} for _ in range(2))
    for part, flag in flags.items():
        part.training = flag
    if not all(torch.equal(value, again[name]) for name, value in first.items()):
        return False
    trained = {name: [p.requires_grad for p in child.parameters()] for name, child in lists.named_children()}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in first.items():
        _register(module, name, value, trained[name])
    return True


def _register(module: nn.Module, name: str, value: Tensor, trained: list[bool]) -> None:
    """Add a tensor under its own name: a buffer where nothing it was computed from is a parameter."""
    if trained:
        module.register_parameter(name, nn.Parameter(value, requires_grad=any(trained)))
    else:
        module.register_buffer(name, value)
