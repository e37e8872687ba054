"""Operators on space: pooling, resizing, padding, and the shuffles that trade channels for space."""

from __future__ import annotations

import numpy as np

from autoprune.groups.tracing.contraction import confine, elementwise
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, Result, UnsupportedOperatorError, operator
from autoprune.groups.tracing.reshaping import concatenate, view

POOLS = "adaptive_avg_pool{n}d adaptive_max_pool{n}d avg_pool{n}d max_pool{n}d max_pool{n}d_with_indices lp_pool{n}d"
RESIZES = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa _upsample_nearest_exact3d"
)
SPATIAL = [pool for n in (1, 2, 3) for pool in POOLS.format(n=n).split()] + RESIZES.split()


@operator(*SPATIAL)
def pool(call: Call) -> Result:
    """Work on the last n dimensions, whose length stays; n is in the operator's name."""
    space = int(next(c for c in call.name if c.isdigit()))
    x = call.first
    rest = confine(call.evidence, x, range(len(x.shape) - space), f"{call.name} works along it")
    results = [Labels(shape, rest.factors) for shape in call.shapes]
    return results[0] if call.single else results


@operator("pad", "constant_pad_nd")
def pad(call: Call) -> Labels:
    """Pad dimensions from the last one on; padded channels are constants that stay."""
    x, widths = call.first, [int(n) for n in call["pad"]]
    constant = call.arguments.get("mode", "constant") == "constant"
    for number in range(len(widths) // 2):
        dim = len(x.shape) - 1 - number
        x = _pad_dimension(call, x, dim, (widths[2 * number], widths[2 * number + 1]), constant=constant)
    return Labels(call.shape, x.factors)


def _pad_dimension(call: Call, x: Labels, dim: int, widths: tuple[int, int], *, constant: bool) -> Labels:
    if widths == (0, 0):
        return x
    shape = _resized(x.shape, dim, x.shape[dim] + sum(widths))
    if x.at(dim) is None:
        return Labels(shape, x.factors)
    if not constant or min(widths) < 0:
        raise UnsupportedOperatorError("padding of channels by their values, or by less than nothing")
    before, after = (Labels(_resized(x.shape, dim, width)) for width in widths)
    parts = [part for part in (before, x, after) if part.shape[dim]]
    ours = Labels(x.shape, tuple(f for f in x.factors if dim in f.dims))
    joined = concatenate(call.evidence, [ours if part is x else part for part in parts], dim, shape)
    return Labels(shape, joined.factors + tuple(f for f in x.factors if dim not in f.dims))


def _resized(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


@operator("pixel_shuffle")
def pixel_shuffle(call: Call) -> Labels:
    """Turn r * r neighbouring channels into one channel on an r times finer grid."""
    x = call.first
    channel = len(x.shape) - 3
    factor = x.at(channel)
    if factor is not None and factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("pixel_shuffle of a joint arrangement")
    rest = confine(call.evidence, x, range(channel + 1), "it is shuffled with channels")
    if factor is None:
        return Labels(call.shape, rest.factors)
    others = tuple(f for f in rest.factors if channel not in f.dims)
    block = call.evidence.block(factor.atoms.reshape(call.shape[channel], -1), "block", preferred=0)
    call.evidence.fix(block.axis(1), "pixel_shuffle turns it into space")
    return Labels(call.shape, (*others, Factor.of_block(block, (channel, None))))


@operator("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Labels:
    """Turn every channel into r * r neighbouring channels on a coarser grid."""
    x = call.first
    channel = len(x.shape) - 3
    factor = x.at(channel)
    if factor is None or factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("pixel_unshuffle of anything but plain channels")
    rest = confine(call.evidence, x, range(channel + 1), "it is shuffled with channels")
    others = tuple(f for f in rest.factors if channel not in f.dims)
    times = call.shape[channel] // x.shape[channel]
    return Labels(call.shape, (*others, Factor.single(np.repeat(factor.atoms, times), channel)))


@operator("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Labels:
    """Exchange [groups, channels] for [channels, groups] along dimension 1."""
    x, groups = call.first, int(call["groups"])
    n, channels, *space = x.shape
    grid = view(call.evidence, x, (n, groups, channels // groups, *space))
    swapped = {0: 0, 1: 2, 2: 1, **{d: d for d in range(3, len(grid.shape))}}
    return view(call.evidence, grid.moved((n, channels // groups, groups, *space), swapped), call.shape)


@operator("im2col")
def unfold(call: Call) -> Labels:
    """Lay every channel's window out as neighbouring channels [channels * window, positions]."""
    x = call.first
    channel = len(x.shape) - 3
    rest = confine(call.evidence, x, range(channel + 1), "a window slides over it")
    factor = rest.at(channel)
    if factor is None:
        return Labels(call.shape, rest.factors)
    if factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("windows of a joint arrangement")
    others = tuple(f for f in rest.factors if f is not factor)
    window = call.shape[channel] // x.shape[channel]
    return Labels(call.shape, (*others, Factor.single(np.repeat(factor.atoms, window), channel)))


@operator("col2im")
def fold(call: Call) -> Labels:
    """Add windows [channels * window, positions] up to channels on a grid."""
    x = call.first
    channel = len(x.shape) - 2
    rest = confine(call.evidence, x, range(channel + 1), "windows are added up over it")
    factor = rest.at(channel)
    if factor is None or call.shape[channel] == 1:
        return Labels(call.shape, confine(call.evidence, rest, range(channel), "it is added up as a window").factors)
    if factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("windows of a joint arrangement")
    others = tuple(f for f in rest.factors if f is not factor)
    block = call.evidence.block(factor.atoms.reshape(call.shape[channel], -1), "block", preferred=0)
    call.evidence.fix(block.axis(1), "it is added up as a window")
    return Labels(call.shape, (*others, Factor.of_block(block, (channel, None))))


@operator("unfold")
def windows(call: Call) -> Labels:
    """Slide a window along one dimension; its positions come last."""
    x = call.first
    dim = call.dim("dimension", len(x.shape))
    kept = [d for d in range(len(x.shape)) if d != dim]
    return Labels(call.shape, confine(call.evidence, x, kept, "a window slides over it").factors)


@operator("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(call: Call) -> Labels:
    """Sample space at computed places: channels pass, what makes the places stays."""
    confine(call.evidence, call.labels("grid"), (), "it says where to sample")
    rest = confine(call.evidence, call.first, (0, 1), "it is sampled by a grid")
    return Labels(call.shape, rest.factors)


@operator("max_unpool2d", "max_unpool3d")
def unpool(call: Call) -> Labels:
    """Put values back to where a pooling found them."""
    space = int(next(c for c in call.name if c.isdigit()))
    x, places = call.first, call.labels("indices")
    kept = range(len(x.shape) - space)
    x, places = (confine(call.evidence, labels, kept, f"{call.name} works along it") for labels in (x, places))
    joined = elementwise(call.evidence, [x, Labels(x.shape, places.factors)], x.shape)
    return Labels(call.shape, joined.factors)
