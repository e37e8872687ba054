"""The tracer, one operator family at a time: which units it finds, and that cutting them is removing them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tracing_nets import (
    Case,
    assert_found_exactly,
    attention,
    biased_by_table,
    by_bmm,
    by_einsum,
    causal,
    channel_attention,
    conv,
    convs,
    fused,
    grouped_query,
    image,
    linears,
    literal_heads,
    mixer,
    normalised_queries,
    outer_product,
    per_channel_image,
    qkv_chunked,
    qkv_stacked,
    repeated_keys,
    rows,
    sequence,
    shuffled,
    squeeze_excite,
    written_in_place,
    zero_bias,
)

CONTRACTIONS = {
    "linear": linears(lambda m, x: x, {"a": 12}),
    "raw weight": linears(lambda m, x: x @ m.w, {"a": 12, "w": 6}, to=6, parts=lambda: {"w": torch.randn(12, 6)}),
    "addmm": linears(
        lambda m, x: torch.addmm(m.c, x, m.w),
        {"a": 12, "w": 6},
        to=6,
        parts=lambda: {"w": torch.randn(12, 6), "c": torch.randn(6)},
    ),
    "one layer called twice": linears(lambda m, x: m.c(m.c(x)), {"a": 12}, parts=lambda: {"c": nn.Linear(12, 12)}),
    "embedding": Case(
        lambda: {"a": nn.Embedding(50, 12), "p": torch.randn(9, 12), "b": nn.Linear(12, 5)},
        lambda m, x: m.b((m.a(x) + m.p[: x.shape[1]]).amax(1)),
        lambda: torch.randint(0, 50, (2, 9)),
        {"a": 12},
    ),
    "token mixing": Case(
        lambda: {"a": nn.Linear(6, 10), "out": nn.Linear(10, 6), "b": nn.Linear(16, 5)},
        mixer,
        sequence,
        {"a": 10},
        {"out": "fixed size"},
    ),
    "outer product": Case(
        lambda: {"a": nn.Linear(8, 6), "c": nn.Linear(8, 7), "d": nn.Linear(42, 9), "b": nn.Linear(9, 4)},
        outer_product,
        rows,
        {"c": 7, "d": 9},
        {"a": "cut along another axis"},
    ),
    "channels with channels": convs(lambda m, x: channel_attention(x), {"a": 12}),
}
CONVOLUTIONS = {
    "plain": convs(lambda m, x: x, {"a": 12}),
    "depthwise": convs(lambda m, x: m.c(x), {"a": 12}, parts=lambda: {"c": conv(12, 12, groups=12)}),
    "depthwise multiplier": convs(lambda m, x: m.c(x), {"a": 12}, to=24, parts=lambda: {"c": conv(12, 24, groups=12)}),
    "grouped": convs(lambda m, x: m.c(x), {"a": 6, "c": 9}, to=18, parts=lambda: {"c": conv(12, 18, groups=2)}),
    "grouped, one output a group": convs(
        lambda m, x: m.c(x), {"a": 4}, to=4, parts=lambda: {"c": conv(12, 4, groups=4)}
    ),
    "grouped, called twice": convs(
        lambda m, x: m.c(m.d(m.c(x))), {"a": 6, "c": 6}, parts=lambda: {"c": conv(12, 12, groups=2), "d": conv(12, 12)}
    ),
    "raw kernel": convs(
        lambda m, x: F.conv2d(x, m.w), {"a": 12, "w": 6}, to=6, parts=lambda: {"w": torch.randn(6, 12, 1, 1)}
    ),
    "transposed": convs(
        lambda m, x: m.c(x), {"a": 12, "c": 7}, to=7, parts=lambda: {"c": nn.ConvTranspose2d(12, 7, 2, 2)}
    ),
    "grouped transposed": convs(
        lambda m, x: m.c(x),
        {"a": 6, "c": 4},
        to=8,
        parts=lambda: {"c": nn.ConvTranspose2d(12, 8, 2, 2, groups=2)},
    ),
    "grouped transposed, called twice": convs(
        lambda m, x: m.c(m.d(m.c(x))),
        {"a": 6, "c": 6},
        parts=lambda: {"c": nn.ConvTranspose2d(12, 12, 1, groups=2), "d": conv(12, 12)},
    ),
    "grouped transposed, one output a group": convs(
        lambda m, x: m.c(x), {"a": 4}, to=4, parts=lambda: {"c": nn.ConvTranspose2d(12, 4, 2, 2, groups=4)}
    ),
    "depthwise transposed": convs(
        lambda m, x: m.c(x), {"a": 12}, parts=lambda: {"c": nn.ConvTranspose2d(12, 12, 2, 2, groups=12, bias=False)}
    ),
    "depthwise transposed multiplier": convs(
        lambda m, x: m.c(x), {"a": 12}, to=24, parts=lambda: {"c": nn.ConvTranspose2d(12, 24, 2, 2, groups=12)}
    ),
    "every channel an image": convs(
        per_channel_image, {"a": 12}, parts=lambda: {"one": conv(1, 1)}, protected={"one": "single output"}
    ),
    "of a linear layer's output": Case(
        lambda: {"a": nn.Linear(8, 96), "c": conv(6, 7), "b": nn.Linear(7, 5)},
        lambda m, x: m.b(m.c(m.a(x).view(len(x), -1, 4, 4)).mean((2, 3))),
        rows,
        {"a": 6, "c": 7},
    ),
    "one dimension": Case(
        lambda: {"a": nn.Conv1d(16, 12, 3), "b": nn.Linear(12, 5)},
        lambda m, x: m.b(F.relu(m.a(x.transpose(1, 2))).amax(-1)),
        sequence,
        {"a": 12},
    ),
    "three dimensions": Case(
        lambda: {"a": nn.Conv3d(2, 6, 3), "b": nn.Linear(6, 5)},
        lambda m, x: m.b(F.max_pool3d(m.a(x), 2).flatten(2).mean(-1)),
        lambda: torch.randn(1, 2, 6, 6, 6),
        {"a": 6},
    ),
    "without batch": Case(
        lambda: {"a": conv(3, 12), "b": conv(12, 5)},
        lambda m, x: m.b(F.max_pool2d(m.a(x), 2)),
        lambda: torch.randn(3, 8, 8),
        {"a": 12},
    ),
}
ELEMENTWISE = {
    "residual": convs(lambda m, x: x + m.c(F.silu(x)), {"a": 12}, parts=lambda: {"c": conv(12, 12)}),
    "in place": convs(lambda m, x: x.mul(2).add_(m.c(x)).relu_(), {"a": 12}, parts=lambda: {"c": conv(12, 12)}),
    "scaled by a parameter": convs(
        lambda m, x: x * m.s[:, None, None], {"a": 12}, parts=lambda: {"s": torch.randn(12)}
    ),
    "prelu": convs(lambda m, x: m.p(x), {"a": 12}, parts=lambda: {"p": nn.PReLU(12)}),
    "gate": convs(
        squeeze_excite, {"a": 12, "down": 4}, parts=lambda: {"down": nn.Linear(12, 4), "up": nn.Linear(4, 12)}
    ),
    "where": linears(lambda m, x: torch.where(x > 0, x, m.c(x)), {"a": 12}, parts=lambda: {"c": nn.Linear(12, 12)}),
    "masked": linears(lambda m, x: x.masked_fill(m.c(x) > 0, 0), {"a": 12}, parts=lambda: {"c": nn.Linear(12, 12)}),
    "new constant beside channels": convs(
        lambda m, x: torch.cat([x, x.new_zeros(2, 4, 8, 8)], 1) + m.c(x),
        {"a": 12},
        to=16,
        parts=lambda: {"c": conv(12, 16)},
    ),
    "a constant": linears(
        lambda m, x: m.c(x + torch.arange(12.0)),
        {"c": 12},
        parts=lambda: {"c": nn.Linear(12, 12)},
        protected={"a": "meets a constant"},
    ),
}
NORMS = {
    "batch norm": convs(lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.BatchNorm2d(12)}),
    "instance norm": convs(lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.InstanceNorm2d(12, affine=True)}),
    "layer norm": linears(lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.LayerNorm(12)}, inexact=("a",)),
    "rms norm": linears(lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.RMSNorm(12)}, inexact=("a",)),
    "group norm": convs(lambda m, x: m.n(x), {"a": 4}, parts=lambda: {"n": nn.GroupNorm(3, 12)}, inexact=("a",)),
    "group norm of single channels": convs(
        lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.GroupNorm(12, 12)}, inexact=("a",)
    ),
    "instance norm without parameters": convs(lambda m, x: F.instance_norm(x), {"a": 12}),
    "group norm without parameters": convs(
        lambda m, x: m.n(x), {"a": 4}, parts=lambda: {"n": nn.GroupNorm(3, 12, affine=False)}, inexact=("a",)
    ),
    "group norm over all channels": convs(
        lambda m, x: m.n(x), {"a": 12}, parts=lambda: {"n": nn.GroupNorm(1, 12)}, inexact=("a",)
    ),
    "rms norm by hand": linears(
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.s,
        {"a": 12},
        parts=lambda: {"s": torch.randn(12)},
        inexact=("a",),
    ),
    "unit length": linears(lambda m, x: F.normalize(x), {"a": 12}, inexact=("a",)),
    "layer norm without parameters": linears(
        lambda m, x: m.c(m.n(x)),
        {"a": 12, "c": 12},
        parts=lambda: {"n": nn.LayerNorm(12, elementwise_affine=False), "c": nn.Linear(12, 12)},
        inexact=("a",),
    ),
}
SHAPES = {
    "flatten": Case(
        lambda: {"a": conv(3, 12), "b": nn.Linear(12 * 16, 5)},
        lambda m, x: m.b(F.max_pool2d(m.a(x), 2).flatten(1)),
        image,
        {"a": 12},
    ),
    "channels last": convs(
        lambda m, x: m.c(x.permute(0, 2, 3, 1)).movedim(-1, 1),
        {"a": 12, "c": 7},
        to=7,
        parts=lambda: {"c": nn.Linear(12, 7)},
    ),
    "cat": convs(lambda m, x: torch.cat([x, m.c(x)], 1), {"a": 12, "c": 7}, to=19, parts=lambda: {"c": conv(12, 7)}),
    "cat of unequal parts, then chunk": convs(
        lambda m, x: m.d(torch.cat([x, m.c(x)], 1).chunk(4, 1)[3]),
        {"a": 5, "d": 7},
        to=7,
        parts=lambda: {"c": conv(12, 8), "d": conv(5, 7)},
    ),
    "cat with zeros": convs(
        lambda m, x: torch.cat([x, torch.zeros(2, 3, 8, 8)], 1) + m.c(x),
        {"a": 12},
        to=15,
        parts=lambda: {"c": conv(12, 15)},
    ),
    "stack": linears(
        lambda m, x: torch.stack([x, m.c(x)], 1).amax(1), {"a": 12}, parts=lambda: {"c": nn.Linear(12, 12)}
    ),
    "squeeze": convs(lambda m, x: x.amax((2, 3), keepdim=True).squeeze(-1).unsqueeze(-1), {"a": 12}),
    "chunk": convs(lambda m, x: torch.mul(*x.chunk(2, 1)), {"a": 6}, to=6),
    "glu": linears(lambda m, x: F.glu(x), {"a": 6}, to=6),
    "repeat": linears(lambda m, x: x.repeat(1, 2), {"a": 12}, to=24),
    "repeat interleave": linears(lambda m, x: x.repeat_interleave(2, dim=1), {"a": 12}, to=24),
    "shuffle by views": convs(lambda m, x: shuffled(x), {"a": 6}),
    "channel shuffle": convs(lambda m, x: m.s(x), {"a": 6}, parts=lambda: {"s": nn.ChannelShuffle(2)}),
    "split by a literal": convs(
        lambda m, x: m.c(torch.mul(*x.split(6, 1))),
        {"c": 7},
        to=7,
        parts=lambda: {"c": conv(6, 7)},
        protected={"a": "does not follow it"},
    ),
    "unequal split": convs(
        lambda m, x: m.c(x.split([4, 8], 1)[1]),
        {"c": 7},
        to=7,
        parts=lambda: {"c": conv(8, 7)},
        protected={"a": "literal slice"},
    ),
}
INDEXING = {
    "literal slice": convs(
        lambda m, x: m.c(x[:, 2:8]), {"c": 7}, to=7, parts=lambda: {"c": conv(6, 7)}, protected={"a": "literal slice"}
    ),
    "write to a literal slice": convs(
        written_in_place, {"c": 7}, to=7, parts=lambda: {"c": conv(12, 7)}, protected={"a": "literal slice"}
    ),
    "one token": Case(
        lambda: {"a": nn.Linear(16, 12), "b": nn.Linear(12, 5)}, lambda m, x: m.b(m.a(x)[:, 0]), sequence, {"a": 12}
    ),
    "rolled and flipped space": convs(lambda m, x: x.roll((1, 2), (2, 3)).flip(3)[:, :, ::2], {"a": 12}),
    "flipped channels": convs(
        lambda m, x: m.c(x.flip(1)), {"c": 7}, to=7, parts=lambda: {"c": conv(12, 7)}, protected={"a": "flip along it"}
    ),
    "rows chosen by a tensor": convs(lambda m, x: x[:, :, torch.tensor([0, 3, 3])], {"a": 12}),
    "channels chosen by a tensor": convs(
        lambda m, x: m.c(x.index_select(1, torch.arange(11, -1, -1))),
        {"c": 7},
        to=7,
        parts=lambda: {"c": conv(12, 7)},
        protected={"a": "indexed by a tensor"},
    ),
}
REDUCTIONS = {
    "sum over channels": linears(lambda m, x: x / x.exp().sum(1, keepdim=True), {"a": 12}, inexact=("a",)),
    "variance over channels": linears(lambda m, x: x * x.var(1, keepdim=True), {"a": 12}, inexact=("a",)),
    "maximum over channels": linears(
        lambda m, x: m.c(x - x.amax(1, keepdim=True)),
        {"c": 12},
        parts=lambda: {"c": nn.Linear(12, 12)},
        protected={"a": "amax over it"},
    ),
    "softmax over channels": linears(
        lambda m, x: m.c(x.softmax(1)),
        {"c": 12},
        parts=lambda: {"c": nn.Linear(12, 12)},
        protected={"a": "softmax over it"},
    ),
    "softmax over space": convs(lambda m, x: x.flatten(2).softmax(-1).view_as(x), {"a": 12}),
}
SPATIAL = {
    "pooling and resizing": convs(
        lambda m, x: F.interpolate(F.avg_pool2d(F.adaptive_max_pool2d(x, 4), 2), scale_factor=2.0), {"a": 12}
    ),
    "padded space": convs(lambda m, x: F.pad(x, (1, 2, 3, 4)), {"a": 12}),
    "padded channels": convs(
        lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 4)) + m.c(x), {"a": 12}, to=18, parts=lambda: {"c": conv(12, 18)}
    ),
    "pixel shuffle": convs(lambda m, x: F.pixel_shuffle(x, 2), {"a": 3}, to=3),
    "pixel unshuffle": convs(lambda m, x: F.pixel_unshuffle(x, 2), {"a": 12}, to=48),
}
ATTENTION = {
    "fused": attention(fused),
    "causal": attention(causal),
    "by einsum": attention(by_einsum),
    "by bmm": attention(by_bmm),
    "grouped queries": attention(grouped_query, units=2, keys=16),
    "repeated keys": attention(repeated_keys, units=2, keys=16),
    "normalised queries": attention(normalised_queries),
    "bias from a table": Case(
        lambda: {n: nn.Linear(16, 32) for n in "qkv"} | {"table": torch.randn(11, 4), "b": nn.Linear(32, 5)},
        biased_by_table,
        sequence,
        {"q": 4},
    ),
    "literal number of heads": replace(attention(literal_heads), groups={"q": 8, "v": 8}),
    "stacked projections": Case(
        lambda: {"a": nn.Linear(16, 96), "b": nn.Linear(32, 5)}, qkv_stacked, sequence, {"a": 4}
    ),
    "bias of zeros for every head": attention(zero_bias),
    "chunked projections": Case(
        lambda: {"a": nn.Linear(16, 96), "b": nn.Linear(32, 5)}, qkv_chunked, sequence, {"a": 4}
    ),
}
UNKNOWN = {
    "fft": linears(
        lambda m, x: m.c(torch.fft.rfft(x).abs()),
        {"c": 12},
        parts=lambda: {"c": nn.Linear(7, 12)},
        protected={"a": "unknown operator: fft_rfft"},
    ),
    "weight norm": linears(
        lambda m, x: m.c(m.w(x)),
        {"c": 7},
        to=7,
        parts=lambda: {"w": nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)), "c": nn.Linear(12, 7)},
        protected={"a": "meets a constant", "w": "unknown operator: _weight_norm"},
    ),
}
FAMILIES = {
    "contraction": CONTRACTIONS,
    "convolution": CONVOLUTIONS,
    "elementwise": ELEMENTWISE,
    "norm": NORMS,
    "shape": SHAPES,
    "indexing": INDEXING,
    "reduction": REDUCTIONS,
    "spatial": SPATIAL,
    "attention": ATTENTION,
    "unknown": UNKNOWN,
}
CASES = [pytest.param(c, id=f"{family}: {name}") for family, cases in FAMILIES.items() for name, c in cases.items()]


@pytest.mark.parametrize("case", CASES)
def test_finds_exactly_the_units_whose_removal_equals_zeroing_them(case: Case) -> None:
    assert_found_exactly(case)
