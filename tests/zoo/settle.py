"""Normalisation layers of an untrained model made like those of a trained one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.tasks.protocol import Inputs

Norm = _BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm


def settle(model: nn.Module, inputs: Inputs, generator: torch.Generator) -> None:
    """Draw random affine parameters, gather BatchNorm statistics on `inputs`, jitter them, and leave eval mode on."""
    norms = [m for m in model.modules() if isinstance(m, Norm)]
    for norm in norms:
        _draw_affine(norm, generator)
    batch_norms = [m for m in norms if isinstance(m, _BatchNorm)]
    _gather_statistics(model, batch_norms, inputs)
    for norm in batch_norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.add_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.mul_(_uniform(norm.running_var, 0.8, 1.25, generator))
    model.eval()


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).uniform_(low, high, generator=generator)


def _draw_affine(norm: Norm, generator: torch.Generator) -> None:
    with torch.no_grad():
        if norm.weight is not None:
            norm.weight.copy_(_uniform(norm.weight, 0.5, 1.5, generator))
        bias = getattr(norm, "bias", None)
        if bias is not None:
            bias.copy_(_uniform(bias, -0.3, 0.3, generator))


def _gather_statistics(model: nn.Module, batch_norms: list[_BatchNorm], inputs: Inputs) -> None:
    momenta = [norm.momentum for norm in batch_norms]
    if not batch_norms:
        return
    for norm in batch_norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        model(*inputs.args, **inputs.kwargs)
    for norm, momentum in zip(batch_norms, momenta, strict=True):
        norm.momentum = momentum
