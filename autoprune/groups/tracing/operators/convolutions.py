"""Convolutions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

import numpy as np

from autoprune.groups.tracing.contraction import Operand, confine, elementwise, join
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator
from autoprune.groups.types import IntArray


@operator("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Labels:
    """Unite the input's channels with the weight's columns; the rows are the new channels."""
    weight = call.labels("weight")
    if int(call["groups"]) == 1:
        return _plain(call, weight, out_dim=0, in_dim=1)
    return _grouped(call, weight, int(call["groups"]))


@operator("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Labels:
    """Do the same with the weight's first two dimensions exchanged."""
    weight = call.labels("weight")
    if int(call["groups"]) == 1:
        return _plain(call, weight, out_dim=1, in_dim=0)
    return _grouped_transposed(call, weight, int(call["groups"]))


def _plain(call: Call, weight: Labels, *, out_dim: int, in_dim: int) -> Labels:
    x, channel = _input(call, weight)
    space = range(len(weight.shape) - 2)
    batch = ("n",) * channel
    weight = confine(call.evidence, weight, (0, 1), "it is a kernel's extent")
    kernel = ["", ""]
    kernel[out_dim], kernel[in_dim] = "o", "i"
    y = join(
        call.evidence,
        Operand(x, (*batch, "i", *(f"x{d}" for d in space))),
        Operand(weight, (*kernel, *(f"k{d}" for d in space))),
        (*batch, "o", *(f"y{d}" for d in space)),
        call.shape,
    )
    call.note_producer(weight.at(out_dim))
    return _with_bias(call, y, channel)


def _grouped(call: Call, weight: Labels, groups: int) -> Labels:
    """Arrange input and output channels as [groups, channels]: whole groups go, or the same columns of all groups."""
    x, channel, rows, name = _grouped_input(call, weight)
    columns = weight.at(1)
    if columns is not None:
        call.evidence.pin(columns, (1,), "columns within a group are cut with the group")
    own = call.weights.grouped.setdefault(name, call.evidence.fresh(groups, weight.shape[1]))
    _unite_with_input(call, own, x, channel)
    _tie_groups(call, own, rows.atoms.reshape(groups, -1), literal=name not in call.weights.convolutions)
    call.note_producer(rows)
    return _with_bias(call, Labels(call.shape, (Factor(rows.atoms, (channel,), rows.axes),)), channel)


def _grouped_transposed(call: Call, weight: Labels, groups: int) -> Labels:
    """Do the same where rows are inputs [groups, channels] and columns the outputs of every group.

    Where a group has several inputs and several outputs, the same ones of all groups go together.
    """
    x, channel, rows, name = _grouped_input(call, weight)
    inputs, columns = rows.atoms.reshape(groups, -1), weight.at(1)
    _unite_with_input(call, inputs, x, channel)
    if columns is not None and inputs.shape[1] > 1:
        block = call.evidence.block(inputs, "conv_groups", preferred=1)
        call.evidence.fix(block.axis(0), "the groups of a transposed convolution stay")
        call.note_producer(columns)
        outputs = np.broadcast_to(columns.atoms, (groups, len(columns.atoms)))
    else:
        if columns is not None:
            call.evidence.pin(columns, (1,), "columns within a group are cut with the group")
        outputs = call.weights.grouped.setdefault(name, call.evidence.fresh(groups, weight.shape[1]))
        _tie_groups(call, inputs, outputs, literal=name not in call.weights.convolutions)
        call.note_producer(rows)
    return _with_bias(call, Labels(call.shape, (Factor.single(outputs.reshape(-1), channel),)), channel)


def _grouped_input(call: Call, weight: Labels) -> tuple[Labels, int, Factor, str]:
    """Return the input without space, its channel dimension, the weight's rows and the weight's name."""
    x, channel = _input(call, weight)
    rows = weight.at(0)
    name = None if rows is None else _owner(call, rows)
    if rows is None or name is None or any(f.visible != (channel,) or f.atoms.ndim > 1 for f in x.factors):
        raise UnsupportedOperatorError("grouped convolution of an unusual input or weight")
    confine(call.evidence, weight, (0, 1), "it is a kernel's extent")
    return x, channel, rows, name


def _unite_with_input(call: Call, own: IntArray, x: Labels, channel: int) -> None:
    carried = x.at(channel)
    if carried is None:
        call.evidence.freeze_atoms(own, "it meets a constant or an input of fixed size")
    else:
        call.evidence.unite(own, carried.atoms.reshape(own.shape))


def _tie_groups(call: Call, inputs: IntArray, outputs: IntArray, *, literal: bool) -> None:
    evidence = call.evidence
    wide = inputs.shape[1] > 1 and outputs.shape[1] > 1
    before = evidence.block(inputs, "conv_groups", preferred=int(wide))
    after = evidence.block(outputs, "conv_groups", preferred=int(wide))
    source, target = Factor.of_block(before, (0, 1)), Factor.of_block(after, (0, 1))
    evidence.link(source, 0, target, 0)
    if wide:
        evidence.tie(before.axis(1), after.axis(1))
    if literal:
        evidence.fix(before.axis(0), "the number of convolution groups is a literal")
        evidence.fix(after.axis(0), "the number of convolution groups is a literal")


def _owner(call: Call, rows: Factor) -> str | None:
    source = call.weights.source(rows)
    return source[0] if source is not None and source[1] == 0 else None


def _input(call: Call, weight: Labels) -> tuple[Labels, int]:
    """Return the input's labels without space, and its channel dimension (0 when there is no batch)."""
    x = call.labels("input")
    channel = len(x.shape) - len(weight.shape) + 1
    return confine(call.evidence, x, range(channel + 1), "a convolution slides over it"), channel


def _with_bias(call: Call, y: Labels, channel: int) -> Labels:
    bias = call.optional("bias")
    if bias is None:
        return y
    space = len(call.shape) - channel - 1
    return elementwise(call.evidence, [y, bias.moved(bias.shape + (1,) * space, {0: 0})], call.shape)
