from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from units import built, random_alive, traced

from autoprune.errors import GroupError
from autoprune.evaluation import measure_cost
from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.slicing import Slicer
from autoprune.predictor import CostModel
from autoprune.tasks.protocol import Inputs

EXACT = (
    "resnet14",
    "resnet20_pad",
    "resnext50",
    "mobilenetv2",
    "densenet",
    "vgg",
    "chunk_se",
    "groupnorm",
    "fcos",
    "textcnn",
    "pixel_shuffle",
    "lstm",
    "mlp",
    "vit",
    "vit_fused",
    "llama",
)


def names_of(groups: ModelGroups) -> list[str]:
    return [group.name for group in groups.groups]


def widths_of(groups: ModelGroups, alive: npt.NDArray[np.bool_], names: list[str]) -> npt.NDArray[np.int64]:
    chosen = [groups[name] for name in names]
    return np.array([[alive[group.start : group.start + group.width].sum() for group in chosen]])


@pytest.mark.parametrize("name", EXACT)
def test_cost_equals_that_of_the_really_sliced_model(name: str) -> None:
    model, inputs = built(name)
    groups, names = traced(name), names_of(traced(name))
    costs, slicer = CostModel.of(model, groups, inputs, names), Slicer(model, groups.plan)
    rng = np.random.default_rng(0)
    for _ in range(2):
        alive = random_alive(groups, rng)
        widths, real = widths_of(groups, alive, names), measure_cost(slicer.slice(alive), inputs)
        assert costs.parameters(widths) == [real.parameters]
        assert costs.macs(widths) == [real.macs]
        assert costs.bytes(widths) == [real.bytes]


def test_groups_that_are_not_searched_stay_whole() -> None:
    model, inputs = built("vgg")
    groups = traced("vgg")
    names = names_of(groups)[1:3][::-1]
    costs = CostModel.of(model, groups, inputs, names)
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for name, width in zip(names, (5, 17), strict=True):
        alive[groups[name].start + width : groups[name].start + groups[name].width] = False
    real = measure_cost(Slicer(model, groups.plan).slice(alive), inputs)
    assert (costs.parameters([[5, 17]])[0], costs.macs([[5, 17]])[0]) == (real.parameters, real.macs)


def test_many_candidates_cost_what_each_costs_alone() -> None:
    model, inputs = built("vit")
    groups = traced("vit")
    costs = CostModel.of(model, groups, inputs, names_of(groups))
    widths = np.random.default_rng(1).integers(1, costs.full + 1, (20, len(costs.full)))
    together = costs.macs(widths)
    assert together.shape == (20,)
    np.testing.assert_array_equal(together, [costs.macs(row[None])[0] for row in widths])


def test_layers_add_up_to_the_total() -> None:
    model, inputs = built("vit")
    groups = traced("vit")
    costs = CostModel.of(model, groups, inputs, names_of(groups))
    widths = np.random.default_rng(2).integers(1, costs.full + 1, (5, len(costs.full)))
    layers = costs.layers(widths)
    count = len(costs.layer_names)
    assert layers.shape == (5, 2 * count)
    np.testing.assert_allclose(layers[:, :count].sum(axis=1), costs.macs(widths), rtol=1e-9)
    assert (layers[:, count:].sum(axis=1) <= costs.parameters(widths)).all()
    first = costs.layer_names.index("patches.weight")
    stream = costs.names.index(next(g.name for g in groups.groups if "patches" in g.layers))
    np.testing.assert_allclose(layers[:, count + first], widths[:, stream] * 3 * 4 * 4)


def test_channels_are_those_of_the_sliced_weights() -> None:
    model, inputs = built("mobilenetv2")
    groups, names = traced("mobilenetv2"), names_of(traced("mobilenetv2"))
    costs = CostModel.of(model, groups, inputs, names)
    alive = random_alive(groups, np.random.default_rng(3))
    weights = dict(Slicer(model, groups.plan).slice(alive).named_parameters())
    channels = costs.channels(widths_of(groups, alive, names))[0]
    assert [tuple(pair) for pair in channels] == [tuple(weights[name].shape[:2]) for name in costs.layer_names]
    assert set(costs.layer_kinds) == {"convolution", "grouped", "linear"}


class TokenMixer(nn.Module):
    """A linear layer over tokens, whose number of positions is another layer's width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.mix = nn.Linear(5, 5)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.embed(x).transpose(1, 2)).relu().transpose(1, 2)
        result: Tensor = self.out(mixed)
        return result


def test_a_layer_applied_over_pruned_channels_gets_cheaper_with_them() -> None:
    model, inputs = TokenMixer().eval(), Inputs((torch.randn(1, 5, 6),), {})
    groups = find_groups(model, inputs)
    costs = CostModel.of(model, groups, inputs, names_of(groups))
    rng = np.random.default_rng(0)
    for _ in range(4):
        alive = random_alive(groups, rng)
        real = measure_cost(Slicer(model, groups.plan).slice(alive), inputs)
        assert costs.macs(widths_of(groups, alive, names_of(groups))) == [real.macs]


def test_a_pickled_model_of_costs_is_small_and_answers_the_same() -> None:
    model, inputs = built("resnet14")
    groups = traced("resnet14")
    costs = CostModel.of(model, groups, inputs, names_of(groups))
    data = pickle.dumps(costs)
    assert len(data) < 100_000
    widths = costs.full[None] - 1
    assert pickle.loads(data).macs(widths) == costs.macs(widths)


def test_unknown_names_and_wrong_shapes_are_refused() -> None:
    model, inputs = built("mlp")
    with pytest.raises(GroupError, match="'nope' is no group"):
        CostModel.of(model, traced("mlp"), inputs, ["nope"])
    costs = CostModel.of(model, traced("mlp"), inputs, names_of(traced("mlp")))
    with pytest.raises(GroupError, match="shape"):
        costs.macs(np.ones(len(costs.full)))
