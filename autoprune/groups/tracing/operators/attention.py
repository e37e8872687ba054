"""Scaled dot-product attention, the fused operator."""

from __future__ import annotations

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
    if query.shape[:-2] != key.shape[:-2] or key.shape[:-2] != value.shape[:-2]:
        raise UnsupportedOperatorError("attention with broadcast batches")
    lead = tuple(f"n{d}" for d in range(len(query.shape) - 2))
    shape = (*query.shape[:-1], key.shape[-2])
    scores = join(
        call.evidence, Operand(query, (*lead, "l", "e")), Operand(key, (*lead, "s", "e")), (*lead, "l", "s"), shape
    )
    mask = call.optional("attn_mask")
    if mask is not None:
        scores = elementwise(call.evidence, [scores, mask], shape)
    _keep_positions(call, scores)
    if call["scale"] is None:
        _note_scale(call, query)
    out = (*lead, "l", "f")
    return join(call.evidence, Operand(scores, (*lead, "l", "s")), Operand(value, (*lead, "s", "f")), out, call.shape)


def _keep_positions(call: Call, scores: Labels) -> None:
    rank = len(scores.shape)
    for dim in (rank - 1, rank - 2) if call["is_causal"] else (rank - 1,):
        factor = scores.at(dim)
        if factor is not None:
            call.evidence.pin(factor, (dim,), "softmax over it")


def _note_scale(call: Call, query: Labels) -> None:
    """The default scale 1/sqrt(head_dim) follows the head_dim, so cutting that changes more than zeroing does."""
    last = len(query.shape) - 1
    factor = query.at(last)
    if factor is not None:
        call.evidence.statistic(factor, (last,))
