"""Operators that only rearrange: view, permute, squeeze, expand, repeat, cat, stack, split."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.groups.tracing.contraction import confine, elementwise
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator
from autoprune.groups.tracing.reshaping import concatenate, repeat_each, repeat_whole, split, view


@operator("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as")
def reshape(call: Call) -> Labels:
    """See the same elements under another shape."""
    if "dtype" in call.arguments:
        raise UnsupportedOperatorError("view under another dtype")
    return view(call.evidence, call.first, call.shape)


@operator("permute")
def permute(call: Call) -> Labels:
    """Reorder dimensions."""
    x = call.first
    return _permuted(x, [d % len(x.shape) for d in call["dims"]])


@operator("transpose", "swapaxes", "swapdims")
def transpose(call: Call) -> Labels:
    """Exchange two dimensions."""
    x = call.first
    a, b = (int(d) % len(x.shape) for d in list(call.arguments.values())[1:3])
    order = list(range(len(x.shape)))
    order[a], order[b] = b, a
    return _permuted(x, order)


@operator("t", "numpy_T")
def reverse(call: Call) -> Labels:
    """Reverse the order of dimensions."""
    return _permuted(call.first, list(range(len(call.shape)))[::-1])


@operator("mT")
def matrix_transpose(call: Call) -> Labels:
    """Exchange the last two dimensions."""
    order = list(range(len(call.shape)))
    order[-2:] = order[:-3:-1]
    return _permuted(call.first, order)


@operator("movedim", "moveaxis")
def movedim(call: Call) -> Labels:
    """Move dimensions to other places, the others keeping their order."""
    rank = len(call.shape)
    source, destination = (
        [d % rank for d in ([value] if isinstance(value, int) else value)]
        for value in (call["source"], call["destination"])
    )
    order = [d for d in range(rank) if d not in source]
    for place, dim in sorted(zip(destination, source, strict=True)):
        order.insert(place, dim)
    return _permuted(call.first, order)


@operator("unsqueeze")
def unsqueeze(call: Call) -> Labels:
    """Insert a dimension of size 1."""
    new = call.dim("dim", len(call.shape))
    return call.first.moved(call.shape, {d: d + (d >= new) for d in range(len(call.first.shape))})


@operator("squeeze")
def squeeze(call: Call) -> Labels:
    """Remove dimensions of size 1; where all such go, two channels stay, since a single one would go too."""
    x = call.first
    rank = len(x.shape)
    asked = call.arguments.get("dim")
    for factor in x.factors if asked is None else ():
        if factor.atoms.ndim > 1:
            call.evidence.pin(factor, factor.visible, "squeeze without a dimension")
        else:
            call.evidence.freeze_atoms(factor.atoms[:2], "squeeze without a dimension")
    among = range(rank) if asked is None else [d % rank for d in ([asked] if isinstance(asked, int) else asked)]
    gone = [d for d in among if x.shape[d] == 1]
    return x.moved(call.shape, {d: d - sum(g < d for g in gone) for d in range(rank) if d not in gone})


@operator("expand_as")
def expand_as(call: Call) -> Labels:
    """Repeat dimensions of size 1 as often as another tensor is long, so they follow that one's channels."""
    x, other = call.first, call.labels("other")
    lead = len(call.shape) - len(x.shape)
    spread = [d for d in range(len(call.shape)) if d < lead or x.shape[d - lead] == 1]
    own = x.moved(call.shape, {d: d + lead for d in range(len(x.shape))})
    return Labels(call.shape, own.factors + other.moved(call.shape, {d: d for d in spread}).factors)


@operator("expand", "broadcast_to")
def expand(call: Call) -> Labels:
    """Repeat dimensions of size 1; how often may follow what they meet, except along the first, the batch."""
    x = call.first
    lead = len(call.shape) - len(x.shape)
    own = x.moved(call.shape, {d: d + lead for d in range(len(x.shape))})
    grown = [d for d in range(1, len(call.shape)) if call.shape[d] > 1 and (d < lead or x.shape[d - lead] == 1)]
    if not x.factors:
        return own
    return Labels(call.shape, (*own.factors, *(call.evidence.repeated(call.shape[d], d) for d in grown)))


@operator("repeat", "tile")
def repeat(call: Call) -> Labels:
    """Repeat the whole tensor along dimensions."""
    times = [int(n) for n in list(call.arguments.values())[1]]
    times = [1] * (len(call.shape) - len(times)) + times
    lead = len(call.shape) - len(call.first.shape)
    x = call.first.moved((1,) * lead + call.first.shape, {d: d + lead for d in range(len(call.first.shape))})
    for dim, count in enumerate(times):
        x = repeat_whole(call.evidence, x, dim, count)
    return x


@operator("repeat_interleave")
def repeat_interleave(call: Call) -> Labels:
    """Repeat every index of one dimension."""
    times, dim = call["repeats"], call.arguments.get("dim")
    if not isinstance(times, int) or dim is None:
        raise UnsupportedOperatorError("repeat_interleave by a tensor or of the flat tensor")
    return repeat_each(call.evidence, call.first, int(dim) % len(call.shape), times)


@operator("cat", "concat", "concatenate")
def cat(call: Call) -> Labels:
    """Lay tensors one after the other; legacy empty ones are left out."""
    parts = [x for x in call.sequence("tensors") if len(x.shape) == len(call.shape)]
    return concatenate(call.evidence, parts, call.dim("dim", len(call.shape)), call.shape)


@operator("hstack")
def hstack(call: Call) -> Labels:
    """Lay tensors one after the other along dimension 1, vectors along their only one."""
    return concatenate(call.evidence, call.sequence("tensors"), min(1, len(call.shape) - 1), call.shape)


@operator("view_as_complex")
def as_complex(call: Call) -> Labels:
    """See pairs of numbers in the last dimension as one."""
    x = call.first
    rest = confine(call.evidence, x, range(len(x.shape) - 1), "it holds the parts of complex numbers")
    return Labels(call.shape, rest.factors)


@operator("view_as_real")
def as_real(call: Call) -> Labels:
    """See numbers as pairs in a new last dimension."""
    return Labels(call.shape, call.first.factors)


@operator("stack")
def stack(call: Call) -> Labels:
    """Lay tensors one after the other along a new dimension."""
    new = call.dim("dim", len(call.shape))
    parts = [
        x.moved((*x.shape[:new], 1, *x.shape[new:]), {d: d + (d >= new) for d in range(len(x.shape))})
        for x in call.sequence("tensors")
    ]
    return concatenate(call.evidence, parts, new, call.shape)


@operator("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")
def pieces(call: Call) -> list[Labels]:
    """Cut a dimension into consecutive pieces."""
    x = call.first
    return split(call.evidence, x, call.dim("dim", len(x.shape)), call.shapes)


@operator("glu")
def glu(call: Call) -> Labels:
    """Gate the first half of a dimension with the second."""
    dim = call.dim("dim", len(call.shape))
    first, second = split(call.evidence, call.first, dim, [call.shape, call.shape])
    return elementwise(call.evidence, [first, second], call.shape)


def _permuted(x: Labels, order: Sequence[int]) -> Labels:
    """Return labels whose dimension i is `order[i]` of `x`."""
    shape = tuple(x.shape[d] for d in order)
    return x.moved(shape, {d: place for place, d in enumerate(order)})
