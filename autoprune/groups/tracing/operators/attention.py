"""Scaled dot-product attention, the fused operator."""

from __future__ import annotations

import numpy as np

from autoprune.groups.tracing.contraction import Operand, elementwise, join
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator
from autoprune.groups.tracing.reshaping import repeat_each


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Labels:
    """Contract queries with keys, keep the positions attended to, contract with values."""
    query, key, value = (call.labels(name) for name in ("query", "key", "value"))
    if call["enable_gqa"]:
        times = query.shape[-3] // key.shape[-3]
        heads = len(key.shape) - 3
        key, value = (repeat_each(call.evidence, labels, heads, times) for labels in (key, value))
    rank = len(query.shape)
    if len(key.shape) != rank or len(value.shape) != rank:
        raise UnsupportedOperatorError("attention with different numbers of dimensions")
    if call["scale"] is None:
        _keep_scale(call, query)
    lead = tuple(f"n{d}" for d in range(rank - 2))
    batch = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    shape = (*batch, query.shape[-2], key.shape[-2])
    scores = join(call.evidence, _operand(query, "q", "le"), _operand(key, "k", "se"), (*lead, "l", "s"), shape)
    mask = call.optional("attn_mask")
    if mask is not None:
        scores = elementwise(call.evidence, [scores, mask], shape)
    _keep_positions(call, scores)
    out = (*lead, "l", "f")
    return join(call.evidence, _operand(scores, "a", "ls"), _operand(value, "v", "sf"), out, call.shape)


def _operand(labels: Labels, own: str, last: str) -> Operand:
    """Give the last two dimensions the letters `last`; batch dimensions of size 1 broadcast, so they meet nothing."""
    batch = (f"{own if size == 1 else 'n'}{dim}" for dim, size in enumerate(labels.shape[:-2]))
    return Operand(labels, (*batch, *last))


def _keep_positions(call: Call, scores: Labels) -> None:
    rank = len(scores.shape)
    for dim in (rank - 1, rank - 2) if call["is_causal"] else (rank - 1,):
        factor = scores.at(dim)
        if factor is not None:
            call.evidence.pin(factor, (dim,), "softmax over it")


def _keep_scale(call: Call, query: Labels) -> None:
    """Keep the width of a head where it sets the scale: a narrower one would be scaled by another number."""
    last = len(query.shape) - 1
    factor = query.at(last)
    if factor is not None:
        call.evidence.pin(factor, (last,), "the implicit scale of attention, 1 / sqrt(width), follows it")
