"""Model -> size: parameters, multiply-accumulates, bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.evaluation.types import Cost
from autoprune.runtimes.counting import countable
from autoprune.tasks.protocol import Inputs

ZLIB_LEVEL = 6


def measure_cost(model: nn.Module, example: Inputs) -> Cost:
    """Count a model's parameters, operations and bytes; tensors that are shared count once.

    Args:
        model: Put into eval mode.
        example: Inputs of ONE example (batch size 1).
    """
    parameters = list(model.parameters())
    tensors = list(_unique_tensors(model))
    return Cost(
        parameters=sum(tensor.numel() for tensor in parameters),
        nonzero=sum(int(torch.count_nonzero(tensor.detach())) for tensor in parameters),
        macs=count_macs(model, example),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        compressed_bytes=_compressed_bytes(tensors),
    )


def count_macs(model: nn.Module, example: Inputs) -> int:
    """Return the multiply-accumulates of convolutions, matrix products and recurrent layers in one call."""
    counter = FlopCounterMode(display=False)
    with countable(model), counter:
        model(*example.args, **example.kwargs)
    return int(counter.get_total_flops()) // 2


def _unique_tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _compressed_bytes(tensors: list[Tensor]) -> int:
    packer = zlib.compressobj(ZLIB_LEVEL)
    size = 0
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        size += len(packer.compress(flat.numpy().data))
    return size + len(packer.flush())
