"""Scores of blocks, activations, norms, poolings and biases."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from edit_cases import BLOCKS, residual
from torch import Tensor, nn
from units import built, traced

from autoprune.errors import CandidateError, ConfigError
from autoprune.groups import Part
from autoprune.pruning.criteria import CriterionContext
from autoprune.pruning.criteria.parts import part_importance
from autoprune.tasks import ClassificationTask, LabelledArrays

KINDS = ("depth", "activation", "norm", "pooling", "bias")


def task() -> ClassificationTask:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(48, 3, 16, 16, generator=generator)
    return ClassificationTask(nn.Linear(1, 2), LabelledArrays(x, np.arange(48) % 5), batch_size=8)


def part(kind: str) -> Part:
    return next(p for p in residual()[2].parts if p.name == f"@{kind}")


def context(model: nn.Module | None = None, seed: int = 0, given: Any = "task") -> CriterionContext:
    dense, _, groups = residual()
    return CriterionContext(model or dense, groups, task() if given == "task" else given, seed, batches=2)


def losses(model: nn.Module, replaced: dict[str, nn.Module], biases: tuple[str, ...] = ()) -> float:
    """Return the mean loss on two calibration batches with modules swapped by hand."""
    changed = copy.deepcopy(model).eval()
    for path, module in replaced.items():
        parent, _, name = path.rpartition(".")
        setattr(changed.get_submodule(parent), name, module)
    for name in biases:
        changed.get_parameter(name).data.zero_()
    user, found = task(), []
    for number, batch in enumerate(user.batches("calibration", seed=0)):
        if number == 2:
            break
        with torch.no_grad():
            found.append(float(user.loss(changed(*user.inputs(batch).args), batch)))
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", ["depth", "activation", "pooling", "bias"])
def test_contribution_is_the_rise_of_the_loss_without_that_member_alone(kind: str) -> None:
    model, found = residual()[0], part(kind)
    scores = part_importance("contribution", context(), found)
    whole = losses(model, {})
    for member, score in zip(found.members, scores, strict=True):
        if kind == "bias":
            without = losses(model, {}, (member,))
        else:
            without = losses(model, {member: nn.Identity() if kind != "pooling" else average()})
        assert score == pytest.approx(without - whole, abs=1e-5)
    assert len({round(float(s), 6) for s in scores}) > 1 or found.width == 1
    assert np.abs(scores).max() > 1e-5


def average() -> nn.Module:
    return nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)


def test_folding_a_norm_costs_nothing() -> None:
    assert np.abs(part_importance("contribution", context(), part("norm"))).max() < 1e-5


class Turn(nn.Module):
    """Adds to its input, so that the angle between input and output is known."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[0.0, -shift], [shift, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x)


def test_the_angle_of_a_block_is_one_minus_the_cosine_of_its_input_and_output() -> None:
    model = nn.Sequential(Turn(1.0), Turn(0.0), Turn(3.0**0.5))
    generator = torch.Generator().manual_seed(0)
    data = LabelledArrays(torch.randn(40, 2, generator=generator), np.arange(40) % 2)
    user = ClassificationTask(nn.Linear(1, 2), data, batch_size=8)
    found = Part("@depth", "depth", ("0", "1", "2"), 3)
    scores = part_importance("angle", CriterionContext(model, residual()[2], user, 0), found)
    np.testing.assert_allclose(scores, [1 - 0.5**0.5, 0.0, 0.5], atol=1e-6)


def test_the_angle_between_convolutions_is_taken_over_channels() -> None:
    scores = part_importance("angle", context(), part("depth"))
    model, seen = residual()[0], {}
    for path in BLOCKS:
        block = model.get_submodule(path)
        seen[path] = block.register_forward_hook(lambda _, a, y, p=path: pairs[p].append((a[0].clone(), y.clone())))
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in BLOCKS}
    user = task()
    for number, batch in enumerate(user.batches("calibration", seed=0)):
        if number < 2:
            with torch.no_grad():
                model(*user.inputs(batch).args)
    for path, score in zip(BLOCKS, scores, strict=True):
        seen[path].remove()
        x, y = (torch.cat(list(tensors)).movedim(1, -1).reshape(-1, 16) for tensors in zip(*pairs[path], strict=True))
        kept = (x.norm(dim=1) * y.norm(dim=1)) > 0
        assert score == pytest.approx(1 - float(torch.cosine_similarity(x[kept], y[kept]).mean()), abs=1e-5)


def test_l1_and_l2_of_a_block_are_the_mean_and_root_mean_square_of_its_weights() -> None:
    model = residual()[0]
    for path, l1, l2 in zip(
        BLOCKS,
        part_importance("l1", context(given=None), part("depth")),
        part_importance("l2", context(given=None), part("depth")),
        strict=True,
    ):
        weights = torch.cat([model.get_parameter(f"{path}.conv{n}.weight").detach().flatten() for n in (1, 2)])
        assert l1 == pytest.approx(float(weights.abs().mean()))
        assert l2 == pytest.approx(float(weights.square().mean().sqrt()))


@pytest.mark.parametrize("kind", KINDS)
def test_random_scores_follow_the_seed(kind: str) -> None:
    found = part(kind)
    first, again, other = (part_importance("random", context(seed=seed), found) for seed in (1, 1, 2))
    assert first.shape == (found.width,)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("criterion", ["contribution", "angle", "l1", "l2", "random"])
def test_scoring_leaves_the_model_as_it_was(criterion: str) -> None:
    model = copy.deepcopy(residual()[0]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = part_importance(criterion, context(model), part("depth"))
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("criterion", "kind"), [("l1", "bias"), ("angle", "norm"), ("taylor", "depth")])
def test_a_criterion_that_cannot_rank_a_kind_is_refused(criterion: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot rank @{kind}"):
        part_importance(criterion, context(), part(kind))


def test_a_tensor_and_a_missing_task_are_refused() -> None:
    tensor = next(p for p in traced("resnet14").parts if p.kind == "tensor")
    with pytest.raises(ConfigError, match="it is a tensor"):
        part_importance("l1", CriterionContext(built("resnet14")[0], traced("resnet14"), None, 0), tensor)
    with pytest.raises(ConfigError, match="needs a task"):
        part_importance("contribution", context(given=None), part("depth"))


@pytest.mark.parametrize("criterion", ["contribution", "angle", "l1", "l2"])
def test_scores_that_are_not_finite_fail_the_candidate(criterion: str) -> None:
    model = copy.deepcopy(residual()[0])
    model.get_parameter(f"{BLOCKS[1]}.conv1.weight").data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CandidateError, match="is not finite") as caught:
        part_importance(criterion, context(model), part("depth"))
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "prune")
