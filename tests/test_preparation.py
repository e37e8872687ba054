"""Computed weights: baked to equal plain ones, cut like any other, and baked again when a plan is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from units import equal, random_alive, run

from autoprune.artifacts import Member, load, save_member, verify_with_model
from autoprune.errors import ArtifactError
from autoprune.groups import architecture_from_json, architecture_of, architecture_to_json, find_groups, prepare_model
from autoprune.groups.cloning import clone_model
from autoprune.groups.slicing import mask_model, slice_model
from autoprune.tasks import ClassificationTask, LabelledArrays
from autoprune.tasks.copying import copied
from autoprune.tasks.protocol import Inputs

INPUTS = Inputs((torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)),), {})


class Symmetric(nn.Module):
    """A user's own parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Noisy(nn.Module):
    """Draws anew at every access, in eval mode too."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.rand_like(weight)


class Net(nn.Module):
    """Two convolutions and two square linear layers between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 12, 3, padding=1)
        self.square = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3))
        return self.head(torch.relu(self.square(x)))


def old_weight_norm(model: Net) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.utils.weight_norm(model.body)


def own_and_standard(model: Net) -> None:
    parametrize.register_parametrization(model.square, "weight", Symmetric())
    parametrizations.weight_norm(model.square, "bias", dim=None)


FORMS: dict[str, Callable[[Net], object]] = {
    "weight_norm": lambda m: parametrizations.weight_norm(m.body),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.body),
    "orthogonal": lambda m: parametrizations.orthogonal(m.square),
    "a user's own, two tensors": own_and_standard,
    "older weight_norm": old_weight_norm,
    "older spectral_norm": lambda m: nn.utils.spectral_norm(m.body),
    "torch's own pruning": lambda m: prune.l1_unstructured(m.body, "weight", amount=0.3),
}
CHANGED = {"orthogonal": "square", "a user's own, two tensors": "square"}


def model_with(form: str, *, ran: bool = True) -> Net:
    """Return a net whose layer computes its weight, after a training pass as the user's model has had one."""
    torch.manual_seed(0)
    model = Net()
    FORMS[form](model)
    if ran:
        model.train()(*INPUTS.args).sum().backward()
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
def test_baked_model_is_plain_and_computes_the_same(form: str) -> None:
    model = model_with(form)
    expected = run(model, INPUTS)
    prepared, paths = prepare_model(model)
    assert prepared is model
    assert paths == (CHANGED.get(form, "body"),)
    assert equal(run(model, INPUTS), expected)
    assert model.state_dict().keys() == Net().state_dict().keys()
    assert {type(m) for m in model.modules()} == {Net, nn.Conv2d, nn.Linear}
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    assert prepare_model(model)[1] == ()


@pytest.mark.parametrize("form", FORMS)
def test_layers_with_computed_weights_are_cut_saved_and_loaded_into_the_users_own_model(
    form: str, tmp_path: Path
) -> None:
    user = model_with(form)
    expected, keys = run(user, INPUTS), list(user.state_dict())
    prepared, paths = prepare_model(copied(user))
    groups = find_groups(prepared, INPUTS)
    assert [(g.name, g.width) for g in groups.groups] == [("stem", 8), ("body", 12), ("square", 12)]
    alive = random_alive(groups, np.random.default_rng(3))
    sliced, masked = slice_model(prepared, groups.plan, alive), mask_model(prepared, groups.plan, alive)
    assert torch.allclose(run(sliced, INPUTS)[0], run(masked, INPUTS)[0], atol=1e-5)
    plan = architecture_of(prepared, groups.plan, alive, paths)
    assert architecture_from_json(json.loads(json.dumps(architecture_to_json(plan)))) == plan
    with torch.no_grad():
        for parameter in sliced.parameters():
            parameter.mul_(0.9)
    directory = save_member(tmp_path / "m", Member(sliced, INPUTS, {"sparsity": {}}, plan, {}, "# card\n", ()))
    assert equal(run(load(directory, user), INPUTS), run(sliced, INPUTS))
    assert verify_with_model(directory, user).ok
    assert list(user.state_dict()) == keys
    assert equal(run(user, INPUTS), expected)
    user.train()(*INPUTS.args).sum().backward()


def test_plan_of_another_preparation_is_refused(tmp_path: Path) -> None:
    prepared, paths = prepare_model(model_with("weight_norm"))
    groups = find_groups(prepared, INPUTS)
    plan = architecture_of(prepared, groups.plan, np.arange(groups.plan.unit_count) > 0, paths)
    member = Member(slice_model(prepared, groups.plan, np.arange(groups.plan.unit_count) > 0), INPUTS, {}, plan, {}, "")
    directory = save_member(tmp_path / "m", member)
    with pytest.raises(ArtifactError, match=r"'body' was prepared; the model has Conv2d there, with nothing"):
        load(directory, Net())
    with pytest.raises(ArtifactError, match=r"'body' was prepared; the model has no such module"):
        load(directory, nn.Sequential(nn.Linear(2, 2)))
    document = architecture_to_json(plan)
    document["prepared"] = ["body", "body"]
    with pytest.raises(ArtifactError, match="prepared must name every module only once"):
        architecture_from_json(document)


def test_frozen_weights_stay_frozen_and_buffers_buffers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    parametrizations.weight_norm(model[0]).requires_grad_(requires_grad=False)
    nn.utils.spectral_norm(model[1]).requires_grad_(requires_grad=False)
    parametrize.register_parametrization(model[2], "running_mean", nn.Identity())
    assert prepare_model(model)[1] == ("0", "1", "2")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"2.weight", "2.bias"}
    assert "running_mean" in dict(model[2].named_buffers())
    assert not any(module.training for module in model.modules())


def test_shared_layer_is_baked_once_and_stays_shared() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.ModuleDict({"x": layer, "y": layer})
    assert prepare_model(model)[1] == ("x", "y")
    assert model["x"] is model["y"]


def test_parametrised_attention_is_baked_and_then_replaced() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    parametrizations.weight_norm(attention, "in_proj_weight")
    model, x = nn.ModuleDict({"attention": attention}), torch.randn(2, 3, 8)
    expected = attention(x, x, x)[0]
    assert prepare_model(model)[1] == ("attention",)
    assert torch.allclose(model["attention"](x, x, x)[0], expected, atol=1e-6)
    assert model["attention"].q_proj.weight.requires_grad


def test_weight_that_is_drawn_at_every_access_stays_computed() -> None:
    model = Net().eval()
    parametrize.register_parametrization(model.body, "weight", Noisy())
    flags = [module.training for module in model.modules()]
    assert prepare_model(model)[1] == ()
    assert parametrize.is_parametrized(model.body)
    assert [module.training for module in model.modules()] == flags


def test_hook_that_needs_a_layers_whole_width_protects_it_with_the_reason() -> None:
    model = Net().eval()
    offset = torch.rand(12, 1, 1)
    model.body.register_forward_hook(lambda _, __, out: out + offset)
    expected = run(model, INPUTS)
    groups = find_groups(prepare_model(model)[0], INPUTS)
    assert [g.name for g in groups.groups] == ["stem", "square"]
    reason = next(p.reason for p in groups.protected if p.name == "body")
    assert "meets a constant" in reason
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    assert equal(run(slice_model(model, groups.plan, alive), INPUTS), expected)


def test_hook_that_any_width_suits_goes_with_the_pruned_layer() -> None:
    model = Net().eval()
    model.body.register_forward_hook(lambda _, __, out: out * 2)
    groups = find_groups(model, INPUTS)
    alive = np.arange(groups.plan.unit_count) % 3 > 0
    sliced, masked = slice_model(model, groups.plan, alive), mask_model(model, groups.plan, alive)
    plain = clone_model(sliced, {})
    plain.body._forward_hooks.clear()
    assert torch.allclose(run(sliced, INPUTS)[0], run(masked, INPUTS)[0], atol=1e-5)
    assert not torch.allclose(run(plain, INPUTS)[0], run(masked, INPUTS)[0], atol=1e-3)


def test_a_task_takes_a_model_that_was_just_trained_with_a_hooked_weight() -> None:
    data = LabelledArrays(torch.rand(40, 2, 8, 8), np.arange(40) % 4, unit="image")
    task = ClassificationTask(model_with("older weight_norm"), data, name="hooked")
    first, second = task.build_model(), task.build_model()
    assert equal(run(first, INPUTS), run(second, INPUTS))
