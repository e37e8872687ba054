"""Recurrent layers: LSTM, GRU and plain ones, as whole sequences and as single steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.groups.tracing.contraction import Operand, confine, join
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.tracing.operators.registry import Call, Result, UnsupportedOperatorError, operator
from autoprune.groups.types import IntArray


@operator("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrence(call: Call) -> Result:
    """Let unit j be neuron j of every layer and direction, because the states of all lie in one tensor.

    It is a row of every gate's weights and biases, a column of the recurrent weights and of what reads the states.
    """
    parameters, directions = call.sequence("params"), 1 + bool(call["bidirectional"])
    step = 4 if call["has_biases"] else 2
    count = int(call["num_layers"]) * directions
    if len(parameters) != step * count:
        raise UnsupportedOperatorError("a projection of the hidden units (proj_size)")
    cells = [parameters[step * i : step * (i + 1)] for i in range(count)]
    hidden = _tied(call, cells)
    below = call.labels("input")
    for layer in range(0, count, directions):
        for cell in cells[layer : layer + directions]:
            _feed(call, below, cell[0])
        below = _states(below.shape, hidden, directions)
    _start(call, hidden)
    states = [_states(shape, hidden, 1) for shape in call.shapes[1:]]
    return [_states(call.shape, hidden, directions), *states]


@operator("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_step(call: Call) -> Result:
    """Do the same for a single step of a single layer."""
    own = [call.optional(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    cell = [labels for labels in own if labels is not None]
    hidden = _tied(call, [cell])
    _feed(call, call.labels("input"), cell[0])
    _start(call, hidden)
    results = [_states(shape, hidden, 1) for shape in call.shapes]
    return results[0] if call.single else results


def _tied(call: Call, cells: Sequence[Sequence[Labels]]) -> IntArray:
    """Unite what belongs to each neuron; return the neurons' atoms [hidden]."""
    evidence = call.evidence
    neurons = []
    for inputs, recurrent, *biases in cells:
        rows, columns = _own(inputs, 0), _own(recurrent, 1)
        gates = evidence.block(rows.atoms.reshape(-1, len(columns.atoms)), "block", preferred=1)
        evidence.fix(gates.axis(0), "every gate of a recurrent layer stays")
        for other in (recurrent, *biases):
            evidence.unite(rows.atoms, _own(other, 0).atoms)
        evidence.unite(gates.atoms[0], columns.atoms)
        call.note_producer(rows)
        call.note_producer(recurrent.at(0))
        neurons.append(columns.atoms)
    for other_neurons in neurons[1:]:
        evidence.unite(neurons[0], other_neurons)
    return neurons[0]


def _own(labels: Labels, dim: int) -> Factor:
    """Return the factor over a dimension of a plain weight of more than one neuron."""
    factor = labels.at(dim)
    if factor is None or factor.atoms.ndim > 1:
        raise UnsupportedOperatorError("computed weights, or a single hidden unit")
    return factor


def _feed(call: Call, x: Labels, weight: Labels) -> None:
    """Unite the features of a sequence with a weight's columns."""
    last = len(x.shape) - 1
    x = confine(call.evidence, x, (last,), "a recurrent layer runs along it")
    lead = tuple(f"n{d}" for d in range(last))
    shape = (*x.shape[:-1], weight.shape[0])
    join(call.evidence, Operand(x, (*lead, "i")), Operand(weight, ("o", "i")), (*lead, "o"), shape)


def _start(call: Call, hidden: IntArray) -> None:
    """Unite the neurons with the initial states."""
    given = call["hx"]
    for node in given if isinstance(given, list | tuple) else [given]:
        state = call.of(node)
        last = len(state.shape) - 1
        state = confine(call.evidence, state, (last,), "initial states are laid out along it")
        own = Operand(Labels(hidden.shape, (Factor.single(hidden, 0),)), ("h",))
        letters = (*(f"n{d}" for d in range(last)), "h")
        join(call.evidence, Operand(state, letters), own, letters, state.shape)


def _states(shape: tuple[int, ...], hidden: IntArray, directions: int) -> Labels:
    """Return labels of states in the last dimension, one direction behind the other."""
    atoms = np.tile(hidden, directions)
    return Labels((*shape[:-1], len(atoms)), (Factor.single(atoms, len(shape) - 1),))
