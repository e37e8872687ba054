"""Normalisations: affine parameters are united with the channels; statistics over channels are noted."""

from __future__ import annotations

from autoprune.groups.tracing.contraction import elementwise
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator


@operator("batch_norm", "instance_norm")
def batch_norm(call: Call) -> Labels:
    """Normalise every channel of dimension 1 on its own."""
    return _affine(call, ("weight", "bias", "running_mean", "running_var"), trailing=len(call.shape) - 2)


@operator("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Labels:
    """Normalise over the last dimensions; one that is part of a joint arrangement keeps its length."""
    x = call.labels("input")
    first = len(x.shape) - len(call["normalized_shape"])
    for factor in x.factors:
        normalised = tuple(d for d in factor.visible if d >= first)
        call.evidence.statistic(factor, normalised)
        if factor.atoms.ndim > 1:
            call.evidence.pin(factor, normalised, "it is normalised over part of a joint arrangement")
    return _affine(call, ("weight", "bias"), trailing=0)


@operator("group_norm")
def group_norm(call: Call) -> Labels:
    """Normalise over groups of channels of dimension 1: the same columns of all groups go together."""
    x, groups = call.labels("input"), int(call["num_groups"])
    factor = x.at(1)
    if factor is not None:
        _arrange(call, factor, groups)
    return _affine(call, ("weight", "bias"), trailing=len(x.shape) - 2)


def _arrange(call: Call, factor: Factor, groups: int) -> None:
    if factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("group_norm of a joint arrangement")
    call.evidence.statistic(factor, (1,))
    block = call.evidence.block(factor.atoms.reshape(groups, -1), "block", preferred=1)
    if block.atoms.shape[1] > 1:
        call.evidence.fix(block.axis(0), "the number of normalisation groups stays")


def _affine(call: Call, parameters: tuple[str, ...], *, trailing: int) -> Labels:
    operands = [call.labels("input")]
    for name in parameters:
        labels = call.optional(name)
        if labels is not None:
            place = {d: d for d in range(len(labels.shape))}
            operands.append(labels.moved(labels.shape + (1,) * trailing, place))
    return elementwise(call.evidence, operands, call.shape)
