"""Recurrent layers: unit j is neuron j of all layers and directions, with all that hangs on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tracing_nets import Case, Net, assert_found_exactly, sequence
from units import equal, run

from autoprune.errors import GroupError
from autoprune.evaluation import count_macs
from autoprune.groups import find_groups, slice_model
from autoprune.runtimes import emit_onnx, open_onnx
from autoprune.tasks.protocol import Inputs

KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first, two layers": {"batch_first": True, "num_layers": 2},
    "bidirectional, two layers, without bias": {"bidirectional": True, "num_layers": 2, "bias": False},
}


def between(layer: nn.Module, *, to: int = 10) -> Case:
    """linear a -> recurrent layer r [10 neurons] -> linear c -> linear b."""
    parts = {"a": nn.Linear(16, 12), "r": layer, "c": nn.Linear(to, 9), "b": nn.Linear(9, 5)}
    return Case(lambda: parts, lambda m, x: m.b(m.c(m.r(m.a(x))[0])), sequence, {"a": 12, "r": 10, "c": 9})


class OwnStart(nn.Module):
    """Initial states of zeros, made from an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 10
        self.r = nn.LSTM(16, 10)
        self.b = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, x.shape[1], self.hidden).to(x.device)
        return self.b(self.r(x, (start, start))[0])


def stepped(m: Any, x: Tensor) -> Tensor:
    state: tuple[Tensor, Tensor] | None = None
    inner: Tensor | None = None
    for step in x.unbind(1):
        state = m.r(step, state)
        inner = m.g(state[0], inner)
    return m.b(inner)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_units_whose_removal_equals_zeroing_them(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    assert_found_exactly(between(KINDS[kind](12, 10, **options), to=20 if "bidirectional" in options else 10))


STATES = {
    "last states of both directions": Case(
        lambda: {"r": nn.LSTM(16, 10, 2, bidirectional=True), "b": nn.Linear(20, 5)},
        lambda m, x: m.b(torch.cat([*m.r(x)[1][0][-2:]], 1)),
        sequence,
        {"r": 10},
    ),
    "states handed to another layer": Case(
        lambda: {"r": nn.GRU(16, 10), "s": nn.GRU(16, 10), "b": nn.Linear(10, 5)},
        lambda m, x: m.b(m.s(x, m.r(x)[1])[0]),
        sequence,
        {"r": 10},
    ),
    "learned initial states": Case(
        lambda: {"h": torch.randn(1, 1, 10), "r": nn.GRU(16, 10), "b": nn.Linear(10, 5)},
        lambda m, x: m.b(m.r(x, m.h.expand(-1, 6, -1))[0]),
        sequence,
        {"r": 10},
    ),
    "single steps": Case(
        lambda: {"r": nn.LSTMCell(16, 10), "g": nn.GRUCell(10, 7), "b": nn.Linear(7, 5)},
        stepped,
        sequence,
        {"r": 10, "g": 7},
    ),
    "projection": Case(
        lambda: {"a": nn.Linear(16, 12), "r": nn.LSTM(12, 10, proj_size=4), "c": nn.Linear(4, 9), "b": nn.Linear(9, 5)},
        lambda m, x: m.b(m.c(m.r(m.a(x))[0])),
        sequence,
        {"c": 9},
        {"a": "a projection of the hidden units", "r": "a projection of the hidden units"},
    ),
    "states given by the input": Case(
        lambda: {"r": nn.GRU(16, 16), "c": nn.Linear(16, 9), "b": nn.Linear(9, 5)},
        lambda m, x: m.b(m.c(m.r(x, x[:1])[0])),
        sequence,
        {"c": 9},
        {"r": "it meets a constant or an input of fixed size"},
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("case", STATES.values(), ids=STATES)
def test_states_carry_the_neurons(case: Case) -> None:
    assert_found_exactly(case)


def test_packed_sequences_are_refused_with_the_cause() -> None:
    def packed(m: Any, x: Tensor) -> Tensor:
        together = nn.utils.rnn.pack_padded_sequence(m.a(x), torch.tensor([6, 4]), batch_first=True)
        return m.b(m.r(together)[1][0][-1])

    parts = {"a": nn.Linear(16, 12), "r": nn.LSTM(12, 10, batch_first=True), "b": nn.Linear(10, 5)}
    with pytest.raises(GroupError, match=r"cannot be exported: .* torch-pruning cannot trace the model"):
        find_groups(Net(parts, packed), Inputs((sequence(),), {}))


def test_size_of_initial_states_follows_an_attribute() -> None:
    torch.manual_seed(0)
    model, inputs = OwnStart().eval(), Inputs((sequence(),), {})
    found = find_groups(model, inputs)
    assert [(rule.module, rule.attribute) for rule in found.plan.rules] == [("", "hidden")]
    sliced = slice_model(model, found.plan, np.arange(10) < 6)
    assert (sliced.hidden, sliced.r.hidden_size, run(sliced, inputs)[0].shape) == (6, 6, (2, 6, 5))


def test_lstm_without_neurons_equals_one_written_by_hand() -> None:
    torch.manual_seed(0)
    layer, reader = nn.LSTM(16, 10, batch_first=True), nn.Linear(10, 5)
    model = Net({"r": layer, "b": reader}, lambda m, x: m.b(m.r(x)[0])).eval()
    inputs = Inputs((sequence(),), {})
    kept = torch.tensor([0, 2, 3, 7, 8, 9])
    expected = Net({"r": nn.LSTM(16, 6, batch_first=True), "b": nn.Linear(6, 5)}, model.function).eval()
    rows = torch.cat([kept + 10 * gate for gate in range(4)])
    state = {name: tensor[rows] for name, tensor in layer.state_dict().items()}
    expected.r.load_state_dict(state | {"weight_hh_l0": state["weight_hh_l0"][:, kept]})
    expected.b.load_state_dict({"weight": reader.weight[:, kept], "bias": reader.bias})

    found = find_groups(model, inputs)
    sliced = slice_model(model, found.plan, np.isin(np.arange(10), kept.numpy()))
    assert equal(run(sliced, inputs), run(expected, inputs))
    assert (sliced.r.input_size, sliced.r.hidden_size) == (16, 6)


def test_sliced_lstm_saves_moves_and_trains_like_any_other() -> None:
    torch.manual_seed(0)
    model, inputs = OwnStart(), Inputs((sequence(),), {})
    sliced = slice_model(model, find_groups(model, inputs).plan, np.arange(10) < 6)
    before = run(sliced, inputs)
    moved = sliced.double().float()
    assert equal(run(moved, inputs), before)
    moved(*inputs.args).sum().backward()
    assert moved.r.weight_hh_l0.grad.shape == (24, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_work_of_every_gate_is_counted(kind: str) -> None:
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    layer = KINDS[kind](16, 10, 2, batch_first=True)
    assert count_macs(layer, Inputs((torch.randn(1, 6, 16),), {})) == 6 * gates * 10 * (16 + 10 + 10 + 10)


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_recurrent_layer_answers_the_same_in_onnx(kind: str) -> None:
    torch.manual_seed(0)
    case = between(KINDS[kind](12, 10, batch_first=True))
    model, x = case.build()
    inputs = Inputs((x,), {})
    found = find_groups(model, inputs)
    sliced = slice_model(model, found.plan, np.arange(found.plan.unit_count) % 2 == 0)
    session = open_onnx(emit_onnx(sliced, inputs), 1, outputs=sliced(x))
    torch.testing.assert_close(session.run(inputs), run(sliced, inputs)[0], rtol=1e-4, atol=1e-5)
