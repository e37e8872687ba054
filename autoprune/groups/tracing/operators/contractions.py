"""Contractions of two tensors: linear, matmul, einsum; and embedding, a contraction with one-hot rows."""

from __future__ import annotations

from autoprune.groups.tracing.contraction import Operand, elementwise, join
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator


@operator("linear")
def linear(call: Call) -> Labels:
    """Unite the input's last dimension with the weight's columns; the rows are the new channels."""
    x, weight, bias = call.labels("input"), call.labels("weight"), call.optional("bias")
    lead = tuple(f"n{d}" for d in range(len(x.shape) - 1))
    y = join(call.evidence, Operand(x, (*lead, "i")), Operand(weight, ("o", "i")), (*lead, "o"), call.shape)
    call.note_producer(weight.at(0))
    return y if bias is None else elementwise(call.evidence, [y, bias], call.shape)


@operator("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: Call) -> Labels:
    """Contract the last dimension of the left with the last but one of the right; leading ones broadcast."""
    left, right = call.operands
    return _matmul(call, left, right, call.shape)


@operator("addmm", "baddbmm")
def addmm(call: Call) -> Labels:
    """Add a matrix product to a first operand."""
    bias, left, right = call.operands
    return elementwise(call.evidence, [_matmul(call, left, right, call.shape), bias], call.shape)


@operator("einsum")
def einsum(call: Call) -> Labels:
    """Contract two tensors by an explicit equation with plain letters."""
    inputs, arrow, out = str(call["equation"]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    tensors = call.sequence("tensors")
    repeated = any(len(set(term)) < len(term) for term in (*terms, out))
    if not arrow or len(tensors) != 2 or "." in inputs or repeated:
        raise UnsupportedOperatorError(f"einsum {call['equation']!r}")
    left, right = (Operand(labels, tuple(term)) for labels, term in zip(tensors, terms, strict=True))
    return _contract(call, left, right, tuple(out), call.shape)


@operator("embedding")
def embedding(call: Call) -> Labels:
    """Look rows up: the rows stay whole, the columns are the channels of the last dimension."""
    weight, indices = call.labels("weight"), call.labels("indices")
    rows, columns = weight.at(0), weight.at(1)
    if indices.factors or (columns is not None and columns.visible != (1,)):
        raise UnsupportedOperatorError("embedding with computed weight or indices")
    if rows is not None:
        call.evidence.pin(rows, (0,), "rows of a table are looked up by index")
    call.note_producer(columns)
    if columns is None:
        return Labels(call.shape)
    return Labels(call.shape, (Factor(columns.atoms, (len(call.shape) - 1,), columns.axes),))


def _matmul(call: Call, left: Labels, right: Labels, shape: tuple[int, ...]) -> Labels:
    rank = max(len(left.shape), len(right.shape))
    vector_left, vector_right = len(left.shape) == 1, len(right.shape) == 1
    lead = [f"n{d}" for d in range(rank - 2)]
    left_letters = ["k"] if vector_left else [*_tail(lead, len(left.shape) - 2), "m", "k"]
    right_letters = ["k"] if vector_right else [*_tail(lead, len(right.shape) - 2), "k", "n"]
    out = lead + ([] if vector_left else ["m"]) + ([] if vector_right else ["n"])
    return _contract(
        call, _broadcast("left", left, left_letters), _broadcast("right", right, right_letters), tuple(out), shape
    )


def _broadcast(side: str, labels: Labels, letters: list[str]) -> Operand:
    """Give dimensions of size 1 letters of their own, so that they meet nothing."""
    sized = zip(letters, labels.shape, strict=True)
    return Operand(labels, tuple(letter if size > 1 else f"{side} {letter}" for letter, size in sized))


def _tail(letters: list[str], count: int) -> list[str]:
    return letters[len(letters) - count :]


def _contract(call: Call, left: Operand, right: Operand, out: tuple[str, ...], shape: tuple[int, ...]) -> Labels:
    """Join, and record a parameter's own dimensions in the result as makers of channels."""
    for own, other in ((left, right), (right, left)):
        for factor in own.labels.factors:
            letter = own.letters[factor.visible[0]]
            if letter in out and letter not in other.letters:
                call.note_producer(factor)
    return join(call.evidence, left, right, out, shape)
