"""Reductions and scans: other dimensions' channels pass; over channels, sums are noted, others keep them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from autoprune.groups.tracing.contraction import Operand, elementwise, join, note_contracted
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators.registry import Call, Result, normalised_dims, operator


@operator("mean", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "linalg_norm", "sum", "nansum")
def statistic(call: Call) -> Result:
    """Pool values over channels; with fewer channels it is the same statistic of what is left."""
    x = call.first
    dims = normalised_dims(call.arguments.get("dim"), len(x.shape))
    for factor in x.factors:
        pooled = tuple(d for d in factor.visible if d in dims)
        call.evidence.statistic(factor, pooled)
        if call.name == "sum" and len(pooled) < len(factor.visible):
            note_contracted(factor, [factor.position(d) for d in pooled])
    return _reduced(call, x, dims)


@operator("amax", "amin", "argmax", "argmin", "max", "min", "prod", "any", "all", "median", "logsumexp", "mode")
def extremum(call: Call) -> Result:
    """Reduce; which channel wins depends on all of them, so channels stay."""
    if "other" in call.arguments:
        return elementwise(call.evidence, call.operands, call.shape)
    x = call.first
    dims = normalised_dims(call.arguments.get("dim"), len(x.shape))
    _pin(call, x, dims)
    return _reduced(call, x, dims)


@operator("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin", "cumsum", "cumprod", "sort", "argsort")
def scan(call: Call) -> Result:
    """Mix values along one dimension without removing it."""
    x = call.first
    _pin(call, x, normalised_dims(call["dim"], len(x.shape)))
    results = [Labels(shape, x.factors) for shape in call.shapes]
    return results[0] if call.single else results


@operator("topk", "kthvalue")
def topk(call: Call) -> Result:
    """Choose positions along one dimension."""
    x = call.first
    dims = normalised_dims(call["dim"], len(x.shape))
    _pin(call, x, dims)
    return _reduced(call, x, dims)


@operator("cummax", "cummin", "logcumsumexp")
def running(call: Call) -> Result:
    """Scan one dimension."""
    return scan(call)


@operator("cosine_similarity", "pairwise_distance")
def compared(call: Call) -> Labels:
    """Compare two tensors over one dimension, the last one where none is named."""
    first, second = (call.labels(name) for name in ("x1", "x2"))
    shape = tuple(np.broadcast_shapes(first.shape, second.shape))
    both = elementwise(call.evidence, [first, second], shape)
    dim = int(call.arguments.get("dim", -1)) % len(shape)
    for factor in both.factors:
        call.evidence.statistic(factor, tuple(d for d in factor.visible if d == dim))
    reduced = _reduced(call, both, (dim,))
    assert isinstance(reduced, Labels)
    return reduced


@operator("cdist")
def distances(call: Call) -> Labels:
    """Compare all rows of one tensor with all rows of another, over the last dimension."""
    first, second = (call.labels(name) for name in ("x1", "x2"))
    for labels in (first, second):
        last = len(labels.shape) - 1
        factor = labels.at(last)
        if factor is not None:
            call.evidence.statistic(factor, (last,))
    lead = tuple(f"n{d}" for d in range(len(call.shape) - 2))
    rows, others = ((*lead[len(lead) - len(x.shape) + 2 :], r, "i") for x, r in ((first, "p"), (second, "r")))
    return join(call.evidence, Operand(first, rows), Operand(second, others), (*lead, "p", "r"), call.shape)


def _pin(call: Call, x: Labels, dims: Collection[int]) -> None:
    for factor in x.factors:
        call.evidence.pin(factor, tuple(d for d in factor.visible if d in dims), f"{call.name} over it")


def _reduced(call: Call, x: Labels, dims: Collection[int]) -> Result:
    gone = dims if len(call.shape) < len(x.shape) else ()
    place: dict[int, int | None] = {d: d - sum(g < d for g in gone) for d in range(len(x.shape)) if d not in dims}
    labels = x.moved(call.shape, place)
    results = [Labels(shape, labels.factors) for shape in call.shapes]
    return results[0] if call.single else results
