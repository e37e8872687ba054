"""Indexing by literals and by tensors: the indexed dimension stays whole, the others pass."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from autoprune.groups.tracing.contraction import Operand, confine, join
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, normalised_dims, operator
from autoprune.groups.tracing.reshaping import select, take, take_range


@operator("select")
def select_one(call: Call) -> Labels:
    """Take one index of a dimension, which disappears."""
    x = call.first
    dim = call.dim("dim", len(x.shape))
    return select(call.evidence, x, dim, int(call["index"]) % x.shape[dim], call.shape)


@operator("unbind")
def unbind(call: Call) -> list[Labels]:
    """Take every index of a dimension, which disappears."""
    x = call.first
    dim = call.dim("dim", len(x.shape))
    return [select(call.evidence, x, dim, index, shape) for index, shape in enumerate(call.shapes)]


@operator("slice")
def literal_slice(call: Call) -> Labels:
    """Take a range of a dimension; the whole range is no cut."""
    x = call.first
    dim = call.dim("dim", len(x.shape))
    index = np.arange(x.shape[dim])[slice(call["start"], call["end"], call["step"])]
    if len(index) == x.shape[dim]:
        return x
    if call["step"] in (None, 1) and len(index):
        return take_range(call.evidence, x, dim, int(index[0]), call.shape)
    return take(call.evidence, x, dim, index, call.shape, "literal slice")


@operator("narrow")
def narrow(call: Call) -> Labels:
    """Take a range given by start and length."""
    x = call.first
    dim, start = call.dim("dim", len(x.shape)), call["start"]
    if not isinstance(start, int):
        raise UnsupportedOperatorError("narrow from a computed start")
    return take_range(call.evidence, x, dim, start % x.shape[dim], call.shape)


@operator("index")
def index_by_tensors(call: Call) -> Labels:
    """Look up by index tensors: their dimensions are replaced by those of the indices."""
    x, indices = call.first, list(call["indices"])
    places = [d for d, index in enumerate(indices) if index is not None]
    tensors = [index.meta["val"] for index in indices if index is not None]
    labelled = any(labels.factors for labels in call.sequence("indices"))
    if labelled or any(not t.dtype.is_signed or t.dtype.is_floating_point for t in tensors):
        raise UnsupportedOperatorError("index by a mask or by values that depend on channels")
    rank = max(t.dim() for t in tensors)
    together = places == list(range(places[0], places[-1] + 1))
    start = places[0] if together else 0
    kept = [d for d in range(len(x.shape)) if d not in places]
    rest = confine(call.evidence, x, kept, "it is indexed by a tensor")
    before = [d for d in kept if d < start]
    return rest.moved(call.shape, {d: i if d in before else i + rank for i, d in enumerate(kept)})


@operator("index_select")
def index_select(call: Call) -> Labels:
    """Look up positions of one dimension."""
    x = call.first
    dim = call.dim("dim", len(x.shape))
    if call.labels("index").factors:
        raise UnsupportedOperatorError("index_select by values that depend on channels")
    rest = confine(call.evidence, x, [d for d in range(len(x.shape)) if d != dim], "it is indexed by a tensor")
    return Labels(call.shape, rest.factors)


@operator("roll", "flip")
def reorder(call: Call) -> Labels:
    """Reorder positions of some dimensions, whose length and order therefore stay."""
    x = call.first
    dims = normalised_dims(call["dims"], len(x.shape))
    rest = confine(call.evidence, x, [d for d in range(len(x.shape)) if d not in dims], f"{call.name} along it")
    return Labels(call.shape, rest.factors)


@operator("tril", "triu")
def triangle(call: Call) -> Labels:
    """Zero one side of the diagonal over the last two dimensions, whose length therefore stays."""
    x = call.first
    rest = confine(call.evidence, x, range(len(x.shape) - 2), f"{call.name} over it")
    return Labels(call.shape, rest.factors)


@operator("gather", "take_along_dim", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy")
def along_positions(call: Call) -> Labels:
    """Read or write positions of one dimension, which stays; the other dimensions of all operands are united."""
    x = call.first
    dim = call.dim("dim", len(x.shape))
    index = call.labels("index" if "index" in call.arguments else "indices")
    letters = tuple(f"d{d}" for d in range(len(x.shape)))
    result, spelled = x, _apart(letters, dim, "x")
    others = [
        labels
        for name in ("src", "source")
        if isinstance(call.arguments.get(name), Node)
        for labels in [call.labels(name)]
    ]
    if len(index.shape) == len(x.shape):
        others.append(index)
    reason = "it is indexed by a tensor"
    kept = [d for d in range(len(x.shape)) if d != dim]
    if any(labels.shape[d] != x.shape[d] for labels in others for d in kept):
        raise UnsupportedOperatorError("positions of only part of another dimension")
    result = confine(call.evidence, result, kept, reason)
    for number, labels in enumerate(others):
        other = confine(call.evidence, labels, kept, reason)
        own = _apart(letters, dim, f"o{number}")
        result = join(call.evidence, Operand(result, spelled), Operand(other, own), spelled, result.shape)
    return Labels(call.shape, result.factors)


def _apart(letters: tuple[str, ...], dim: int, own: str) -> tuple[str, ...]:
    return tuple(own if d == dim else x for d, x in enumerate(letters))
