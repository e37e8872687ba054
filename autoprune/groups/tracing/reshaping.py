"""Moving labels: view, take, split, concatenate. Pure index arithmetic on the arrays of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.groups.tracing.contraction import Operand, join
from autoprune.groups.tracing.evidence import Evidence, is_copy
from autoprune.groups.tracing.labels import BlockAxis, Factor, Labels, pick, rows
from autoprune.groups.types import IntArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """Neighbouring dimensions before and after a view that hold the same elements."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def segments(source: Shape, target: Shape) -> list[Segment]:
    """Return the finest split of a view into independent segments; sizes must be positive."""
    found = []
    i = j = 0
    while i < len(source) or j < len(target):
        start = (i, j)
        left = source[i] if i < len(source) else 1
        right = target[j] if j < len(target) else 1
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while left != right:
            if left < right:
                left, i = left * source[i], i + 1
            else:
                right, j = right * target[j], j + 1
        found.append(Segment(tuple(range(start[0], i)), tuple(range(start[1], j))))
    return found


def view(evidence: Evidence, labels: Labels, shape: Shape) -> Labels:
    """Return the labels of a tensor seen under another shape."""
    if labels.shape == shape or not labels.factors:
        return Labels(shape, labels.factors)
    if 0 in shape:
        evidence.freeze(labels, "a view of an empty tensor")
        return Labels(shape)
    parts = segments(labels.shape, shape)
    factors = []
    for factor in _with_products(evidence, labels, parts):
        mine = [p for p in parts if set(p.source) & set(factor.visible)]
        seen = _view_factor(evidence, factor, mine, labels.shape, shape)
        if seen is not None:
            factors.append(seen)
    return Labels(shape, tuple(factors))


def _with_products(evidence: Evidence, labels: Labels, parts: Sequence[Segment]) -> list[Factor]:
    """Return the factors, those that a view merges as one."""
    factors = list(labels.factors)
    for part in parts:
        met = [f for f in factors if set(f.visible) & set(part.source)]
        if len(met) > 1:
            factors = [f for f in factors if f not in met] + [evidence.product(met)]
    return factors


def _view_factor(
    evidence: Evidence, factor: Factor, parts: list[Segment], source: Shape, shape: Shape
) -> Factor | None:
    """Spread the atoms over all source dimensions, reshape them, and drop the axes along which they do not change.

    Axes that were summed over ride along behind the dimensions, so that the arrangement stays whole.
    """
    renamed = _renaming(parts, source, shape)
    if renamed is not None:
        return factor.moved(renamed)
    hidden = [i for i, d in enumerate(factor.dims) if d is None]
    before = [d for p in parts for d in p.source]
    after = [d for p in parts for d in p.target]
    order = [factor.position(d) for d in before if d in factor.dims] + hidden
    tail = [factor.atoms.shape[i] for i in hidden]
    atoms = factor.atoms.transpose(order).reshape([source[d] if d in factor.dims else 1 for d in before] + tail)
    atoms = np.broadcast_to(atoms, [source[d] for d in before] + tail).reshape([shape[d] for d in after] + tail)
    dims: list[int | None] = [*after, *(None for _ in hidden)]
    origins = [factor.axes[i] for i in hidden]
    for axis in reversed(range(atoms.ndim)):
        if (rows(atoms, axis) == rows(atoms, axis)[0]).all():
            atoms = pick(atoms, 0, axis)
            del dims[axis]
            if axis >= len(after):
                del origins[axis - len(after)]
    visible = [d for d in dims if d is not None]
    if not visible:
        return None
    if atoms.ndim == 1:
        return Factor.single(atoms, visible[0])
    block = evidence.block(atoms, "view")
    for axis, origin in enumerate(_origins(factor, parts, visible) + origins):
        evidence.tie(block.axis(axis), origin)
    _hint_at_merged(evidence, factor, parts, Factor.of_block(block, dims))
    return Factor.of_block(block, dims)


def _renaming(parts: list[Segment], source: Shape, shape: Shape) -> dict[int, int | None] | None:
    """Return source -> target dimension when every segment only gains or loses dimensions of size 1."""
    place: dict[int, int | None] = {}
    for part in parts:
        before = [d for d in part.source if source[d] > 1]
        after = [d for d in part.target if shape[d] > 1]
        if len(before) != 1 or len(after) != 1:
            return None
        place[before[0]] = after[0]
    return place


def _origins(factor: Factor, parts: list[Segment], visible: list[int]) -> list[BlockAxis | None]:
    """Return for each kept target dimension the block axis it continues: the only one of its segment on both sides."""
    origin: dict[int, BlockAxis | None] = {}
    for part in parts:
        before = [d for d in part.source if d in factor.dims]
        after = [d for d in part.target if d in visible]
        if len(before) == 1 and len(after) == 1:
            origin[after[0]] = factor.axes[factor.position(before[0])]
    return [origin.get(d) for d in visible]


def _hint_at_merged(evidence: Evidence, factor: Factor, parts: list[Segment], seen: Factor) -> None:
    """Prefer to cut a dimension that repeats another one where one of the two that it merges is cut."""
    for part in parts:
        before = [factor.position(d) for d in part.source if d in factor.dims]
        after = [seen.position(d) for d in part.target if d in seen.dims]
        if len(before) > 1 and len(after) == 1 and any(is_copy(factor, i) for i in before):
            merged = seen.axes[after[0]]
            axes = (factor.axes[i] for i in before)
            evidence.hints.extend((merged, axis) for axis in axes if merged is not None and axis is not None)


def take(evidence: Evidence, labels: Labels, dim: int, index: IntArray, shape: Shape, reason: str) -> Labels:
    """Return the labels of a selection by literal indices along one dimension, whose length must therefore stay."""
    factor = labels.at(dim)
    if factor is None:
        return Labels(shape, labels.factors)
    evidence.pin(factor, (dim,), reason)
    taken = Factor(pick(factor.atoms, index, factor.position(dim)), factor.dims, factor.axes)
    return Labels(shape, tuple(taken if f is factor else f for f in labels.factors))


def take_range(evidence: Evidence, labels: Labels, dim: int, start: int, shape: Shape) -> Labels:
    """Return the labels of neighbouring indices of one dimension.

    Plain channels stay prunable: whether the bounds follow them, as attributes do and literals do not, is found out
    where the groups are verified.
    """
    factor, end = labels.at(dim), start + shape[dim]
    if factor is None or factor.atoms.ndim > 1:
        return take(evidence, labels, dim, np.arange(start, end), shape, "literal slice")
    evidence.bounds(factor.atoms, (start, end))
    others = tuple(f for f in labels.factors if f is not factor)
    piece = (Factor.single(factor.atoms[start:end], dim),) if end - start > 1 else ()
    return Labels(shape, (*others, *piece))


def select(evidence: Evidence, labels: Labels, dim: int, index: int, shape: Shape) -> Labels:
    """Return the labels of one literal index of a dimension, which disappears."""
    place: dict[int, int | None] = {d: d - (d > dim) for d in range(len(labels.shape)) if d != dim}
    factor = labels.at(dim)
    if factor is None:
        return labels.moved(shape, place)
    evidence.pin(factor, (dim,), "one index of it is selected by a literal")
    axis = factor.position(dim)
    chosen = Factor(
        pick(factor.atoms, index, axis),
        factor.dims[:axis] + factor.dims[axis + 1 :],
        factor.axes[:axis] + factor.axes[axis + 1 :],
    )
    return Labels(labels.shape, tuple(chosen if f is factor else f for f in labels.factors)).moved(shape, place)


def split(evidence: Evidence, labels: Labels, dim: int, shapes: Sequence[Shape]) -> list[Labels]:
    """Return the labels of consecutive pieces; equal pieces stay equal."""
    sizes = [shape[dim] for shape in shapes]
    factor = labels.at(dim)
    if factor is None:
        return [Labels(shape, labels.factors) for shape in shapes]
    if factor.partial or len(set(sizes)) > 1:
        starts = np.cumsum([0, *sizes]).tolist()
        return [take_range(evidence, labels, dim, start, shape) for start, shape in zip(starts, shapes, strict=False)]
    axis = factor.position(dim)
    old = factor.atoms.shape
    atoms = factor.atoms.reshape(*old[:axis], len(sizes), sizes[0], *old[axis + 1 :])
    single = factor.atoms.ndim == 1
    block = evidence.block(atoms, "block" if single else "view", preferred=1 if single else 0)
    evidence.fix(block.axis(axis), "it is split into equal parts")
    axes = tuple(block.axis(i + (i >= axis)) for i in range(len(old)))
    for mine, theirs in zip(axes, factor.axes, strict=True):
        if mine.number != axis + 1:
            evidence.tie(mine, theirs)
    pieces = [Factor(pick(atoms, i, axis), factor.dims, axes) for i in range(len(sizes))]
    return [
        Labels(shape, tuple(piece if f is factor else f for f in labels.factors))
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


def concatenate(evidence: Evidence, parts: Sequence[Labels], dim: int, shape: Shape) -> Labels:
    """Return the labels of parts laid one after the other along `dim`; other dimensions are united."""
    along = _concatenate_along(evidence, parts, dim)
    covered = set(along.visible) if along is not None else set()
    letters = tuple(f"d{d}" for d in range(len(shape)))
    rest: Labels | None = None
    for number, part in enumerate(parts):
        mine = Labels(
            tuple(1 if d == dim else n for d, n in enumerate(part.shape)),
            tuple(f for f in part.factors if not covered & set(f.visible) and dim not in f.dims),
        )
        if rest is None:
            rest = mine
        else:
            before, after = (_distinct(letters, dim, f"{side}{number}") for side in ("before", "after"))
            rest = join(evidence, Operand(rest, before), Operand(mine, after), letters, mine.shape)
    return Labels(shape, (() if along is None else (along,)) + (() if rest is None else rest.factors))


def _distinct(letters: tuple[str, ...], dim: int, own: str) -> tuple[str, ...]:
    return tuple(own if d == dim else x for d, x in enumerate(letters))


def _concatenate_along(evidence: Evidence, parts: Sequence[Labels], dim: int) -> Factor | None:
    """Return the factor over `dim` of a concatenation; a part without channels there stays whole."""
    factors = [part.at(dim) for part in parts]
    for factor in factors:
        if factor is not None and is_copy(factor, factor.position(dim)):
            evidence.pin(factor, (dim,), "it is concatenated with a constant")
    model = next((f for f in factors if f is not None), None)
    if model is None:
        return None
    if any(f is not None and (f.partial or set(f.dims) != set(model.dims)) for f in factors):
        for factor, part in zip(factors, parts, strict=True):
            if factor is not None:
                evidence.freeze(Labels(part.shape, (factor,)), "parts of a concatenation have different structure")
        return None
    dims = model.visible
    axis = model.position(dim)
    arrays = []
    for factor, part in zip(factors, parts, strict=True):
        if factor is None:
            crossing = tuple(f for f in part.factors if set(f.visible) & set(dims))
            evidence.freeze(Labels(part.shape, crossing), "it is concatenated with an arrangement of other structure")
            sizes = [part.shape[d] if d == dim else n for d, n in zip(dims, model.atoms.shape, strict=True)]
            atoms = evidence.fresh(*sizes)
            evidence.freeze_atoms(atoms, "it is concatenated with a constant")
        else:
            atoms = factor.aligned(dims)
        arrays.append(atoms)
    joined = np.concatenate(arrays, axis)
    if joined.ndim == 1:
        return Factor.single(joined, dim)
    block = evidence.block(joined, "view")
    evidence.fix(block.axis(axis), "parts are concatenated along it")
    _tie_concatenated(evidence, [f for f in factors if f is not None], dim, Factor.of_block(block, dims))
    return Factor.of_block(block, dims)


def _tie_concatenated(evidence: Evidence, factors: list[Factor], dim: int, whole: Factor) -> None:
    for factor in factors:
        for d in whole.visible:
            axis = factor.axes[factor.position(d)]
            if d == dim and axis is not None:
                evidence.fix(axis, "parts are concatenated along it")
            else:
                evidence.tie(axis, whole.axes[whole.position(d)])


def repeat_each(evidence: Evidence, labels: Labels, dim: int, times: int) -> Labels:
    """Return the labels after every index of a dimension is repeated in place: a, a, b, b."""
    return _repeated(evidence, labels, dim, times, dim + 1)


def repeat_whole(evidence: Evidence, labels: Labels, dim: int, times: int) -> Labels:
    """Return the labels after a dimension is repeated as a whole: a, b, a, b."""
    return _repeated(evidence, labels, dim, times, dim)


def _repeated(evidence: Evidence, labels: Labels, dim: int, times: int, place: int) -> Labels:
    """Insert a dimension of size `times` at `place`, next to `dim`, and merge the two."""
    shape = labels.shape
    spread = labels.moved((*shape[:place], times, *shape[place:]), {d: d + (d >= place) for d in range(len(shape))})
    if times > 1 and dim > 0:
        spread = Labels(spread.shape, (*spread.factors, evidence.repeated(times, place)))
    return view(evidence, spread, (*shape[:dim], shape[dim] * times, *shape[dim + 1 :]))
