"""Contractions of two tensors: linear, matmul, einsum; and embedding, a contraction with one-hot rows."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.groups.tracing.contraction import Operand, elementwise, join, note_contracted
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, UnsupportedOperatorError, operator

Letters = tuple[str, ...]


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


@operator("addmm", "baddbmm", "addmv")
def addmm(call: Call) -> Labels:
    """Add a matrix product to a first operand."""
    bias, left, right = call.operands
    return elementwise(call.evidence, [_matmul(call, left, right, call.shape), bias], call.shape)


@operator("outer", "ger")
def outer(call: Call) -> Labels:
    """Multiply every entry of one vector with every entry of another."""
    left, right = call.operands
    return _contract(call, _broadcast("left", left, ["m"]), _broadcast("right", right, ["n"]), ("m", "n"), call.shape)


@operator("bilinear")
def bilinear(call: Call) -> Labels:
    """Contract two inputs with a weight [out, in1, in2]."""
    left, right, weight = (call.labels(name) for name in ("input1", "input2", "weight"))
    lead = tuple(f"n{d}" for d in range(len(left.shape) - 1))
    shape = (*left.shape[:-1], *weight.shape[::2])
    half = join(call.evidence, Operand(left, (*lead, "i")), Operand(weight, ("o", "i", "j")), (*lead, "o", "j"), shape)
    y = join(call.evidence, Operand(half, (*lead, "o", "j")), Operand(right, (*lead, "j")), (*lead, "o"), call.shape)
    call.note_producer(weight.at(0))
    bias = call.optional("bias")
    return y if bias is None else elementwise(call.evidence, [y, bias], call.shape)


@operator("einsum")
def einsum(call: Call) -> Labels:
    """Contract tensors by an explicit equation without repeated letters, from left to right."""
    tensors = call.sequence("tensors")
    terms, out = _equation(str(call["equation"]), [len(x.shape) for x in tensors])
    if any(len(set(term)) < len(term) for term in (*terms, out)):
        raise UnsupportedOperatorError(f"einsum {call['equation']!r}")
    sizes = {x: 1 for term in terms for x in term}
    for labels, term in zip(tensors, terms, strict=True):
        sizes |= {x: n for x, n in zip(term, labels.shape, strict=True) if n > 1}
    result, spelled = tensors[0], terms[0]
    for number, (labels, term) in enumerate(zip(tensors[1:], terms[1:], strict=True), start=1):
        wanted = out if number == len(terms) - 1 else dict.fromkeys(spelled + term)
        left = _broadcast("left", result, list(spelled))
        right = _broadcast("right", labels, list(term))
        spelled = tuple(wanted)
        result = _contract(call, left, right, spelled, tuple(sizes[x] for x in spelled))
    return result if spelled == out else _rearranged(call, Operand(result, spelled), out)


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


@operator("embedding_bag")
def embedding_bag(call: Call) -> list[Labels]:
    """Pool rows that are looked up; as for `embedding` the columns are the channels."""
    weight, indices = call.labels("weight"), call.labels("indices")
    samples = call.optional("per_sample_weights")
    rows, columns = weight.at(0), weight.at(1)
    if indices.factors or (samples is not None and samples.factors):
        raise UnsupportedOperatorError("embedding_bag with computed indices or weights of samples")
    if rows is not None:
        call.evidence.pin(rows, (0,), "rows of a table are looked up by index")
    call.note_producer(columns)
    found = () if columns is None else (Factor(columns.atoms, (1,), columns.axes),)
    return [Labels(call.shape, found), *(Labels(shape) for shape in call.shapes[1:])]


def _equation(equation: str, ranks: Sequence[int]) -> tuple[list[Letters], Letters]:
    """Return the letters of every operand and of the result; an ellipsis stands for letters of its own."""
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    written = inputs.split(",")
    if not arrow or len(written) != len(ranks):
        raise UnsupportedOperatorError(f"einsum {equation!r}")
    spread = max(rank - len(term.replace("...", "")) for term, rank in zip(written, ranks, strict=True))
    if spread and any("..." not in term and len(term) < rank for term, rank in zip(written, ranks, strict=True)):
        raise UnsupportedOperatorError(f"einsum {equation!r}")

    def spelled(term: str, hidden: int) -> Letters:
        before, dots, after = term.partition("...")
        middle = tuple(f".{d}" for d in range(spread - hidden, spread)) if dots else ()
        return (*before, *middle, *after)

    terms = [spelled(t, n - len(t.replace("...", ""))) for t, n in zip(written, ranks, strict=True)]
    return terms, spelled(out, spread)


def _rearranged(call: Call, x: Operand, out: Letters) -> Labels:
    """Return the labels of one operand with some dimensions summed over and the others in another order."""
    for factor in x.labels.factors:
        summed = tuple(d for d in factor.visible if x.letters[d] not in out)
        call.evidence.statistic(factor, summed)
        if len(summed) < len(factor.visible):
            note_contracted(factor, [factor.position(d) for d in summed])
    return x.labels.moved(call.shape, {d: out.index(c) for d, c in enumerate(x.letters) if c in out})


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
