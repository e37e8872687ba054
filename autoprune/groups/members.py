"""Model + one recorded pass -> the activations, norms, poolings and biases that may go, by what was seen of them."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.groups.edits import can_average
from autoprune.groups.layers import is_plain
from autoprune.groups.recording import Recording

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
)
GATES = (nn.Sigmoid, nn.Hardsigmoid)


def activations(model: nn.Module, seen: Recording) -> list[str]:
    """Return the activations that run once and are none of these: a gate, what a softmax reads, the model's output."""
    single, out = _unshared_modules(model), []
    for path, module in model.named_modules():
        call = seen.only_call(path)
        if not path or path not in single or not isinstance(module, ACTIVATIONS) or call is None:
            continue
        assert call.output is not None
        readers = {use.operator for use in seen.uses(call.output)}
        gates = isinstance(module, GATES) and any(name.startswith("mul") for name in readers)
        if not gates and id(call.output) not in seen.outputs and not any("softmax" in name for name in readers):
            out.append(path)
    return out


def norms(model: nn.Module, seen: Recording) -> list[tuple[str, str]]:
    """Return (norm, layer) of every BatchNorm over the channels that a layer makes and nothing else reads."""
    single, once = _unshared_modules(model), unshared_parameters(model)
    layers = {}
    for path, module in model.named_modules():
        call = seen.only_call(path)
        if path in single and call is not None and is_plain(module) and _owns(module, once):
            layers[id(call.output)] = path
    out = []
    for path, norm in model.named_modules():
        call = seen.only_call(path)
        if path not in single or call is None or call.source is None or not isinstance(norm, _BatchNorm):
            continue
        layer = layers.get(id(call.source))
        alone = {use.module for use in seen.uses(call.source)} == {path} and id(call.source) not in seen.outputs
        if layer is None or not alone or norm.running_mean is None or not _owns(norm, once):
            continue
        if call.source.dim() == model.get_submodule(layer).get_parameter("weight").dim():
            out.append((path, layer))
    return out


def poolings(model: nn.Module, seen: Recording) -> list[str]:
    """Return the max poolings that an average pooling can replace."""
    return [path for path, module in model.named_modules() if path and path in seen.calls and can_average(module)]


def biases(model: nn.Module, seen: Recording) -> list[str]:
    """Return the names of the biases of plain convolution and linear layers that run."""
    once = unshared_parameters(model)
    return [
        f"{path}.bias".lstrip(".")
        for path, module in model.named_modules()
        if path in seen.calls and is_plain(module) and module.bias is not None and id(module.bias) in once
    ]


def unshared_parameters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that have one name."""
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {key for key, count in names.items() if count == 1}


def _unshared_modules(model: nn.Module) -> set[str]:
    """Return the paths of the modules that stand at one place."""
    found = list(model.named_modules(remove_duplicate=False))
    places = Counter(id(module) for _, module in found)
    return {path for path, module in found if places[id(module)] == 1}


def _owns(module: nn.Module, once: set[int]) -> bool:
    return all(id(parameter) in once for parameter in module.parameters(recurse=False))
