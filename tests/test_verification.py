"""Source that computes more from a width than the shapes tell: it would run after a cut and give another function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from tracing_nets import Forward, Net
from units import run

from autoprune.errors import GroupError
from autoprune.groups import ModelGroups, find_groups, mask_model, prepare_model, slice_model
from autoprune.groups.tracing import trace_model
from autoprune.groups.verification import verify
from autoprune.tasks.protocol import Inputs


def protected(found: ModelGroups | GroupError) -> str:
    """Return what is said of the layers that stay."""
    if isinstance(found, GroupError):
        return str(found.hint)
    return "; ".join(f"{layer.name}: {layer.reason}" for layer in found.protected)


def groups_of(model: nn.Module, *args: Tensor) -> ModelGroups | GroupError:
    """Return the groups, or the error that says why there are none."""
    try:
        return find_groups(model.eval(), Inputs(args, {}))
    except GroupError as error:
        return error


def names(found: ModelGroups | GroupError) -> set[str]:
    return set() if isinstance(found, GroupError) else {g.name for g in found.groups}


def attention(scores: Forward) -> Net:
    """Return q and k [16 channels] -> scores [5, 5] -> weights of v."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return scores(m.q(x), m.k(x)).softmax(-1) @ m.v(x)

    torch.manual_seed(0)
    return Net({"q": nn.Linear(6, 16), "k": nn.Linear(6, 16), "v": nn.Linear(6, 6)}, forward)


def after(middle: Forward, **parts: nn.Module | Tensor) -> Net:
    """Return linear a [12 channels] -> something -> linear u."""
    torch.manual_seed(0)
    return Net({"a": nn.Linear(5, 12), "u": nn.Linear(12, 4), **parts}, middle)


SCORES: dict[str, Forward] = {
    "divided by the width": lambda q, k: (q @ k.mT) / q.shape[-1],
    "divided by a tensor of the width": lambda q, k: (q @ k.mT) / torch.tensor(q.shape[-1]),
    "divided by a tensor's root": lambda q, k: (q @ k.mT) / torch.tensor(float(q.shape[-1])).sqrt(),
    "with an offset up to the width": lambda q, k: q @ k.mT + torch.linspace(0, q.shape[-1], 5),
    "with an offset from the width on": lambda q, k: q @ k.mT + torch.arange(q.shape[-1], q.shape[-1] + 5),
    "divided without gradients": lambda q, k: q @ k.mT + without_gradients(q.shape[-1]),
}


def without_gradients(width: int) -> Tensor:
    with torch.no_grad():
        return torch.ones(5).cumsum(0) / width


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_attention_scores_that_depend_on_the_width_keep_it(scores: Forward) -> None:
    found = groups_of(attention(scores), torch.randn(2, 5, 6))
    assert names(found) == set()
    assert "changed" in protected(found)


def test_attention_scores_that_do_not_depend_on_the_width_lose_channels() -> None:
    model = attention(lambda q, k: (q @ k.mT) / torch.tensor(16) / k.shape[1])
    assert names(groups_of(model, torch.randn(2, 5, 6))) == {"q"}


NUMBERS: dict[str, Forward] = {
    "variance": lambda m, x: m.u(m.a(x) ** 2 / (m.a(x).shape[-1] - 1)),
    "power": lambda m, x: m.u(m.a(x).sigmoid().pow(m.a(x).shape[-1])),
    "alpha": lambda m, x: m.u(torch.add(m.a(x), m.a(x).tanh(), alpha=m.a(x).shape[-1])),
    "selected index": lambda m, x: m.u(m.a(x)) + m.table[:, m.a(x).shape[-1] - 1],
    "shift": lambda m, x: torch.roll(m.u(m.a(x)), m.a(x).shape[-1], 1),
    "window": lambda m, x: m.u(m.a(x)) + F.avg_pool1d(m.table[None], m.a(x).shape[-1], ceil_mode=True).mean(),
    "norm": lambda m, x: m.u(m.a(x)) / m.table.norm(m.a(x).shape[-1]),
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_depend_on_the_width_keep_it(number: Forward) -> None:
    found = groups_of(after(number, table=torch.randn(4, 14)), torch.randn(3, 5))
    assert names(found) == set()
    assert "changed" in protected(found) or "has shape" in protected(found)


def test_hook_that_divides_by_the_width_keeps_it() -> None:
    model = after(lambda m, x: m.u(m.a(x).relu()))
    model.a.register_forward_hook(lambda _, __, output: output / output.shape[1])
    assert "a constant of div changed" in protected(groups_of(model, torch.randn(3, 5)))


class Stored(nn.Module):
    """`n` cuts a dimension, or `heads` shape one; both also do something else."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n, self.heads, self.factor = 8, 4, 8 if shared else 3.0
        self.shared = shared
        self.a, self.u, self.v = nn.Linear(5, 12), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        first, second = y.split([self.n, y.shape[1] - self.n], 1)
        return self.u(first) + self.v(second) * (self.n if self.shared else self.factor)


class Heads(nn.Module):
    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.shared = 4, shared
        self.a, self.u = nn.Linear(5, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        y = self.a(x).relu().view(batch, tokens, self.heads, 3).flatten(2)
        return torch.roll(self.u(y), self.heads if self.shared else 4, 1)


@pytest.mark.parametrize(("kind", "shape"), [(Stored, (3, 5)), (Heads, (2, 7, 5))])
def test_attribute_follows_a_size_only_where_it_does_nothing_else(
    kind: type[Stored | Heads], shape: tuple[int, ...]
) -> None:
    assert names(groups_of(kind(shared=False), torch.randn(shape))) == {"a"}
    assert names(groups_of(kind(shared=True), torch.randn(shape))) == set()


def halves(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    half = y.shape[1] // 2
    return m.u(torch.cat([y[:, half:].tanh(), y[:, :half].sigmoid()], 1))


def two_layers(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    half = y.shape[1] // 2
    return m.first(y[:, :half]) + m.second(y[:, half:])


def thirds(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    third = y.shape[1] // 3
    return m.u(torch.cat([y[:, third : 2 * third].tanh(), y[:, :third], y[:, 2 * third :].sigmoid()], 1))


def joined(m: Net, x: Tensor) -> Tensor:
    y = torch.cat([m.first(x), m.second(x)], 1)
    return m.u(torch.cat([y[:, y.shape[1] // 2 :].tanh(), y[:, : y.shape[1] // 2].sigmoid()], 1))


PIECES: dict[str, tuple[Forward, dict[str, nn.Module]]] = {
    "halves in another order": (halves, {}),
    "halves into layers": (two_layers, {"first": nn.Linear(6, 4), "second": nn.Linear(6, 4)}),
    "thirds": (thirds, {}),
    "halves of two layers": (joined, {"first": nn.Linear(5, 6), "second": nn.Linear(5, 6)}),
}


@pytest.mark.parametrize("seed", [0, 1, 3])
@pytest.mark.parametrize(("forward", "parts"), PIECES.values(), ids=PIECES)
def test_bounds_that_are_fractions_of_the_width_keep_it_whatever_the_draw(
    forward: Forward, parts: dict[str, nn.Module], seed: int
) -> None:
    trace = trace_model(after(forward, **parts).eval(), Inputs((torch.randn(3, 5),), {}))
    found = verify(trace, Inputs((torch.randn(3, 5),), {}), seed=seed)
    assert names(found) == set()


def test_unequal_chunks_keep_the_width() -> None:
    def chunked(m: Net, x: Tensor) -> Tensor:
        first, second = m.odd(x).chunk(2, 1)
        return m.four(first) + m.three(second)

    parts = {"odd": nn.Linear(5, 7), "four": nn.Linear(4, 4), "three": nn.Linear(3, 4)}
    found = groups_of(Net(parts, chunked), torch.randn(3, 5))
    assert names(found) == set()


def padded(before: Forward) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        k = before(a, b)
        return m.o(F.pad(a, (k, b.shape[1] - a.shape[1] - k)) + b)

    torch.manual_seed(0)
    return Net({"a": nn.Linear(5, 8), "b": nn.Linear(5, 14), "o": nn.Linear(14, 2)}, forward)


def test_padding_starts_where_the_channels_do() -> None:
    x = torch.randn(3, 5)
    assert "pad starts at another channel" in protected(groups_of(padded(lambda a, _: a.shape[1] // 2), x))
    model = padded(lambda a, b: (b.shape[1] - a.shape[1]) // 2)
    found = groups_of(model, x)
    assert isinstance(found, ModelGroups)
    alive = torch.arange(found.plan.unit_count).numpy() > 2
    cut, zeroed = slice_model(model, found.plan, alive), mask_model(model, found.plan, alive)
    torch.testing.assert_close(run(cut, Inputs((x,), {})), run(zeroed, Inputs((x,), {})))


class Auxiliary(nn.Module):
    """a -> relu -> o; in training mode also something else of what a makes."""

    def __init__(self, *, meets: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.aux = nn.Linear(8 if meets else 5, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.a(x).relu()
        out: Tensor = self.o(self.b(y).relu())
        if not self.training:
            return out
        return out, self.aux(y if self.aux.in_features == 8 else x)


def test_what_only_training_reads_keeps_its_width() -> None:
    found = groups_of(Auxiliary(meets=True), torch.randn(3, 5))
    assert names(found) == {"b"}
    assert "a: training, which uses 'aux.weight' too" in protected(found)
    model = Auxiliary(meets=True).train()
    groups = find_groups(model, Inputs((torch.randn(3, 5),), {}))
    assert all(module.training for module in model.modules())
    outputs = slice_model(model, groups.plan, torch.arange(groups.plan.unit_count).numpy() > 3)(torch.randn(3, 5))
    assert [tuple(t.shape) for t in outputs] == [(3, 2), (3, 3)]


def test_layers_for_training_alone_that_meet_no_cut_protect_nothing() -> None:
    assert names(groups_of(Auxiliary(meets=False), torch.randn(3, 5))) == {"a", "b"}


def test_two_channels_stay_where_every_dimension_of_size_one_is_squeezed() -> None:
    def squeezed(m: Net, x: Tensor) -> Tensor:
        return m.o(m.c(x).squeeze())

    torch.manual_seed(0)
    model, inputs = (
        Net({"c": nn.Conv2d(5, 6, 1), "o": nn.Linear(6, 2)}, squeezed),
        Inputs((torch.randn(3, 5, 1, 1),), {}),
    )
    found = find_groups(model, inputs)
    assert [(group.name, group.width) for group in found.groups] == [("c", 4)]
    least = slice_model(model, found.plan, torch.arange(found.plan.unit_count).numpy() < 0)
    assert (least.c.out_channels, run(least, inputs)[0].shape) == (2, (3, 2))


def test_weight_computed_from_one_that_another_layer_holds_stays_tied_and_whole() -> None:
    torch.manual_seed(0)
    model = Net(
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "o": nn.Linear(8, 6), "p": nn.Linear(6, 2)},
        lambda m, x: m.p(m.o(m.a(x).relu() + m.b(x).tanh()).relu()),
    )
    model.b.weight = model.a.weight
    spectral_norm(model.a)
    prepared, paths = prepare_model(model.eval())
    assert paths == ()
    assert model.a.parametrizations.weight.original is model.b.weight
    found = find_groups(prepared, Inputs((torch.randn(3, 5),), {}))
    assert names(found) == {"o"}
