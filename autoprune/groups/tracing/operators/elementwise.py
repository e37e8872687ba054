"""Element-wise operators: channels pass through; those of several operands are united where they meet."""

from __future__ import annotations

import torch
from torch.fx import Node

from autoprune.groups.tracing.contraction import elementwise
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator

UNARY = (
    "_to_copy abs alias atan bernoulli bitwise_not bool ceil celu clone contiguous cos detach detach_ dropout elu erf "
    "exp expm1 feature_dropout float floor gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu lift_fresh "
    "lift_fresh_copy log log1p log2 log_sigmoid logical_not mish nan_to_num neg ones_like positive reciprocal relu "
    "relu6 round rsqrt selu sgn sigmoid sign silu sin softplus softshrink softsign sqrt square tanh threshold to trunc "
    "type_as zeros_like isnan isinf isfinite tan full_like rand_like randn_like alpha_dropout feature_alpha_dropout "
    "rrelu _conj acos acosh asin asinh atanh cosh digamma empty_like erfc erfinv exp2 frac isneginf isposinf lgamma "
    "conj logit real resolve_conj resolve_neg sinc sinh special_expit special_erf special_log1p"
)
BINARY = (
    "__and__ __or__ add addcmul atan2 bitwise_and bitwise_or bitwise_xor clamp clamp_max clamp_min copy "
    "copysign div eq floor_divide fmod ge gt le lerp logaddexp logical_and logical_or logical_xor lt masked_fill "
    "maximum minimum mul ne pow remainder rsub sub where xlogy fill true_divide hypot "
    "addcdiv complex divide float_power greater greater_equal heaviside isclose less less_equal logaddexp2 multiply "
    "nextafter not_equal polar subtract"
)
IN_PLACE = frozenset(f"{name}_" for name in f"{UNARY} {BINARY}".split())


@operator(*UNARY.split())
def unary(call: Call) -> Labels:
    """Pass the first operand's channels on; a second tensor, if any, only gives dtype or device."""
    return Labels(call.shape, call.first.factors)


@operator("zeros", "new_zeros")
def zeros(call: Call) -> Labels:
    """Make zeros, one number repeated: how often may follow what they meet, except along the first, the batch."""
    source = next((value.meta["val"] for value in call.arguments.values() if isinstance(value, Node)), None)
    default = torch.get_default_dtype() if source is None else source.dtype
    if not (call.arguments.get("dtype") or default).is_floating_point:
        return Labels(call.shape)
    sized = [(dim, size) for dim, size in enumerate(call.shape) if dim > 0 and size > 1]
    return Labels(call.shape, tuple(call.evidence.repeated(size, dim) for dim, size in sized))


@operator("new_ones", "new_full", "new_empty")
def constant(call: Call) -> Labels:
    """Make a constant that takes only dtype and device from its operand."""
    return Labels(call.shape)


@operator(*BINARY.split())
def binary(call: Call) -> Labels:
    """Unite the channels of all tensor operands under broadcasting."""
    if not call.single:
        raise UnsupportedOperatorError(call.name)
    return elementwise(call.evidence, call.operands, call.shape)


@operator("prelu")
def prelu(call: Call) -> Labels:
    """Unite the slopes [channels] with dimension 1."""
    x, slopes = call.labels("input"), call.labels("weight")
    slopes = slopes.moved(slopes.shape + (1,) * max(len(x.shape) - 2, 0), {0: 0})
    return elementwise(call.evidence, [x, slopes], call.shape)


operator("_prelu_kernel")(binary)
