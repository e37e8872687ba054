"""What can be pruned without slicing is found, and what cannot is left out."""

# mypy: no-warn-return-any
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from edit_cases import BLOCKS, Block, ResidualNet, residual, seeded
from torch import Tensor, nn
from units import built, equal, random_alive, run, traced, traced_by_torch_pruning
from zoo import build, image

from autoprune.groups import ModelGroups, Part, SlicingPlan, apply_edits, find_groups, slice_model
from autoprune.groups.edits import edit_of
from autoprune.groups.parts import find_parts
from autoprune.search.describe import parts_by_kind
from autoprune.tasks.protocol import Inputs

NO_GROUPS = ModelGroups((), (), SlicingPlan(0, ()), "torch.export")


def by_name(parts: tuple[Part, ...]) -> dict[str, Part]:
    return {part.name: part for part in parts}


def parts_of(model: nn.Module, inputs: Inputs) -> dict[str, Part]:
    return by_name(find_groups(model, inputs).parts)


def test_every_kind_of_part_is_found_in_a_residual_net() -> None:
    model, _, groups = residual()
    parts = by_name(groups.parts)
    assert parts["@depth"].members == BLOCKS
    assert set(parts["@activation"].members) == {"act", "act2", "gate.inner", *(f"{b}.act1" for b in BLOCKS)}
    folds = dict(zip(parts["@norm"].members, parts["@norm"].partners, strict=True))
    inner = {f"{b}.norm{n}": f"{b}.conv{n}" for b in BLOCKS for n in (1, 2)}
    assert folds == {"norm": "stem", **inner}
    assert parts["@pooling"].members == ("pool",)
    layers = (nn.Conv2d, nn.Linear)
    biases = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, layers) and m.bias is not None}
    assert set(parts["@bias"].members) == biases
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    tensors = {part.name: part for part in groups.parts if part.kind == "tensor"}
    assert tensors.keys() == weights.keys()
    assert all(p.members == (n,) and p.shape == tuple(weights[n].shape) for n, p in tensors.items())
    assert all(p.width == weights[n].numel() for n, p in tensors.items())
    assert [n for n, p in tensors.items() if not p.factored] == ["grouped.weight"]
    assert all(p.width == len(p.members) for n, p in parts.items() if n.startswith("@"))


def test_a_gate_is_no_activation_that_may_go() -> None:
    assert "gate.gate" not in by_name(residual()[2].parts)["@activation"].members


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet14", ("layers.0", "layers.1", "layers.3", "layers.5")),
        ("vit", ("blocks.0", "blocks.1", "blocks.2")),
        ("llama", ("blocks.0", "blocks.1")),
        ("densenet", ()),
        ("vgg", ()),
    ],
)
def test_blocks_with_a_shortcut_are_removable_and_no_others(name: str, blocks: tuple[str, ...]) -> None:
    depth = by_name(traced(name).parts).get("@depth")
    assert (depth.members if depth else ()) == blocks


class Plain(nn.Module):
    """Equal blocks of one width after another, without shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(*[Block(8, shortcut=False) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


def test_a_plain_stack_has_no_removable_block_even_where_its_channels_are_protected() -> None:
    model, inputs = build(Plain, image(8))
    assert "@depth" not in parts_of(model, inputs)
    groups = find_groups(model, inputs, protect=["blocks.*.conv2", "stem"])
    assert "@depth" not in by_name(groups.parts)


class Projected(nn.Module):
    """A shortcut that is a convolution of its own: the block keeps its shape, but nothing passes it by."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.shortcut(x)


def test_a_block_whose_shortcut_has_weights_is_not_removable() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 1), Projected(), Projected(), nn.Flatten(), nn.Linear(8 * 16, 3)))
    assert "@depth" not in parts_of(model, image(4))


@pytest.mark.parametrize("name", ["resnet14", "mobilenetv2", "vit", "vit_fused", "llama", "residual"])
def test_any_blocks_can_go_after_any_slicing(name: str) -> None:
    model, inputs, groups = residual() if name == "residual" else (*built(name), traced(name))
    depth = by_name(groups.parts)["@depth"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        sliced = slice_model(model, groups.plan, random_alive(groups, rng))
        gone = rng.choice(depth.width, depth.width - 1, replace=False)
        before = sum(p.numel() for p in sliced.parameters())
        apply_edits(sliced, [edit_of(depth, int(member)) for member in gone])
        assert [t.shape for t in run(sliced, inputs)] == [t.shape for t in run(model, inputs)]
        assert sum(p.numel() for p in sliced.parameters()) < before


class Shared(nn.Module):
    """Modules that stand or run twice, norms that are not alone, tied weights, a softmax after an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.twice = nn.ReLU()
        self.fc1 = nn.Linear(12, 12)
        self.split = nn.Linear(12, 12)
        self.split_norm = nn.BatchNorm1d(12)
        self.scores = nn.ReLU()
        self.alias = nn.Linear(12, 12, bias=False)
        self.alias.weight = self.fc1.weight
        self.tiny = nn.Linear(12, 1)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.last = nn.Sigmoid()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).mean(1)
        x = self.twice(self.alias(self.twice(self.fc1(x))))
        y = self.split(x)
        x = self.split_norm(y) + y
        x = x * torch.softmax(self.scores(x), 1) + self.tiny(x)
        return self.last(self.head(x))


def test_what_is_shared_read_twice_gating_or_last_is_left_out() -> None:
    model = seeded(Shared())
    parts = by_name(find_parts(model, NO_GROUPS, Inputs((torch.arange(12).reshape(3, 4),), {})))
    assert "@activation" not in parts
    assert "@norm" not in parts
    assert {n for n, p in parts.items() if p.kind == "tensor"} == {"fc1.weight", "split.weight"}
    assert not parts["fc1.weight"].factored, "its weight is another layer's too"
    assert parts["split.weight"].factored
    assert set(parts["@bias"].members) == {"fc1.bias", "split.bias", "tiny.bias"}


class Steps(nn.Module):
    """A BatchNorm over the time steps that a linear layer leaves in dimension 1; a pooling with dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5)
        self.pool = nn.MaxPool1d(2, dilation=2)
        self.out = nn.Linear(2 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.norm(self.fc(x))).flatten(1))


def test_a_norm_over_another_dimension_and_a_dilated_pooling_are_left_out() -> None:
    parts = by_name(find_parts(seeded(Steps()), NO_GROUPS, Inputs((torch.randn(2, 5, 6),), {})))
    assert {"fc.weight", "@bias"} <= parts.keys()
    assert not {"@norm", "@pooling"} & parts.keys()


class Reader(nn.Module):
    """Reads the weight of one of its layers, which factors do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(x)) * self.read.weight.abs().mean()


def test_a_layer_whose_weight_others_read_is_not_offered_for_factors() -> None:
    parts = parts_of(seeded(Reader()), Inputs((torch.randn(2, 8),), {}))
    assert not parts["read.weight"].factored
    assert parts["fc.weight"].factored


def test_patterns_hold_for_parts() -> None:
    model, inputs, _ = residual()
    parts = by_name(find_groups(model, inputs, protect=["first.blocks.0.conv1"]).parts)
    assert "first.blocks.0.conv1.weight" not in parts
    assert parts["@depth"].members == BLOCKS[1:]
    assert "first.blocks.0.norm1" not in parts["@norm"].members
    assert "first.blocks.0.conv1.bias" not in parts["@bias"].members
    parts = by_name(find_groups(model, inputs, only=["second.*"]).parts)
    assert parts["@depth"].members == BLOCKS[2:]
    assert all(member.startswith("second.") for part in parts.values() for member in part.members)
    parts = by_name(find_groups(model, inputs, only=["second.blocks.0.conv1"]).parts)
    assert set(parts) == {"second.blocks.0.conv1.weight", "@norm", "@bias"}


def test_finding_parts_leaves_the_model_as_it_was() -> None:
    model, inputs, groups = residual()
    mine = copy.deepcopy(model)
    mine.first.train()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    modes, kinds = [m.training for m in mine.modules()], [type(m) for m in mine.modules()]
    assert find_parts(mine, groups, inputs) == groups.parts
    assert [m.training for m in mine.modules()] == modes
    assert [type(m) for m in mine.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.modules())
    assert equal(run(mine.eval(), inputs), run(model, inputs))


def test_the_fall_back_finds_the_same_parts() -> None:
    parts = by_name(find_groups(*built("data_dependent")).parts)
    assert parts["@norm"].partners == ("conv1", "conv2")
    model, inputs = built("resnet14")
    both = [by_name(find_parts(model, g, inputs)) for g in (traced("resnet14"), traced_by_torch_pruning("resnet14"))]
    assert both[0] == both[1]


def test_a_wider_net_has_the_same_members() -> None:
    model, inputs = build(lambda: ResidualNet(32), image(16))
    assert parts_of(model, inputs)["@depth"].members == BLOCKS


def test_parts_are_counted_by_kind() -> None:
    assert parts_by_kind(residual()[2]) == {
        "tensor": 14,
        "depth": 4,
        "activation": 7,
        "norm": 9,
        "pooling": 1,
        "bias": 10,
    }
    assert parts_by_kind(NO_GROUPS) == {}
