"""Linear or convolution layer -> two layers of low rank, from the truncated singular value decomposition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import CandidateError
from autoprune.groups.layers import is_plain
from autoprune.groups.types import Edit, Part

_CONVOLUTIONS: tuple[tuple[type[nn.Module], Any], ...] = (
    (nn.Conv1d, nn.Conv1d),
    (nn.Conv2d, nn.Conv2d),
    (nn.Conv3d, nn.Conv3d),
)


def can_factor(layer: nn.Module) -> bool:
    """Tell whether a layer is a plain Linear, or a plain convolution in one group, of a rank above 1."""
    if not is_plain(layer) or not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return getattr(layer, "groups", 1) == 1 and full_rank(tuple(layer.weight.shape)) > 1


def full_rank(shape: tuple[int, ...]) -> int:
    """Return the largest rank of a weight, outputs first, as a matrix of outputs by everything else."""
    return min(shape[0], math.prod(shape[1:]))


def low_rank_edit(part: Part, sparsity: float) -> Edit | None:
    """Return the edit that gives a weight the rank `max(1, round((1 - sparsity) * full rank))`.

    The two factors of an [m, n] weight (n: inputs times window) hold r (m + n) entries: fewer than its m n only while
    r < m n / (m + n). Where the factors would not be smaller, or cannot be made, there is no edit: the layer is left
    alone.

    Args:
        part: A weight tensor.
        sparsity: Share of the rank that goes, in [0, 1).
    """
    if part.kind != "tensor" or not part.factored:
        return None
    rank = max(1, round((1.0 - sparsity) * full_rank(part.shape)))
    outputs, inputs = part.shape[0], math.prod(part.shape[1:])
    if rank * (outputs + inputs) >= outputs * inputs:
        return None
    return Edit("low_rank", part.name.rpartition(".")[0], value=rank)


def empty_factors(layer: nn.Module, rank: int) -> nn.Sequential:
    """Return two layers with the shapes of a layer's factors, their weights 0; the second has the layer's bias."""
    second: nn.Module
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(layer.in_features, rank, bias=False, device="meta")
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device="meta")
    else:
        first, second = _convolutions(layer, rank)
    like = layer.weight
    assert isinstance(like, Tensor)
    for made in (first, second):
        shape = tuple(made.get_parameter("weight").shape)
        made.weight = nn.Parameter(like.new_zeros(shape), requires_grad=like.requires_grad)
    if layer.bias is not None:
        assert isinstance(layer.bias, Tensor)
        second.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return nn.Sequential(first, second).train(layer.training)


def factors_of(layer: nn.Module, rank: int) -> nn.Sequential:
    """Return two layers whose product is the best approximation of a layer's weight of that rank.

    The truncated singular value decomposition is optimal in the Frobenius norm (Eckart and Young, 1936); a convolution
    becomes one of the same window to `rank` channels and a 1 x 1 convolution (Denton et al., NeurIPS 2014; Zhang et
    al., TPAMI 2016). Each factor takes the root of the singular values, so that both train at one pace.

    Args:
        layer: `can_factor` holds of it.
        rank: From 1 to its full rank.

    Raises:
        CandidateError: The weight is not finite.
    """
    weight = layer.get_parameter("weight").detach()
    matrix = weight.reshape(len(weight), -1).double()
    if not bool(torch.isfinite(matrix).all()):
        raise CandidateError("A weight to be factored is not finite.", reason="nonfinite", stage="prune")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    roots = values[:rank].sqrt()
    made = empty_factors(layer, rank)
    with torch.no_grad():
        for factor, entries in ((made[0], roots[:, None] * right[:rank]), (made[1], left[:, :rank] * roots)):
            own = factor.get_parameter("weight")
            own.copy_(entries.reshape(own.shape))
    return made


def _convolutions(layer: Any, rank: int) -> tuple[nn.Module, nn.Module]:
    kind = next(made for of, made in _CONVOLUTIONS if isinstance(layer, of))
    first: nn.Module = kind(
        layer.in_channels,
        rank,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    second: nn.Module = kind(rank, layer.out_channels, 1, bias=layer.bias is not None, device="meta")
    return first, second
