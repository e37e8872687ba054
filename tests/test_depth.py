"""Blocks that take more than one argument or return more than one output leave a model as others do."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from units import built, equal, random_alive, run, traced

from autoprune.artifacts import Member, load, save_member, verify, verify_with_model
from autoprune.errors import ArtifactError
from autoprune.groups import (
    Edit,
    ModelGroups,
    Part,
    apply_edits,
    architecture_from_json,
    architecture_of,
    architecture_to_json,
    edits_of,
    find_groups,
    prepare_model,
    rebuild,
    slice_model,
)
from autoprune.groups.cloning import clone_model
from autoprune.groups.edits import edit_of
from autoprune.tasks.protocol import Inputs

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
ONE = Inputs((X,), {})


class Layer(nn.Module):
    """A pre-norm layer as Hugging Face writes them: hidden states, a mask by name, a bias that the first one makes."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.kind = "full"
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        if first:
            self.table = nn.Embedding(5, 1)

    def forward(
        self, states: Tensor, mask: Tensor | None = None, *, bias: Tensor | None = None, cache: Any = None
    ) -> tuple[Tensor, Any, Tensor, Tensor]:
        if bias is None:
            bias = self.table(torch.arange(states.shape[1]))
        y = self.norm(states)
        weights = (y @ y.transpose(1, 2) + bias.transpose(0, 1)).softmax(-1)
        if mask is not None:
            weights = weights * mask
        states = states + self.mix(weights @ y)
        return states + self.down(torch.relu(self.up(self.norm(states)))), cache, bias, weights


class Stack(nn.Module):
    """Three layers, the first of which makes what the others take; each is asked for its kind."""

    def __init__(self, *, show_weights: bool = False) -> None:
        super().__init__()
        self.show_weights = show_weights
        self.layers = nn.ModuleList([Layer(first=i == 0) for i in range(3)])
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        bias, shown = None, []
        for layer in self.layers:
            assert layer.kind == "full"
            x, _, bias, weights = layer(x, mask, bias=bias, cache=None)
            shown.append(weights)
        out = {"logits": self.head(x)}
        return {**out, "weights": torch.stack(shown)} if self.show_weights else out


def depth_of(groups: ModelGroups) -> Part | None:
    return next((part for part in groups.parts if part.name == "@depth"), None)


def stack(**options: bool) -> tuple[nn.Module, ModelGroups]:
    torch.manual_seed(0)
    model = Stack(**options).eval()
    return model, find_groups(model, ONE)


def logits(model: nn.Module, *args: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(*args)["logits"]
    return found


def edited(model: nn.Module, *edits: Edit) -> nn.Module:
    clone = clone_model(model, {}).eval()
    apply_edits(clone, edits)
    return clone


def test_layers_with_further_arguments_and_outputs_are_blocks_where_something_can_stand_for_them() -> None:
    depth = depth_of(stack()[1])
    assert depth is not None
    assert depth.members == ("layers.1", "layers.2")
    assert depth.returns == ((0, None, "bias", None),) * 2


def test_no_stand_in_for_an_output_that_the_model_returns() -> None:
    assert depth_of(stack(show_weights=True)[1]) is None


def test_stand_in_hands_on_what_the_block_would_have() -> None:
    model, groups = stack()
    depth = depth_of(groups)
    assert depth is not None
    made = edited(model, *edits_of(depth, 0.5, np.array([1.0, 0.0])))
    shorter = copy.deepcopy(model)
    del shorter.layers[2]
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(logits(made, X), logits(shorter, X))
    assert torch.equal(logits(made, X[:1, :3], mask[:3, :3]), logits(shorter, X[:1, :3], mask[:3, :3]))
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in shorter.parameters())
    logits_of = made.train()(X, mask)["logits"]
    logits_of.sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_removed_layers_survive_slicing_json_a_file_and_onnx(tmp_path: Path) -> None:
    model, groups = stack()
    depth = depth_of(groups)
    assert depth is not None
    alive = random_alive(groups, np.random.default_rng(0))
    edits = edits_of(depth, 0.5, np.array([0.0, 1.0]))
    made = edited(slice_model(model, groups.plan, alive), *edits)
    plan = replace(architecture_of(model, groups.plan, alive), edits=edits)
    assert architecture_from_json(json.loads(json.dumps(architecture_to_json(plan)))) == plan
    assert torch.equal(logits(rebuild(model, plan), X), logits(made, X))
    member = Member(made, ONE, {"sparsity": {}}, plan, {}, "# card\n", formats=("onnx",))
    directory = save_member(tmp_path / "m", member)
    assert verify(directory).ok, verify(directory)
    assert verify_with_model(directory, model).ok
    assert torch.equal(logits(load(directory, model), X), logits(made, X))


DAMAGES = {
    "no such argument": ["states", "speed"],
    "position beyond the signature": [7],
    "negative position": -1,
    "flag": True,
    "nothing": [],
    "first output missing": [None, 0],
    "nested": [[0]],
    "object": {"0": 0},
    "far too many": [0] * 100,
    "huge position": 2**40,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_stand_in_is_refused(name: str) -> None:
    model, groups = stack()
    plan = replace(
        architecture_of(model, groups.plan, np.ones(groups.plan.unit_count, dtype=np.bool_)),
        edits=(Edit("remove", "layers.1", returns=(0, None, "bias", None)),),
    )
    document = json.loads(json.dumps(architecture_to_json(plan)))
    rebuild(model, architecture_from_json(document))
    document["edits"][0]["returns"] = DAMAGES[name]
    with pytest.raises(ArtifactError):
        rebuild(model, architecture_from_json(document))


def test_stand_in_belongs_to_removal_alone() -> None:
    document = architecture_to_json(architecture_of(*_identity_plan()))
    document["edits"] = [{"kind": "no_bias", "path": "head.bias", "returns": 0}]
    with pytest.raises(ArtifactError, match="must have exactly the keys"):
        architecture_from_json(document)


def _identity_plan() -> tuple[nn.Module, Any, Any]:
    model, groups = stack()
    return model, groups.plan, np.ones(groups.plan.unit_count, dtype=np.bool_)


def test_layers_of_torchs_own_encoder_go_but_the_first_which_it_asks_for_its_attention() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    model, _ = prepare_model(nn.Sequential(encoder, nn.Linear(16, 3)).eval())
    groups = find_groups(model, ONE)
    depth = depth_of(groups)
    assert depth is not None
    assert depth.members == ("0.layers.1", "0.layers.2")
    made = edited(model, *edits_of(depth, 0.4, np.array([0.0, 1.0])))
    shorter = copy.deepcopy(model)
    del shorter[0].layers[1]
    assert equal(run(made, ONE), run(shorter, ONE))


def test_inverted_residuals_with_a_shortcut_are_blocks() -> None:
    model, inputs = built("mobilenetv2")
    depth = depth_of(traced("mobilenetv2"))
    assert depth is not None
    assert depth.width == 10
    made = edited(model, *edits_of(depth, 0.5, np.arange(10.0)))
    assert [t.shape for t in run(made, inputs)] == [t.shape for t in run(model, inputs)]


def test_bottlenecks_are_blocks() -> None:
    depth = depth_of(traced("resnet50"))
    assert depth is not None
    assert depth.width == 12


class Step(nn.Module):
    """x + b(relu(a(x))), or something near it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.kind = nn.Linear(8, 12), nn.Linear(12, 8), nn.LayerNorm(8), kind

    def forward(self, x: Tensor, stack: list[Tensor]) -> Tensor:
        hidden = self.a(x).relu()
        inner = self.b(hidden)
        match self.kind:
            case "push":
                stack.append(x)
            case "pop":
                return x + inner + stack.pop()
            case "write":
                stack[0].add_(hidden.mean())
            case "negated":
                return inner - x
            case "doubled":
                return 2 * x + inner
            case "norm last":
                return self.norm(x + inner)
            case "activation last":
                return torch.relu(x + inner)
            case "stored":
                self.last = hidden
        return x + inner


class Steps(nn.Module):
    def __init__(self, *kinds: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Linear(5, 8), nn.Linear(8, 2)
        self.steps = nn.ModuleList(Step(kind) for kind in kinds)

    def forward(self, x: Tensor) -> Tensor:
        stack: list[Tensor] = [torch.zeros(x.shape[0], 1)] if self.steps[0].kind == "write" else []
        x = self.e(x)
        for step in self.steps:
            x = step(x, stack)
        extra = sum(s.last.mean() for s in self.steps if s.kind == "stored")
        return self.o(x) + extra + sum(tensor.mean() for tensor in stack)


def removable(*kinds: str) -> tuple[str, ...]:
    model, inputs = Steps(*kinds).eval(), Inputs((torch.randn(3, 5),), {})
    part = depth_of(find_groups(model, inputs))
    for member in () if part is None else range(part.width):
        run(edited(model, edit_of(part, member)), inputs)
    return () if part is None else part.members


@pytest.mark.parametrize("kind", ["plain", "norm last", "activation last"])
def test_blocks_that_hand_their_input_on_are_removable(kind: str) -> None:
    assert removable(kind, kind, kind) == ("steps.0", "steps.1", "steps.2")


@pytest.mark.parametrize(
    "kinds",
    [("push", "push", "pop", "pop"), ("write", "write"), ("stored", "stored"), ("negated",) * 3, ("doubled",) * 3],
    ids=lambda kinds: kinds[0],
)
def test_blocks_that_do_something_besides_are_not_removable(kinds: tuple[str, ...]) -> None:
    assert removable(*kinds) == ()
