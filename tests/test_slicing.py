from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_pruning_oracle
from torch import Tensor, nn
from torch.nn import functional as F
from units import built, equal, random_alive, run, traced, traced_by_torch_pruning

from autoprune.errors import CandidateError, GroupError
from autoprune.groups.cloning import clone_model, named_tensors
from autoprune.groups.slicing import Slicer, mask_model, slice_model
from autoprune.groups.types import (
    AttributeRule,
    DimensionUnits,
    GroupedWeight,
    ModelGroups,
    SlicingPlan,
)
from autoprune.tasks.protocol import Inputs

ORACLE_NETS = ("resnet20", "resnet56", "resnet50", "resnext50", "mobilenetv2", "densenet", "vgg", "groupnorm")
FALLBACK_NETS = ("resnet20", "densenet", "vgg", "groupnorm", "data_dependent")
EXACT_NETS = ("resnet20", "resnet20_pad", "resnext50", "mobilenetv2", "chunk_se", "vgg", "textcnn", "mlp")


def assert_sliced_like_torch_pruning(name: str, groups: ModelGroups, seed: int) -> None:
    model, inputs = built(name)
    alive = random_alive(groups, np.random.default_rng(seed))
    expected = torch_pruning_oracle.prune(model, inputs, groups, alive)
    sliced = slice_model(model, groups.plan, alive)
    states = expected.state_dict(), sliced.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert equal(run(sliced, inputs), run(expected, inputs))
    assert not equal(run(sliced, inputs), run(model, inputs))


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in ORACLE_NETS), ("resnet20", 1), ("vgg", 1)])
def test_sliced_model_equals_copy_retrace_and_prune_by_torch_pruning(name: str, seed: int) -> None:
    assert_sliced_like_torch_pruning(name, traced(name), seed)


@pytest.mark.parametrize("name", FALLBACK_NETS)
def test_sliced_model_of_the_fall_back_equals_torch_pruning(name: str) -> None:
    assert_sliced_like_torch_pruning(name, traced_by_torch_pruning(name), seed=2)


@pytest.mark.parametrize("name", EXACT_NETS)
def test_removing_units_equals_zeroing_them_where_no_statistic_runs_over_units(name: str) -> None:
    model, inputs = built(name)
    groups = traced(name)
    assert all(group.exact_masking for group in groups.groups)
    alive = random_alive(groups, np.random.default_rng(3))
    sliced = run(slice_model(model, groups.plan, alive), inputs)
    masked = run(mask_model(model, groups.plan, alive), inputs)
    for left, right in zip(sliced, masked, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))


def test_removing_nothing_gives_an_equal_model() -> None:
    model, inputs = built("vit")
    groups = traced("vit")
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    assert equal(run(slice_model(model, groups.plan, alive), inputs), run(model, inputs))


@pytest.mark.parametrize("name", ["resnet20", "llama", "lstm"])
def test_clone_shares_no_storage_with_the_original(name: str) -> None:
    model, _ = built(name)
    groups = traced(name)
    sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(0)))
    theirs = {t.untyped_storage().data_ptr() for t in named_tensors(model).values()}
    assert not theirs & {t.untyped_storage().data_ptr() for t in named_tensors(sliced).values()}


def test_original_keeps_its_weights_and_attributes() -> None:
    model, inputs = built("mobilenetv2")
    groups = traced("mobilenetv2")
    before = run(model, inputs), {k: v.clone() for k, v in model.state_dict().items()}
    slicer = Slicer(model, groups.plan)
    slicer.slice(random_alive(groups, np.random.default_rng(0)))
    slicer.mask(random_alive(groups, np.random.default_rng(1)))
    assert equal(run(model, inputs), before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())


def test_requires_grad_and_training_flags_are_kept() -> None:
    model = clone_model(built("resnet20")[0], {})
    model.conv1.requires_grad_(False)
    model.layers[2].train()
    groups = traced("resnet20")
    sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(0)))
    assert [m.training for m in sliced.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in sliced.parameters()] == [p.requires_grad for p in model.parameters()]
    assert any(m.training for m in sliced.modules())


def test_tied_weights_stay_tied_when_they_are_cut() -> None:
    model, inputs = built("llama")
    groups = traced("llama")
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    residual = groups["embedding"]
    alive[residual.start : residual.start + 10] = False
    sliced = slice_model(model, groups.plan, alive)
    assert sliced.head.weight is sliced.embedding.weight
    assert sliced.embedding.weight.shape == (100, residual.width - 10)
    assert (sliced.head.in_features, sliced.embedding.embedding_dim) == (54, 54)
    assert run(sliced, inputs)[0].shape == (2, 12, 100)


def test_layer_sizes_follow_their_tensors() -> None:
    model, _ = built("mobilenetv2")
    groups = traced("mobilenetv2")
    sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(5)))
    for module in sliced.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels // module.groups) == module.weight.shape[:2]
        if isinstance(module, nn.BatchNorm2d):
            assert (module.num_features,) == module.running_mean.shape == module.weight.shape
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape


def test_slicer_sees_weights_changed_in_place() -> None:
    model = clone_model(built("mlp")[0], {})
    groups = traced("mlp")
    alive = random_alive(groups, np.random.default_rng(0))
    slicer = Slicer(model, groups.plan)
    with torch.no_grad():
        model.fc3.bias.fill_(7.0)
    assert torch.equal(slicer.slice(alive).fc3.bias, torch.full((5,), 7.0))


def test_blockwise_gather_of_a_large_weight_equals_plain_indexing() -> None:
    model = nn.Sequential(nn.Conv2d(640, 704, 3))
    rows, columns = np.arange(704), 704 + np.arange(640)
    plan = SlicingPlan(1344, (DimensionUnits("0.weight", 0, rows), DimensionUnits("0.weight", 1, columns)))
    alive = np.random.default_rng(0).random(1344) < 0.6
    sliced = slice_model(nn.Sequential(nn.Conv2d(640, 704, 3, bias=False)), plan, alive)
    assert sliced[0].weight.shape == (alive[:704].sum(), alive[704:].sum(), 3, 3)
    expected = model[0].weight.detach()[alive[:704]][:, alive[704:]]
    assert torch.equal(slice_model(model, plan, alive)[0].weight, expected)


class Grouped(nn.Module):
    """A convolution in two groups whose inputs may be removed unevenly placed, but equally many a group."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 6, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


def grouped_plan(in_units: np.ndarray, out_units: np.ndarray | None = None) -> SlicingPlan:
    flat = in_units.reshape(-1)
    dimensions = [DimensionUnits("first.weight", 0, flat), DimensionUnits("first.bias", 0, flat)]
    if out_units is not None:
        dimensions += [DimensionUnits("second.weight", 0, out_units), DimensionUnits("second.bias", 0, out_units)]
    count = int(max(in_units.max(), -1 if out_units is None else out_units.max())) + 1
    return SlicingPlan(count, tuple(dimensions), (GroupedWeight("second.weight", "second", 2, in_units),))


def test_grouped_convolution_loses_different_columns_in_each_group() -> None:
    model, inputs = Grouped(), Inputs((torch.randn(2, 3, 6, 6),), {})
    plan = grouped_plan(np.arange(8).reshape(2, 4))
    alive = np.ones(8, dtype=np.bool_)
    alive[[1, 6]] = False
    sliced = slice_model(model, plan, alive)
    assert sliced.second.weight.shape == (6, 3, 3, 3)
    assert (sliced.second.groups, sliced.second.in_channels) == (2, 6)
    torch.testing.assert_close(run(sliced, inputs), run(mask_model(model, plan, alive), inputs))


def test_grouped_convolution_loses_whole_groups() -> None:
    model, inputs = Grouped(), Inputs((torch.randn(2, 3, 6, 6),), {})
    plan = grouped_plan(np.repeat([[0], [1]], 4, axis=1), np.repeat([0, 1], 3))
    sliced = slice_model(model, plan, np.array([False, True]))
    assert (sliced.second.groups, sliced.second.in_channels, sliced.second.out_channels) == (1, 4, 3)
    torch.testing.assert_close(run(sliced, inputs)[0], run(model, inputs)[0][:, 3:])


def test_unequal_convolution_groups_are_refused() -> None:
    plan = grouped_plan(np.arange(8).reshape(2, 4))
    alive = np.ones(8, dtype=np.bool_)
    alive[1] = False
    with pytest.raises(GroupError, match=r"unequal convolution groups in 'second\.weight'"):
        slice_model(Grouped(), plan, alive)


def test_attribute_follows_the_living_units() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    model.heads = 3
    units = np.repeat(np.arange(3), 2)
    rule = AttributeRule("", "heads", np.arange(3)[:, None])
    plan = SlicingPlan(3, (DimensionUnits("0.weight", 0, units), DimensionUnits("0.bias", 0, units)), rules=(rule,))
    sliced = slice_model(model, plan, np.array([True, False, True]))
    assert (sliced.heads, sliced[0].out_features) == (2, 4)
    assert model.heads == 3


def test_a_dimension_without_units_left_is_refused() -> None:
    groups = traced("mlp")
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    alive[: groups.groups[0].width] = False
    with pytest.raises(CandidateError, match="Nothing would be left"):
        slice_model(built("mlp")[0], groups.plan, alive)


@pytest.mark.parametrize("alive", [np.ones(95, dtype=np.bool_), np.ones(96, dtype=np.int64)])
def test_wrong_flags_are_refused(alive: np.ndarray) -> None:
    with pytest.raises(GroupError, match=r"shape \(96,\)"):
        slice_model(built("mlp")[0], traced("mlp").plan, alive)


def test_plan_of_another_model_is_refused() -> None:
    with pytest.raises(GroupError, match="The plan needs"):
        Slicer(built("resnet20")[0], traced("mlp").plan)


class Untidy(nn.Module):
    """Holds tensors and modules where registration does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = 2 * torch.ones(3)
        self.layers = [self.linear]
        self.options = {"bias": self.linear.bias}

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x) * self.scale + self.options["bias"]


def test_clone_refers_to_its_own_modules_and_tensors() -> None:
    model = Untidy()
    clone = clone_model(model, {})
    assert clone.layers[0] is clone.linear
    assert clone.options["bias"] is clone.linear.bias
    assert clone.scale.data_ptr() != model.scale.data_ptr()


def test_clone_of_a_recurrent_layer_trains_on_its_own_weights() -> None:
    model, inputs = built("lstm")
    clone = clone_model(model, {})
    assert equal(run(clone, inputs), run(model, inputs))
    with torch.no_grad():
        clone.lstm.weight_hh_l0.zero_()
    assert not equal(run(clone, inputs), run(model, inputs))


def test_forward_hooks_come_along_and_others_are_dropped() -> None:
    model, inputs = clone_model(built("mlp")[0], {}), built("mlp")[1]
    model.fc1.register_forward_hook(lambda _, __, out: out * 2)
    model.fc1.register_state_dict_post_hook(lambda *_: pytest.fail("the hook of the original ran"))
    clone = clone_model(model, {})
    assert clone.state_dict()
    assert equal(run(clone, inputs), run(model, inputs))
    assert not equal(run(clone, inputs), run(built("mlp")[0], inputs))
