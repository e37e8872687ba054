"""Parameters -> layers: the names by which people know what is pruned."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

WEIGHTED: tuple[type[nn.Module], ...] = (
    _ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.MultiheadAttention,
)
PRUNABLE_KINDS = "Conv1d/2d/3d, ConvTranspose1d/2d/3d, Linear, Embedding and raw parameters used in matmul or conv"


def layer_of(model: nn.Module, parameter: str) -> str:
    """Return the layer that owns a parameter: its module, or the parameter itself where a larger module holds it."""
    path, parametrised, _ = parameter.partition(".parametrizations.")
    if parametrised:
        return path
    path = parameter.rpartition(".")[0]
    owner = model.get_submodule(path)
    leaf = path != "" and not any(True for _ in owner.children())
    return path if leaf or isinstance(owner, nn.MultiheadAttention) else parameter


def layer_kind(model: nn.Module, layer: str) -> str:
    """Return the class of a layer's module; for a raw parameter that of the module which holds it."""
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(layer, modules.get(layer.rpartition(".")[0], model))
    return type(module).__name__


def weighted_layers(model: nn.Module) -> dict[str, str]:
    """Return layer -> its main weight's name, of every module whose weight is a matrix, in order of definition."""
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        layer = layer_of(model, name)
        if parameter.dim() >= 2 and layer != name:
            found.setdefault(layer, name)
    return found


def output_dim(model: nn.Module, parameter: str) -> int:
    """Return the dimension of a layer's weight that holds its outputs."""
    owner = model.get_submodule(parameter.rpartition(".")[0])
    return 1 if isinstance(owner, nn.Embedding | nn.EmbeddingBag | _ConvTransposeNd) else 0


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a convolution or linear layer computes what torch's own does, from its own `weight` and `bias`."""
    own = layer.__dict__.get("_parameters", {})
    return own.get("weight") is not None and type(layer).forward in _PLAIN_FORWARDS


_PLAIN_FORWARDS = tuple(
    kind.forward
    for kind in (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
)
