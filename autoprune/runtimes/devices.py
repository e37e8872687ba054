"""Devices: their names, tensors moved between them, and a GPU that is asked for but not there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.errors import ConfigError

CPU = torch.device("cpu")


def on_device(structure: Any, device: torch.device) -> Any:
    """Return a nested structure with every tensor in it on `device`."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), structure)


def device_name(*devices: torch.device) -> str:
    """Return what computes, for records and reports, such as `cpu`, `cuda:NVIDIA H200` or `2 x cuda:NVIDIA H200`."""
    kind = devices[0].type
    name = f"{kind}:{torch.cuda.get_device_name(devices[0])}" if kind == "cuda" else kind
    return name if len(devices) == 1 else f"{len(devices)} x {name}"


def require_cuda(what: str) -> torch.device:
    """Return the GPU that this process computes on.

    Raises:
        ConfigError: torch sees none.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    reason = "sees no GPU" if torch.version.cuda else "was built without CUDA"
    raise ConfigError(
        f"{what} needs a CUDA GPU. torch {torch.__version__} {reason} in this process.",
        hint="Take a target of the processor, such as torch-eager-fp32-b32-t1, or run where a GPU is visible.",
    )
