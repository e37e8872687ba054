"""Model + replacement tensors -> independent clone: structure is copied, replaced tensors never are."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_ATOMIC = frozenset(
    {bool, int, float, complex, str, bytes, NoneType, type, FunctionType, BuiltinFunctionType}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format}
)
_DICTIONARIES = (dict, OrderedDict)
_DROPPED = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_REGISTERED = frozenset({"_parameters", "_buffers", "_modules", *_DROPPED})


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under every name it has."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    return tensors


def clone_model(model: nn.Module, replacements: Mapping[int, Tensor]) -> nn.Module:
    """Return a clone that shares no tensor with `model`; shared tensors and modules stay shared.

    Forward hooks come along, since they may be part of what the model computes; all others are dropped.

    Args:
        model: The original, left untouched.
        replacements: `id` of an original parameter or buffer -> the data that its clone holds, taken without a copy.
    """
    return _Clone(model, replacements).model


def sharing_clone(model: nn.Module, copied: Collection[int] = ()) -> nn.Module:
    """Return a clone to look at, run or take apart: its parameters share the original's memory, buffers do not.

    Args:
        model: The original; what replaces a module or a parameter of the clone does not reach it.
        copied: `id` of parameters that shall be copied too, since they are to be written to.
    """
    shared = {id(p): p.detach() for p in model.parameters() if id(p) not in copied}
    return clone_model(model, shared)


class _Clone:
    """One cloning: shells of all modules first, so that attributes may refer to any module or tensor."""

    def __init__(self, model: nn.Module, replacements: Mapping[int, Tensor]) -> None:
        self._replacements = replacements
        originals = list(model.modules())
        self._memo: dict[int, Any] = {id(m): m.__class__.__new__(m.__class__) for m in originals}
        with torch.no_grad():
            for original in originals:
                self._register(original)
            for original in originals:
                self._copy_attributes(original)
        self.model: nn.Module = self._memo[id(model)]

    def _register(self, original: nn.Module) -> None:
        tensor, memo, state = self._tensor, self._memo, original.__dict__
        shell = memo[id(original)].__dict__
        shell["_parameters"] = {k: tensor(v) for k, v in state["_parameters"].items()}
        shell["_buffers"] = {k: tensor(v) for k, v in state["_buffers"].items()}
        shell["_modules"] = {k: v if v is None else memo[id(v)] for k, v in state["_modules"].items()}

    def _copy_attributes(self, original: nn.Module) -> None:
        state = original.__dict__
        shell = self._memo[id(original)].__dict__
        for name, value in state.items():
            if type(value) in _ATOMIC:
                shell[name] = value
            elif type(value) in _DICTIONARIES and not value:
                shell[name] = type(value)()
            elif name not in _REGISTERED:
                shell[name] = self._attribute(value)
        for name in _DROPPED:
            if name in state:
                shell[name] = type(state[name])()

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, tuple) and all(type(item) in _ATOMIC for item in value):
            return value
        if isinstance(value, list | set) and all(type(item) in _ATOMIC for item in value):
            return value.copy()
        return copy.deepcopy(value, self._memo)

    def _tensor(self, original: Tensor | None) -> Tensor | None:
        if original is None:
            return None
        clone: Tensor | None = self._memo.get(id(original))
        if clone is None:
            data = self._replacements.get(id(original))
            clone = original.clone() if data is None else data
            if isinstance(original, nn.Parameter):
                clone = nn.Parameter(clone, requires_grad=original.requires_grad)
            self._memo[id(original)] = clone
        return clone


def size_attributes(module: nn.Module) -> dict[str, int]:
    """Return the integers that a module keeps by name, those in a list or tuple as `name[index]`."""
    found = {}
    for name, value in vars(module).items():
        if type(value) is int:
            found[name] = value
        elif type(value) in (list, tuple):
            found |= {f"{name}[{i}]": item for i, item in enumerate(value) if type(item) is int}
    return found


def set_size(module: nn.Module, name: str, value: int) -> None:
    """Set one of a module's `size_attributes`."""
    attribute, bracket, index = name.partition("[")
    if not bracket:
        setattr(module, name, value)
        return
    old = getattr(module, attribute)
    items = list(old)
    items[int(index.rstrip("]"))] = value
    setattr(module, attribute, type(old)(items))


def follow_sizes(module: nn.Module) -> None:
    """Set a standard layer's size attributes to the shapes of its tensors; a convolution's `groups` must be right."""
    own = {**module.__dict__["_buffers"], **module.__dict__["_parameters"]}
    sized = next((own[name] for name in _SIZED if own.get(name) is not None), None)
    if sized is None:
        return
    for kind, sizes in _SIZES:
        if isinstance(module, kind):
            module.__dict__.update(sizes(sized.shape, module))
            return


def _conv_sizes(shape: torch.Size, module: Any) -> dict[str, int]:
    return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}


def _conv_transpose_sizes(shape: torch.Size, module: Any) -> dict[str, int]:
    return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}


def _recurrent_sizes(shape: torch.Size, module: Any) -> dict[str, int]:
    gates = 4 if isinstance(module, nn.LSTM | nn.LSTMCell) else 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
    return {"input_size": shape[1], "hidden_size": shape[0] // gates}


_SIZED = ("weight", "running_mean", "weight_ih_l0", "weight_ih")
_Sizes = Callable[[torch.Size, Any], Mapping[str, Any]]
_SIZES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], _Sizes], ...] = (
    (_ConvTransposeNd, _conv_transpose_sizes),
    (_ConvNd, _conv_sizes),
    (_NormBase, lambda shape, _: {"num_features": shape[0]}),
    (nn.Linear, lambda shape, _: {"out_features": shape[0], "in_features": shape[1]}),
    (nn.GroupNorm, lambda shape, _: {"num_channels": shape[0]}),
    ((nn.LayerNorm, nn.RMSNorm), lambda shape, _: {"normalized_shape": tuple(shape)}),
    ((nn.Embedding, nn.EmbeddingBag), lambda shape, _: {"num_embeddings": shape[0], "embedding_dim": shape[1]}),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent_sizes),
    (nn.PReLU, lambda shape, _: {"num_parameters": shape[0]}),
)
