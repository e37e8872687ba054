from __future__ import annotations

import torch
from torch import nn
from zoo import VisionTransformer

from autoprune.evaluation import count_macs, measure_cost
from autoprune.tasks.protocol import Inputs


def example(*shape: int) -> Inputs:
    return Inputs((torch.zeros(shape),), {})


def test_parameters_bytes_and_macs_of_a_convolution_and_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5))
    cost = measure_cost(model, example(1, 3, 6, 6))
    parameters = 8 * 3 * 9 + 8 + 2 * 8 + 8 * 36 * 5 + 5
    assert cost.parameters == parameters
    assert cost.bytes == 4 * (parameters + 2 * 8) + 8
    assert cost.macs == 8 * 36 * 3 * 9 + 8 * 36 * 5


def test_nonzero_counts_only_parameters_that_are_not_zero() -> None:
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)[0] = 0.0
    cost = measure_cost(model, example(1, 4))
    assert (cost.parameters, cost.nonzero) == (16, 12)


def test_attention_is_counted_although_its_kernel_is_fused() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    tokens, dim, hidden = 10, 16, 32
    projections = 4 * tokens * dim * dim + 2 * tokens * dim * hidden
    attention = 2 * tokens * tokens * dim
    assert count_macs(encoder, example(1, tokens, dim)) == projections + attention


def test_fewer_channels_cost_fewer_macs_and_bytes() -> None:
    wide, narrow = (measure_cost(nn.Conv2d(3, width, 3), example(1, 3, 8, 8)) for width in (16, 8))
    assert narrow.macs * 2 == wide.macs
    assert narrow.bytes * 2 == wide.bytes


def test_shared_tensors_count_once() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    cost = measure_cost(nn.Sequential(first, second), example(1, 8))
    assert (cost.parameters, cost.bytes) == (64, 256)


def test_compressed_bytes_reflect_redundancy_and_allow_any_precision() -> None:
    constant = nn.Linear(64, 64).to(torch.bfloat16)
    with torch.no_grad():
        constant.weight.zero_()
    cost = measure_cost(constant, Inputs((torch.zeros(1, 64, dtype=torch.bfloat16),), {}))
    assert cost.bytes == 2 * (64 * 64 + 64)
    assert 0 < cost.compressed_bytes < cost.bytes / 10


def test_measuring_leaves_weights_and_outputs_alone() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 1, 2, image_size=32, patch=8, classes=3).eval()
    image = Inputs((torch.randn(1, 3, 32, 32),), {})
    with torch.no_grad():
        before = model(*image.args)
    measure_cost(model, image)
    with torch.no_grad():
        assert torch.equal(model(*image.args), before)
    assert all(parameter.grad is None for parameter in model.parameters())
