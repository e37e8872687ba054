"""Costs of parts: zeros in place, modules taken out, low rank; and objectives that nothing searched can change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from part_cases import bound
from torch import Tensor, nn

from autoprune.errors import ConfigError, GroupError
from autoprune.evaluation import measure_cost
from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import Part
from autoprune.predictor import CostModel
from autoprune.search.idle import changed_costs, refuse_idle
from autoprune.search.objectives import COSTS, Objective
from autoprune.tasks.protocol import Inputs


class Residual(nn.Module):
    """Two residual blocks of linear layers between a stem and a head; all but the stem's bias without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)) for _ in "ab"
        )
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


EXAMPLE = Inputs((torch.zeros(1, 6),), {})
WEIGHT = Part("head.weight", "tensor", ("head.weight",), 32, (4, 8))
DEPTH = Part("@depth", "depth", ("blocks.0", "blocks.1"), 2)


def found() -> tuple[Residual, ModelGroups]:
    net = Residual().eval()
    return net, replace(find_groups(net, EXAMPLE), parts=(WEIGHT, DEPTH))


class Zero(nn.Module):
    """What stands for a block that is gone: nothing is added."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def without_a_block(name: str) -> tuple[float, nn.Module] | None:
    if name != "@depth":
        return None
    net = Residual().eval()
    net.blocks[1] = Zero()
    return 1.0, net


def test_zeros_in_place_change_the_nonzero_parameters_alone() -> None:
    net, groups = found()
    costs = CostModel.of(net, groups, EXAMPLE, ["head.weight"], without_a_block)
    dense = measure_cost(net, EXAMPLE)
    widths = np.array([[32], [20], [0]])
    assert costs.nonzero(widths).tolist() == [dense.parameters, dense.parameters - 12, dense.parameters - 32]
    for counted, known in ((costs.parameters, dense.parameters), (costs.macs, dense.macs), (costs.bytes, dense.bytes)):
        assert counted(widths).tolist() == [known] * 3


def test_what_is_taken_out_costs_what_the_edited_model_measures() -> None:
    net, groups = found()
    costs = CostModel.of(net, groups, EXAMPLE, ["@depth"], without_a_block)
    made = without_a_block("@depth")
    assert made is not None
    real, dense = measure_cost(made[1], EXAMPLE), measure_cost(net, EXAMPLE)
    for name in ("parameters", "macs", "bytes", "nonzero"):
        assert getattr(costs, name)([[2], [1]]).tolist() == [getattr(dense, name), getattr(real, name)]
    assert costs.layers([[1]])[0].sum() < costs.layers([[2]])[0].sum()


def test_units_and_blocks_taken_out_together_cost_less_than_either() -> None:
    net, groups = found()
    names = [g.name for g in groups.groups]
    costs = CostModel.of(net, groups, EXAMPLE, [*names, "@depth"], without_a_block)
    full = [g.width for g in groups.groups]
    half = [max(1, w // 2) for w in full]
    macs = costs.macs([[*full, 2], [*half, 2], [*full, 1], [*half, 1]])
    assert macs[0] == measure_cost(net, EXAMPLE).macs
    alive = np.concatenate([np.arange(w) < h for w, h in zip(full, half, strict=True)])
    assert macs[1] == measure_cost(Slicer(net, groups.plan).slice(alive), EXAMPLE).macs
    assert 0 < macs[3] < min(macs[1], macs[2])


def test_parts_stand_after_groups() -> None:
    net, groups = found()
    with pytest.raises(GroupError, match="Parts stand before groups"):
        CostModel.of(net, groups, EXAMPLE, ["@depth", groups.groups[0].name], without_a_block)


def cost(name: str) -> Objective:
    return Objective(name, "min", *COSTS[name])


@pytest.mark.parametrize("kind", ["weight", "n_m", "weight_block"])
@pytest.mark.parametrize("name", ["macs", "parameters", "bytes", "latency_ms"])
def test_a_cost_that_zeros_do_not_change_is_refused_with_the_reason(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*zeros stay in place and make nothing faster") as raised:
        refuse_idle(bound(kind), [cost(name)])
    assert "nonzero, compressed_bytes" in raised.value.hint


def test_costs_that_change_are_accepted() -> None:
    refuse_idle(bound("weight"), [Objective("accuracy", "max", "fraction"), cost("nonzero"), cost("compressed_bytes")])
    assert changed_costs(bound("depth")) == changed_costs(bound("rank", criterion={"choices": ["l2"]})) == set(COSTS)
    assert changed_costs(bound("channel", "head", "weight")) == set(COSTS)
    assert changed_costs(bound("activation", criterion={"choices": ["random"]})) == {"latency_ms"}


def test_units_that_are_only_scaled_down_change_no_cost() -> None:
    with pytest.raises(ConfigError, match="leaves it as it is"):
        refuse_idle(bound("channel", granularity={"choices": ["scale"]}), [cost("macs")])
    refuse_idle(bound("channel", granularity={"choices": ["scale", "channel"]}), [cost("macs")])
