from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from units import built, random_alive, run, traced_by_torch_pruning

from autoprune.errors import GroupError
from autoprune.groups import find_groups
from autoprune.groups.cloning import clone_model
from autoprune.groups.fallback import find_groups_fallback
from autoprune.groups.slicing import slice_model
from autoprune.tasks.protocol import Inputs


def reasons(name: str) -> dict[str, str]:
    return {layer.name: layer.reason for layer in traced_by_torch_pruning(name).protected}


def test_model_with_a_branch_on_data_gets_groups_by_torch_pruning() -> None:
    model, inputs = built("data_dependent")
    groups = find_groups(model, inputs)
    assert groups.tracer == "torch-pruning"
    assert [(g.name, g.width) for g in groups.groups] == [("conv1", 16), ("conv2", 24)]
    assert "torch-pruning traced" in groups.notes[0]
    assert groups["conv1"].batch_norms == ("bn1",)


def test_model_with_a_branch_on_data_runs_when_sliced() -> None:
    model, inputs = built("data_dependent")
    groups = traced_by_torch_pruning("data_dependent")
    for seed in range(5):
        alive = random_alive(groups, np.random.default_rng(seed))
        sliced = slice_model(model, groups.plan, alive)
        assert sliced.conv1.out_channels == alive[:16].sum()
        assert run(sliced, inputs)[0].shape == (2, 10)


def test_layer_of_the_output_is_protected() -> None:
    assert reasons("data_dependent") == {"fc": "its output is the model's output"}


def test_group_that_breaks_the_forward_pass_is_protected() -> None:
    found = reasons("chunk_se")
    assert "does not run without some of its outputs" in found["stem.0"]
    padded = reasons("resnet20_pad")
    assert {"conv1", "layers.0.conv2", "layers.3.conv2"} <= padded.keys()


def test_attention_heads_are_not_torn() -> None:
    found = reasons("vit_fused")
    assert all(f"blocks.{block}.attention.qkv" in found for block in range(3))


def test_recurrent_layers_are_protected_with_what_feeds_them() -> None:
    assert "lstm" in reasons("lstm")["embedding"]
    assert [g.name for g in traced_by_torch_pruning("lstm").groups] == ["fc1"]


@pytest.mark.parametrize("name", ["resnet20", "groupnorm"])
def test_masking_is_never_called_exact(name: str) -> None:
    assert not any(group.exact_masking for group in traced_by_torch_pruning(name).groups)


def test_frozen_model_in_training_mode_is_traced_and_left_as_it_was() -> None:
    model = clone_model(built("resnet14")[0], {}).train().requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    groups = find_groups_fallback(model, built("resnet14")[1])
    assert sum(g.width for g in groups.groups) == 336
    assert all(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_one_trace_leaves_nothing_behind_for_the_next() -> None:
    model, inputs = built("groupnorm")
    first = find_groups_fallback(model, inputs)
    find_groups_fallback(*built("mlp"))
    again = find_groups_fallback(model, inputs)
    assert first.groups == again.groups
    assert len(first.plan.dimensions) == len(again.plan.dimensions)


class Gate(nn.Module):
    """Takes and returns dictionaries, and branches on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 20)
        self.depthwise = nn.Conv1d(20, 20, 3, padding=1, groups=20)
        self.right = nn.Linear(20, 4)

    def forward(self, *, features: dict[str, Tensor]) -> dict[str, Tensor]:
        x = F.relu(self.left(features["x"]))
        if x.sum() > 0:
            x = x + 1
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return {"scores": self.right(x.mean(1))}


def test_keyword_inputs_and_dictionary_outputs_work() -> None:
    model = Gate()
    inputs = Inputs((), {"features": {"x": torch.randn(2, 5, 6)}})
    groups = find_groups_fallback(model, inputs)
    assert [(g.name, g.width) for g in groups.groups] == [("left", 20)]
    alive = np.arange(20) % 3 > 0
    sliced = slice_model(model, groups.plan, alive)
    assert (sliced.depthwise.groups, sliced.right.in_features) == (13, 13)
    assert sliced(**inputs.kwargs)["scores"].shape == (2, 4)


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise LookupError("no such thing")


def test_model_that_cannot_run_is_an_error_with_its_cause() -> None:
    with pytest.raises(GroupError, match="LookupError: no such thing"):
        find_groups_fallback(Broken(), Inputs((torch.randn(1, 2),), {}))
