"""Tiny nets for the tracer's tests: conv a -> something -> conv b, linear a -> something -> linear b, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from units import run

from autoprune.groups import find_groups, mask_model, slice_model
from autoprune.tasks.protocol import Inputs

Parts = Mapping[str, nn.Module | Tensor]
Forward = Callable[[Any, Tensor], Any]
Middle = Callable[[Any, Tensor], Tensor]
Core = Callable[[Tensor, Tensor, Tensor], Tensor]

OUTPUT = "its output is the model's output"


class Net(nn.Module):
    """A net given by its parts and one function of (net, input); tensors among the parts become parameters."""

    def __init__(self, parts: Parts, function: Forward) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """A net and what must be found.

    Args:
        groups: Group -> width.
        protected: Layer -> part of the reason; besides them only `b`, which makes the output.
        inexact: Groups in which zeroing a unit is not removing it.
    """

    parts: Callable[[], Parts]
    forward: Forward
    x: Callable[[], Tensor]
    groups: Mapping[str, int]
    protected: Mapping[str, str] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()

    def build(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return Net(self.parts(), self.forward).eval(), self.x()


def assert_found_exactly(case: Case) -> None:
    """Find the case's units; cutting half of a group changes the answer, and equals zeroing where that is exact."""
    model, x = case.build()
    inputs = Inputs((x,), {})
    found = find_groups(model, inputs)

    assert {g.name: g.width for g in found.groups} == case.groups
    reasons = {p.name: p.reason for p in found.protected}
    assert reasons.keys() == {*case.protected, "b"}
    assert all(part in reasons[layer] for layer, part in {"b": OUTPUT, **case.protected}.items())
    assert {g.name for g in found.groups if not g.exact_masking} == set(case.inexact)

    full = run(model, inputs)[0]
    rng = np.random.default_rng(0)
    for group in found.groups:
        alive = np.ones(found.plan.unit_count, dtype=np.bool_)
        alive[group.start + rng.choice(group.width, max(1, group.width // 2), replace=False)] = False
        pruned = run(slice_model(model, found.plan, alive), inputs)[0]
        assert pruned.shape == full.shape
        assert not torch.equal(pruned, full)
        if group.exact_masking:
            torch.testing.assert_close(pruned, run(mask_model(model, found.plan, alive), inputs)[0])


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def rows() -> Tensor:
    return torch.randn(4, 8)


def sequence() -> Tensor:
    return torch.randn(2, 6, 16)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def convs(middle: Middle, groups: Mapping[str, int], *, to: int = 12, parts: Any = dict, **expected: Any) -> Case:
    """conv a [12 channels] -> `middle` [`to` channels] -> conv b."""

    def all_parts() -> Parts:
        return {"a": conv(3, 12), "b": conv(to, 5), **parts()}

    return Case(all_parts, lambda m, x: m.b(middle(m, F.relu(m.a(x)))).mean((2, 3)), image, groups, **expected)


def linears(middle: Middle, groups: Mapping[str, int], *, to: int = 12, parts: Any = dict, **expected: Any) -> Case:
    """linear a [12 channels] -> `middle` [`to` channels] -> linear b."""

    def all_parts() -> Parts:
        return {"a": nn.Linear(8, 12), "b": nn.Linear(to, 5), **parts()}

    return Case(all_parts, lambda m, x: m.b(middle(m, torch.tanh(m.a(x)))), rows, groups, **expected)


def attention(core: Core, *, units: int = 4, keys: int = 32, parts: Any = dict, **expected: Any) -> Case:
    """linear q [32], k and v [`keys`] -> `core` -> linear b; a unit is a head of 8 with all that hangs on it."""

    def all_parts() -> Parts:
        widths = {"q": 32, "k": keys, "v": keys, "b": 5}
        return {name: nn.Linear(32 if name == "b" else 16, width) for name, width in widths.items()} | dict(parts())

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(core(m.q(x), m.k(x), m.v(x)))

    return Case(all_parts, forward, sequence, {"q": units}, **expected)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 8)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v)))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True, scale=0.3))


def grouped_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v), enable_gqa=True))


def repeated_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (heads(t).repeat_interleave(2, dim=1) for t in (k, v))
    return merged(F.scaled_dot_product_attention(heads(q), k, v))


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (-1, 8)) for t in (q, k, v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def by_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, length, _ = q.shape
    q, k, v = (heads(t).reshape(-1, length, 8) for t in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(n, -1, length, length).softmax(-1)
    return merged(torch.bmm(scores.view(-1, length, length), v).view(n, -1, length, 8))


def zero_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (heads(t) for t in (q, k, v))
    bias = torch.zeros(1, q.shape[1], 6, 6) + torch.ones(6, 6).tril().log()
    return merged(F.scaled_dot_product_attention(q, k, v, bias))


def literal_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.view(*t.shape[:2], 4, -1).transpose(1, 2) for t in (q, k, v))
    return merged(F.scaled_dot_product_attention(q, k, v, scale=0.3))


def normalised_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(F.layer_norm(heads(q), (8,)), heads(k), heads(v)))


def biased_by_table(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(layer(x)) for layer in (m.q, m.k, m.v))
    positions = torch.arange(6)
    bias = m.table[positions[:, None] - positions[None, :] + 5].permute(2, 0, 1)
    return m.b(merged(F.scaled_dot_product_attention(q, k, v, bias)))


def qkv_stacked(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.a(x).reshape(*x.shape[:2], 3, -1, 8).permute(2, 0, 3, 1, 4).unbind(0)
    return m.b(merged(F.scaled_dot_product_attention(q, k, v)))


def qkv_chunked(m: Any, x: Tensor) -> Tensor:
    return m.b(fused(*m.a(x).chunk(3, dim=-1)))


def shuffled(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3))))))[:, :, None, None]


def per_channel_image(m: Any, x: Tensor) -> Tensor:
    return x + m.one(x.flatten(0, 1).unsqueeze(1)).view_as(x)


def channel_attention(x: Tensor) -> Tensor:
    y = x.flatten(2)
    scores = y @ y.transpose(1, 2)
    return ((scores / (1 + scores.abs())) @ y).view_as(x)


def mixer(m: Any, x: Tensor) -> Tensor:
    return m.b((x + m.out(F.gelu(m.a(x.transpose(1, 2)))).transpose(1, 2)).mean(1))


def outer_product(m: Any, x: Tensor) -> Tensor:
    return m.b(m.d((m.a(x)[:, :, None] * m.c(x)[:, None, :]).flatten(1)))


def written_in_place(m: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :6] = 0
    return m.c(x)
