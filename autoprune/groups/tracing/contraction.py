"""Generalised einsum on labels: linear, convolution, matmul, attention and element-wise operators are all this."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoprune.groups.tracing.evidence import Evidence
from autoprune.groups.tracing.labels import Factor, Labels

Letters = tuple[str | None, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor's labels with one letter per dimension, as in an einsum equation; letters do not repeat."""

    labels: Labels
    letters: tuple[str, ...]

    def spell(self, factor: Factor) -> Letters:
        """Return the letters of a factor's axes, None for those that were summed over."""
        return tuple(None if d is None else self.letters[d] for d in factor.dims)

    @property
    def constants(self) -> set[str]:
        """Letters of real dimensions that carry no channels."""
        sized = zip(self.letters, self.labels.shape, strict=True)
        return {letter for dim, (letter, size) in enumerate(sized) if size > 1 and self.labels.at(dim) is None}


def join(evidence: Evidence, left: Operand, right: Operand, out: Sequence[str], shape: tuple[int, ...]) -> Labels:
    """Return the labels of `einsum(left, right -> out)`; what the two share is united.

    Args:
        evidence: Where unions, links and pins go.
        left: First operand.
        right: Second operand.
        out: One letter per dimension of the result; a letter of neither operand is a dimension without channels.
        shape: Shape of the result.
    """
    for operand, other in ((left, right), (right, left)):
        _pin_against(evidence, operand, other.constants)
    spelled = [(f, left.spell(f)) for f in left.labels.factors]
    spelled_right = [(f, right.spell(f)) for f in right.labels.factors]
    for factor, letters in spelled:
        for other_factor, other_letters in spelled_right:
            _match(evidence, factor, letters, other_factor, other_letters)
    return Labels(shape, _carry(spelled + spelled_right, list(out)))


def elementwise(evidence: Evidence, operands: Sequence[Labels], shape: tuple[int, ...]) -> Labels:
    """Return the labels of an element-wise operator with broadcasting; aligned channels are united."""
    rank = len(shape)
    out = [f"d{dim}" for dim in range(rank)]
    result = _pad_rank(operands[0], rank)
    for operand in operands[1:]:
        other = _pad_rank(operand, rank)
        joint = tuple(max(a, b) for a, b in zip(result.shape, other.shape, strict=True))
        result = join(evidence, _broadcast(result, "left"), _broadcast(other, "right"), out, joint)
    return Labels(shape, result.factors)


def confine(evidence: Evidence, labels: Labels, dims: Collection[int], reason: str) -> Labels:
    """Return labels on `dims` alone: the length of every other dimension is kept and its channels end here."""
    factors = []
    for factor in labels.factors:
        outside = tuple(d for d in factor.visible if d not in dims)
        evidence.pin(factor, outside, reason)
        kept = factor.moved({d: d for d in factor.visible if d not in outside})
        if kept is not None:
            factors.append(kept)
    return Labels(labels.shape, tuple(factors))


def _pad_rank(labels: Labels, rank: int) -> Labels:
    lead = rank - len(labels.shape)
    return labels.moved((1,) * lead + labels.shape, {d: d + lead for d in range(len(labels.shape))})


def _broadcast(labels: Labels, side: str) -> Operand:
    """Give dimensions of size 1 letters of their own, so that they meet nothing."""
    return Operand(labels, tuple(f"d{d}" if n > 1 else f"{side}{d}" for d, n in enumerate(labels.shape)))


def _pin_against(evidence: Evidence, operand: Operand, constants: set[str]) -> None:
    for factor in operand.labels.factors:
        met = tuple(d for d in factor.visible if operand.letters[d] in constants)
        evidence.pin(factor, met, "it meets a constant or an input of fixed size")


def _match(evidence: Evidence, left: Factor, left_letters: Letters, right: Factor, right_letters: Letters) -> None:
    shared = [letter for letter in left_letters if letter is not None and letter in right_letters]
    if not shared:
        return
    whole = not left.partial and not right.partial and set(left_letters) == set(right_letters)
    for letter in shared:
        i, j = left_letters.index(letter), right_letters.index(letter)
        if whole:
            evidence.tie(left.axes[i], right.axes[j])
        else:
            evidence.link(left, i, right, j)
    if whole:
        order = [right_letters.index(letter) for letter in left_letters]
        evidence.unite(left.atoms, right.atoms.transpose(order))


def _carry(spelled: list[tuple[Factor, Letters]], out: list[str]) -> tuple[Factor, ...]:
    """Cover every letter of the result by one factor, whole ones and those that cover more first."""
    kept: list[Factor] = []
    taken: set[str] = set()
    for factor, letters in sorted(spelled, key=lambda s: (s[0].partial, -sum(x in out for x in s[1]))):
        dims = tuple(out.index(x) if x in out and x not in taken else None for x in letters)
        if all(d is None for d in dims):
            continue
        note_contracted(factor, [i for i, x in enumerate(letters) if x is not None and x not in out])
        kept.append(Factor(factor.atoms, dims, factor.axes))
        taken |= {x for x in letters if x in out and x is not None}
    return tuple(kept)


def note_contracted(factor: Factor, positions: list[int]) -> None:
    """Note which axes of a factor were summed over while others are kept."""
    for position in positions:
        axis = factor.axes[position]
        if axis is not None and factor.atoms.shape[position] > 1:
            axis.block.contracted.add(axis.number)
