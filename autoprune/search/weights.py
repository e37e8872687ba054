"""Weights of a model -> bytes, and back."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import nn


def weights_of(model: nn.Module) -> bytes:
    """Return a model's tensors as safetensors; those that share memory, such as tied weights, are stored each."""
    state = model.state_dict()
    return save(
        {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    )


def set_weights(model: nn.Module, weights: bytes) -> nn.Module:
    """Give a model the tensors of another of the same architecture, and return it in eval mode."""
    model.load_state_dict(load(weights), strict=True)
    return model.eval()
