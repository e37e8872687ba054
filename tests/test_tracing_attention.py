"""Attention with shared key heads, and what sets its scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tracing_nets import Net, sequence
from units import built, equal, run, traced

from autoprune.groups import ModelGroups, find_groups, mask_model, slice_model
from autoprune.tasks.protocol import Inputs

WIDTH = 4
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def expanded(q: Tensor, k: Tensor, v: Tensor, times: int) -> Tensor:
    k, v = (t[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def interleaved(q: Tensor, k: Tensor, v: Tensor, times: int) -> Tensor:
    return F.scaled_dot_product_attention(q, *(t.repeat_interleave(times, dim=1) for t in (k, v)))


def built_in(q: Tensor, k: Tensor, v: Tensor, _: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def broadcast(q: Tensor, k: Tensor, v: Tensor, _: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_matmul(q: Tensor, k: Tensor, v: Tensor, _: int) -> Tensor:
    return (q @ k.mT).mul(0.3).softmax(-1) @ v


ATTENDS = {"expand": expanded, "repeat_interleave": interleaved, "enable_gqa": built_in}
MULTI_QUERY = {**ATTENDS, "broadcast": broadcast, "matmul": by_matmul}


class SharedKeys(nn.Module):
    """`num_heads` query heads over `num_kv_heads` key heads, both attributes that the forward pass reads."""

    def __init__(self, num_heads: int, num_kv_heads: int, attend: Attend) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.attend = num_heads, num_kv_heads, attend
        self.q = nn.Linear(16, num_heads * WIDTH)
        self.k, self.v = (nn.Linear(16, num_kv_heads * WIDTH) for _ in range(2))
        self.b = nn.Linear(num_heads * WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        counts = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        layers = (self.q, self.k, self.v)
        q, k, v = (f(x).view(*x.shape[:2], n, WIDTH).transpose(1, 2) for f, n in zip(layers, counts, strict=True))
        y = self.attend(q, k, v, self.num_heads // self.num_kv_heads)
        return self.b(y.transpose(1, 2).flatten(2))


def shared_keys(
    num_heads: int, num_kv_heads: int, attend: Attend, *, query_heads: bool = False
) -> tuple[SharedKeys, Inputs, ModelGroups]:
    torch.manual_seed(0)
    model, inputs = SharedKeys(num_heads, num_kv_heads, attend).eval(), Inputs((sequence(),), {})
    return model, inputs, find_groups(model, inputs, query_heads=query_heads)


def by_hand(model: SharedKeys, q_heads: list[int], kv_heads: list[int]) -> SharedKeys:
    """Build the attention with only these heads."""
    small = SharedKeys(len(q_heads), len(kv_heads), model.attend).eval()
    rows = {n: torch.tensor([h * WIDTH + i for h in heads for i in range(WIDTH)]) for n, heads in
            (("q", q_heads), ("k", kv_heads), ("v", kv_heads))}  # fmt: skip
    for name, index in rows.items():
        old = getattr(model, name)
        getattr(small, name).load_state_dict({"weight": old.weight[index], "bias": old.bias[index]})
    small.b.load_state_dict({"weight": model.b.weight[:, rows["q"]], "bias": model.b.bias})
    return small


@pytest.mark.parametrize("attend", ATTENDS.values(), ids=ATTENDS)
def test_key_head_goes_with_the_query_heads_that_share_it(attend: Attend) -> None:
    model, inputs, found = shared_keys(6, 3, attend)
    assert [(g.name, g.width, g.granularity) for g in found.groups] == [("q", 3, "head")]
    sliced = slice_model(model, found.plan, np.array([True, False, True]))
    assert (sliced.num_heads, sliced.num_kv_heads) == (4, 2)
    assert equal(run(sliced, inputs), run(by_hand(model, [0, 1, 4, 5], [0, 2]), inputs))


@pytest.mark.parametrize("attend", ATTENDS.values(), ids=ATTENDS)
def test_query_heads_of_every_key_head_are_units_where_that_is_asked_for(attend: Attend) -> None:
    model, inputs, found = shared_keys(6, 2, attend, query_heads=True)
    assert [(g.name, g.width, g.granularity) for g in found.groups] == [("q", 3, "head")]
    assert {p.name for p in found.protected} == {"k", "v", "b"}
    sliced = slice_model(model, found.plan, np.array([True, False, True]))
    assert (sliced.num_heads, sliced.num_kv_heads) == (4, 2)
    assert equal(run(sliced, inputs), run(by_hand(model, [0, 2, 3, 5], [0, 1]), inputs))


def test_asking_for_query_heads_changes_nothing_where_no_key_head_is_shared() -> None:
    for name in ("vit", "t5", "swin", "resnet20_pad", "unet"):
        asked, usual = find_groups(*built(name), query_heads=True), traced(name)
        assert [(g.name, g.width, g.producers) for g in asked.groups] == [
            (g.name, g.width, g.producers) for g in usual.groups
        ]


@pytest.mark.parametrize("attend", MULTI_QUERY.values(), ids=MULTI_QUERY)
def test_query_heads_over_a_single_key_head_are_units(attend: Attend) -> None:
    model, inputs, found = shared_keys(4, 1, attend)
    assert [(g.name, g.width, g.granularity) for g in found.groups] == [("q", 4, "head")]
    assert {p.name for p in found.protected} == {"k", "v", "b"}
    sliced = slice_model(model, found.plan, np.array([True, False, True, True]))
    assert (sliced.num_heads, sliced.num_kv_heads) == (3, 1)
    assert equal(run(sliced, inputs), run(by_hand(model, [0, 2, 3], [0]), inputs))


def attending(width: Callable[[Any], float | None], heads: int = 1) -> Net:
    """q, k, v [12] -> a fixed number of heads -> b."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], heads, -1).transpose(1, 2) for f in (m.q, m.k, m.v))
        return m.b(F.scaled_dot_product_attention(q, k, v, scale=width(q)).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    return Net({n: nn.Linear(16, 12) for n in "qkv"} | {"b": nn.Linear(12, 5)}, forward).eval()


@pytest.mark.parametrize("heads", [1, 3])
def test_width_of_a_head_stays_where_it_sets_the_scale(heads: int) -> None:
    found = find_groups(attending(lambda _: None, heads), Inputs((sequence(),), {}))
    assert [g.name for g in found.groups] == ["v"]
    reasons = {p.name: p.reason for p in found.protected}
    assert "the implicit scale of attention" in reasons["q"]
    assert "the implicit scale of attention" in reasons["k"]


def test_width_of_a_head_stays_where_the_source_computes_the_scale_from_it() -> None:
    found = find_groups(attending(lambda q: q.shape[-1] ** -0.5, 3), Inputs((sequence(),), {}))
    assert [g.name for g in found.groups] == ["v"]
    assert "a constant of scaled_dot_product_attention changed" in {p.name: p.reason for p in found.protected}["q"]


@pytest.mark.parametrize("heads", [1, 3])
def test_width_of_a_head_is_cut_where_the_scale_is_a_number(heads: int) -> None:
    model, inputs = attending(lambda _: 0.3, heads), Inputs((sequence(),), {})
    found = find_groups(model, inputs)
    assert [(g.name, g.width) for g in found.groups] == [("q", 12 // heads), ("v", 12 // heads)]
    alive = np.arange(found.plan.unit_count) % 3 > 0
    cut, zeroed = (run(f(model, found.plan, alive), inputs)[0] for f in (slice_model, mask_model))
    torch.testing.assert_close(cut, zeroed)
