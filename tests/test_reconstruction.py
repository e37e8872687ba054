"""Reconstruction: exact where it can be, never worse on what it saw, better on what it did not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_task
from torch import Tensor, nn
from units import built, random_alive, traced

from autoprune.errors import CandidateError, TaskError
from autoprune.groups import ArchitecturePlan, find_groups
from autoprune.groups.slicing import architecture_of, slice_model
from autoprune.groups.types import Edit
from autoprune.policy import Policy
from autoprune.pruning.pipeline import PrunedModel, Pruner
from autoprune.pruning.reconstruction import _Normal, _solve, reconstruct
from autoprune.pruning.recovery import recalibrate
from autoprune.tasks import ClassificationTask, LabelledArrays
from autoprune.tasks.protocol import Inputs, Task


def data_task(model: nn.Module, x: Any, cls: type[ClassificationTask] = ClassificationTask) -> ClassificationTask:
    return cls(model, LabelledArrays(x, np.arange(len(x)) % 2), batch_size=64)


def two_layers(seed: int = 0, bias: bool = True) -> nn.Sequential:
    """Four hidden units, of which the last two are equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.Linear(4, 2, bias=bias)).eval()
    with torch.no_grad():
        for tensor in model[0].parameters():
            tensor[3] = tensor[2]
    return model


def without_last(model: nn.Sequential) -> tuple[nn.Module, ArchitecturePlan]:
    plan = find_groups(model, Inputs((torch.ones(1, 3),), {})).plan
    alive = np.array([True, True, True, False])
    return slice_model(model, plan, alive), architecture_of(model, plan, alive)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def tiny() -> tuple[Task, nn.Module, Pruner]:
    task = make_task()
    model = task.build_model().eval()
    return task, model, Pruner(model, find_groups(model, task.example_inputs()), task)


def cut(pruner: Pruner, sparsity: float) -> PrunedModel:
    return pruner.cut(Policy({g.name: sparsity for g in pruner.groups.groups}))


def outputs_of(model: nn.Module, path: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda *args: found.append(args[-1]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return found[0]


def error(dense: nn.Module, pruned: nn.Module, architecture: ArchitecturePlan, path: str, x: Tensor) -> float:
    """Return the mean squared distance of a layer's outputs from the dense layer's that stayed."""
    wanted = outputs_of(dense, path, x)
    kept = architecture.kept[f"{path}.weight"].get(0)
    if kept is not None:
        wanted = wanted.index_select(1, torch.tensor(kept))
    return float((outputs_of(pruned, path, x) - wanted).square().mean())


def loss(task: Task, model: nn.Module) -> float:
    with torch.no_grad():
        found = [float(task.loss(model.eval()(b[0]), b)) for b in task.batches("val", seed=0)]
    return float(np.mean(found))


@pytest.mark.parametrize("bias", [True, False])
def test_without_a_duplicate_of_a_unit_the_dense_outputs_come_back(bias: bool) -> None:
    model = two_layers(bias=bias)
    x = np.random.default_rng(0).normal(size=(4000, 3)) + 1.0
    task = data_task(model, x)
    pruned, architecture = without_last(model)
    probe = torch.tensor(x[:50], dtype=torch.float32) * 3.0
    with torch.no_grad():
        before = float((pruned(probe) - model(probe)).abs().max())
    reconstruct(model, pruned, architecture, task, limit=4000, seed=0)
    with torch.no_grad():
        assert before > 0.1
        assert torch.allclose(pruned(probe), model(probe), atol=1e-3 * before)
    assert torch.allclose(pruned[1].weight[:, 2], model[1].weight[:, 2:].sum(1), atol=1e-3)


def test_an_output_of_a_layer_that_lost_outputs_too_is_compared_with_its_own() -> None:
    model = nn.Sequential(*two_layers(), nn.Linear(2, 3)).eval()
    x = np.random.default_rng(0).normal(size=(4000, 3))
    plan = find_groups(model, Inputs((torch.ones(1, 3),), {})).plan
    alive = np.array([True, True, True, False, False, True])
    pruned, architecture = slice_model(model, plan, alive), architecture_of(model, plan, alive)
    reconstruct(model, pruned, architecture, data_task(model, x), limit=4000, seed=0)
    probe = torch.tensor(x[:50], dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(pruned[:2](probe), model[:2](probe)[:, 1:], atol=1e-3)


@pytest.mark.parametrize("limit", [16, 128])
def test_every_layer_that_lost_inputs_comes_nearer_and_the_loss_falls(
    limit: int, tiny: tuple[Task, nn.Module, Pruner]
) -> None:
    task, dense, pruner = tiny
    plain, solved = cut(pruner, 0.25), cut(pruner, 0.25)
    reconstruct(dense, solved.model, solved.architecture, task, limit=limit, seed=0)
    x = torch.cat([b[0] for b in task.batches("val", seed=0)])
    paths = ("inner", "outer", "wide", "fc")
    for path in paths:
        errors = [error(dense, p.model, p.architecture, path, x) for p in (plain, solved)]
        assert errors[1] < 0.5 * errors[0], path
    assert torch.equal(solved.model.stem.weight, plain.model.stem.weight)
    recalibrate(plain.model, task, limit=limit, seed=0)
    without_new_statistics = loss(task, solved.model)
    recalibrate(solved.model, task, limit=limit, seed=0)
    assert without_new_statistics < 0.5 * loss(task, plain.model)
    assert loss(task, solved.model) < 0.5 * loss(task, plain.model)


@pytest.mark.parametrize("sparsity", [0.25, 0.75])
def test_no_output_gets_worse_on_the_data_it_was_solved_on(
    sparsity: float, tiny: tuple[Task, nn.Module, Pruner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first layer's inputs are as they were before; it is solved on all positions."""
    task, dense, pruner = tiny
    monkeypatch.setattr("autoprune.pruning.reconstruction.ROWS", 10**7)
    plain, solved = cut(pruner, sparsity), cut(pruner, sparsity)
    reconstruct(dense, solved.model, solved.architecture, task, limit=64, seed=0)
    x = torch.cat([b[0] for b in task.batches("calibration", seed=0, limit=64)])
    wanted = outputs_of(dense, "inner", x)[:, list(solved.architecture.kept["inner.weight"][0])]
    errors = [(outputs_of(p.model, "inner", x) - wanted).square().mean((0, 2, 3)) for p in (plain, solved)]
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
    assert (errors[1] < errors[0]).any()


def test_the_layers_before_give_the_inputs_that_a_layer_is_solved_on() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    plan = find_groups(model, Inputs((x[:1],), {})).plan
    alive = np.array([True] * 3 + [False] * 3 + [True] * 3 + [False] * 3)
    pruned, architecture = slice_model(model, plan, alive), architecture_of(model, plan, alive)
    task = data_task(model, x.numpy())
    reconstruct(model, pruned, architecture, task, limit=3000, seed=0)
    seen = torch.cat([b[0] for b in task.batches("calibration", seed=0)])
    with torch.no_grad():
        rows = torch.cat([pruned[:4](seen), torch.ones(len(seen), 1)], dim=1).double().numpy()
        wanted = model(seen).double().numpy()
        best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        left = np.square(rows @ best - wanted).mean()
        assert left > 1e-4
        assert np.square(pruned(seen).numpy() - wanted).mean() == pytest.approx(left, rel=1e-3)


def test_layers_that_lost_no_inputs_and_their_neighbours_stay_as_they_were(
    tiny: tuple[Task, nn.Module, Pruner],
) -> None:
    task, dense, pruner = tiny
    whole = pruner.cut(Policy({"inner": 0.5}))
    before, original = weights_of(whole.model), weights_of(dense)
    reconstruct(dense, whole.model, whole.architecture, task, limit=64, seed=0)
    after = weights_of(whole.model)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"outer.weight"}
    assert all(torch.equal(original[n], v) for n, v in weights_of(dense).items())


def test_the_result_is_a_function_of_the_seed_and_leaves_modes_and_random_state(
    tiny: tuple[Task, nn.Module, Pruner], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, dense, pruner = tiny
    monkeypatch.setattr("autoprune.pruning.reconstruction.ROWS", 500)
    results = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = cut(pruner, 0.5).model.train()
        model.norm.eval()
        modes = [m.training for m in model.modules()]
        reconstruct(dense, model, cut(pruner, 0.5).architecture, task, limit=64, seed=seed)
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(state, torch.get_rng_state())
        assert not any(m._forward_hooks or m._forward_pre_hooks for n in (model, dense) for m in n.modules())
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(4, 3, 3, padding=1), (9,)),
    "2d": (nn.Conv2d(4, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (7, 8)),
    "dilated": (nn.Conv2d(4, 3, 3, dilation=2, padding=3, bias=False), (7, 8)),
    "same": (nn.Conv2d(4, 3, (4, 3), padding="same"), (6, 7)),
    "valid": (nn.Conv2d(4, 3, 3, padding="valid"), (6, 7)),
    "reflected": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), (6, 7)),
    "circular": (nn.Conv1d(4, 3, 5, padding=2, padding_mode="circular"), (11,)),
    "3d": (nn.Conv3d(4, 3, 2, stride=2), (4, 5, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_that_reads_a_duplicate_comes_back_whatever_its_window(name: str) -> None:
    conv, size = CONVOLUTIONS[name]
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
    model = nn.Sequential(kind(3, 4, 1), conv).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        for tensor in model[0].parameters():
            tensor[3] = tensor[2]
    x = torch.randn(400, 3, *size, generator=torch.Generator().manual_seed(0))
    plan = find_groups(model, Inputs((x[:2],), {})).plan
    alive = np.array([True, True, True, False])
    pruned, architecture = slice_model(model, plan, alive), architecture_of(model, plan, alive)
    with torch.no_grad():
        before = float((pruned(x[:9]) - model(x[:9])).square().mean())
        reconstruct(model, pruned, architecture, data_task(model, x.numpy()), limit=400, seed=0)
        assert before > 1e-3
        assert float((pruned(x[:9]) - model(x[:9])).square().mean()) < 1e-4 * before


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "textcnn", "mlp", "vit", "llama"])
def test_models_of_the_zoo_come_nearer_to_the_dense_outputs(name: str) -> None:
    dense, inputs = built(name)
    groups = traced(name)

    class Given(ClassificationTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter([inputs])

        def inputs(self, batch: Any) -> Inputs:
            return Inputs(*batch)

    task = data_task(nn.Linear(1, 2), np.ones((60, 1)), Given)
    alive = random_alive(groups, np.random.default_rng(0))
    architecture = architecture_of(dense, groups.plan, alive)
    pruned = slice_model(dense, groups.plan, alive).eval()
    plain = copy.deepcopy(pruned)
    reconstruct(dense, pruned, architecture, task, limit=8, seed=0)
    with torch.no_grad():
        wanted, found, before = (m(*inputs.args, **inputs.kwargs) for m in (dense, pruned, plain))
    assert float((found - wanted).square().mean()) < float((before - wanted).square().mean())


def test_shared_edited_and_masked_layers_are_left_alone() -> None:
    model = two_layers()
    x = np.random.default_rng(0).normal(size=(400, 3))
    _, architecture = without_last(model)
    for changes in ({"edits": (Edit("fold_norm", "norm", other="1"),)}, {"masks": {"1.weight": "n_m"}}):
        pruned, _ = without_last(model)
        before = weights_of(pruned)
        changed = ArchitecturePlan(**(vars(architecture) | changes))
        reconstruct(model, pruned, changed, data_task(model, x), limit=400, seed=0)
        assert all(torch.equal(before[n], v) for n, v in weights_of(pruned).items())
    shared, _ = without_last(model)
    shared.add_module("tied", nn.Identity())
    shared.tied.weight = shared[1].weight
    before = weights_of(shared)
    reconstruct(model, shared, architecture, data_task(model, x), limit=400, seed=0)
    assert all(torch.equal(before[n], v) for n, v in weights_of(shared).items())


def test_a_layer_that_is_called_twice_is_solved_on_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = two_layers()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.second(self.first(x)), self.second(input=self.first(2.0 * x + 1.0))], dim=1)

    model = Twice().eval()
    x = np.random.default_rng(0).normal(size=(4000, 3))
    plan = find_groups(model, Inputs((torch.ones(1, 3),), {})).plan
    alive = np.array([True, True, True, False])
    pruned, architecture = slice_model(model, plan, alive), architecture_of(model, plan, alive)
    reconstruct(model, pruned, architecture, data_task(model, x), limit=4000, seed=0)
    probe = torch.tensor(x[:50], dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(pruned(probe), model(probe), atol=1e-3)


def test_an_output_keeps_its_weights_where_rounding_would_spoil_the_solution() -> None:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    rows = torch.tensor([[1.0, 0.7], [1.0, 0.7], [0.0, 1e-3]], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
        lacking = torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.3, 0.0]], dtype=torch.float64)
        old = layer.weight.double()
        _solve(layer, _Normal(rows.T @ rows, rows.T @ lacking, 10**9), "layer")
        left = (lacking - rows @ (layer.weight.double() - old).T).square().sum(0)
    assert torch.equal(layer.weight[0], torch.ones(2, dtype=torch.bfloat16))
    assert float(left[1]) < 0.01


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    model = two_layers(bias=False)
    pruned, architecture = without_last(model)
    before = weights_of(pruned)
    reconstruct(model, pruned, architecture, data_task(model, np.zeros((400, 3))), limit=400, seed=0)
    assert all(torch.equal(before[n], v) for n, v in weights_of(pruned).items())


def test_without_data_or_with_outputs_that_are_not_finite_it_says_so() -> None:
    class Empty(ClassificationTask):
        def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter(())

    model = two_layers()
    pruned, architecture = without_last(model)
    x = np.random.default_rng(0).normal(size=(400, 3))
    with pytest.raises(TaskError, match="calibration"):
        reconstruct(model, pruned, architecture, data_task(model, x, Empty), limit=8, seed=0)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    with pytest.raises(CandidateError, match="'1'") as caught:
        reconstruct(model, pruned, architecture, data_task(model, x), limit=64, seed=0)
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "recover")
