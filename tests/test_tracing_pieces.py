"""Dimensions cut into unequal pieces: each is units of its own where attributes give the bounds, protected else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tracing_nets import conv, image
from units import equal, run

from autoprune.errors import ArtifactError
from autoprune.groups import find_groups, mask_model, slice_model
from autoprune.groups.slicing import architecture_from_json, architecture_of, architecture_to_json, rebuild
from autoprune.tasks.protocol import Inputs

Cut = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


class Pieces(nn.Module):
    """conv a [12] -> cut into 4 and 8 channels -> conv c and d [7 each] -> conv b."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut, self.first, self.second, self.sizes, self.listed = cut, 4, 8, (4, 8), [4, 8]
        self.a, self.c, self.d, self.b = conv(3, 12), conv(4, 7), conv(8, 7), conv(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cut(self, torch.relu(self.a(x)))
        return self.b(torch.cat([self.c(first), self.d(second)], 1)).mean((2, 3))


def pieces(cut: Cut) -> tuple[Pieces, Inputs]:
    torch.manual_seed(0)
    return Pieces(cut).eval(), Inputs((image(),), {})


FOLLOWING: dict[str, tuple[Cut, list[str]]] = {
    "split by two": (lambda m, x: x.split([m.first, m.second], 1), ["first", "second"]),
    "split by a tuple": (lambda m, x: x.split(m.sizes, 1), ["sizes[0]", "sizes[1]"]),
    "split by a list": (lambda m, x: x.split(m.listed, 1), ["listed[0]", "listed[1]"]),
    "slices": (lambda m, x: (x[:, : m.first], x[:, m.first :]), ["first"]),
    "slices from the end": (lambda m, x: (x[:, : -m.second], x[:, -m.second :]), ["second"]),
    "narrow": (lambda m, x: (x.narrow(1, 0, m.first), x.narrow(1, m.first, m.second)), ["first", "second"]),
}
LITERAL: dict[str, Cut] = {
    "split": lambda _, x: x.split([4, 8], 1),
    "slices": lambda _, x: (x[:, :4], x[:, 4:]),
    "first slice alone": lambda m, x: (x[:, :4], x[:, m.first :]),
    "narrow": lambda _, x: (x.narrow(1, 0, 4), x.narrow(1, 4, 8)),
    "every third": lambda _, x: (x[:, ::3], x[:, torch.arange(12) % 3 > 0]),
}


@pytest.mark.parametrize(("cut", "attributes"), FOLLOWING.values(), ids=FOLLOWING)
def test_pieces_whose_bounds_are_attributes_lose_channels_each_on_its_own(cut: Cut, attributes: list[str]) -> None:
    model, inputs = pieces(cut)
    found = find_groups(model, inputs)
    assert {g.name: g.width for g in found.groups} == {"a": 12 - 2, "c": 7, "d": 7}
    assert [rule.attribute for rule in found.plan.rules] == attributes
    for removed in ([0, 2], [3, 6, 8], [1, 4, 9]):
        alive = ~np.isin(np.arange(found.plan.unit_count), removed)
        sliced = slice_model(model, found.plan, alive)
        torch.testing.assert_close(run(sliced, inputs), run(mask_model(model, found.plan, alive), inputs))
        architecture = architecture_from_json(architecture_to_json(architecture_of(model, found.plan, alive)))
        assert equal(run(rebuild(model, architecture), inputs), run(sliced, inputs))


def test_no_piece_ever_loses_all_channels() -> None:
    model, inputs = pieces(FOLLOWING["slices"][0])
    found = find_groups(model, inputs)
    sliced = slice_model(model, found.plan, np.arange(found.plan.unit_count) >= found["a"].width)
    assert (sliced.c.in_channels, sliced.d.in_channels) == (1, 1)
    assert run(sliced, inputs)[0].shape == (2, 5)


@pytest.mark.parametrize("cut", LITERAL.values(), ids=LITERAL)
def test_pieces_with_literal_bounds_are_protected(cut: Cut) -> None:
    found = find_groups(*pieces(cut))
    assert {g.name for g in found.groups} == {"c", "d"}
    reason = {p.name: p.reason for p in found.protected}["a"]
    assert "literal slice" in reason or "index by a mask" in reason


def test_size_in_a_list_is_checked_when_a_plan_is_loaded() -> None:
    model, inputs = pieces(FOLLOWING["split by a list"][0])
    found = find_groups(model, inputs)
    architecture = architecture_of(model, found.plan, np.arange(found.plan.unit_count) > 1)
    model.listed = [4]
    with pytest.raises(ArtifactError, match=r"sets 'listed\[1\]'"):
        rebuild(model, architecture)
