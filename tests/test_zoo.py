"""Every net of the zoo under random policies: it runs, trains, equals its masked form, is saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo import ZOO
from zoo.cases import Case, call, case, floating, masking_error, random_policy, rebatched, substituted

from autoprune.artifacts import Member, load, save_member
from autoprune.pruning import PrunedModel
from autoprune.runtimes.session import parity, tensor_leaves
from autoprune.tasks.protocol import Inputs

SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 20))]
TOLERANCE = 1e-5
LOW_PRECISION = {"bfloat16": 0.01}
"""Sums of other length are rounded otherwise: bfloat16 has 8 bits."""

BRANCHING = ("data_dependent",)
"""Its branch follows a mean over channels, which zeroed ones lower and missing ones do not: either may be taken."""


def pruned_at_random(of: Case, seed: int) -> PrunedModel:
    return of.pruner.cut(random_policy(of.groups, seed), seed=seed)


def form(outputs: object) -> tuple[object, list[torch.Size], list[torch.dtype]]:
    """Return the structure of outputs with shape and type of every tensor."""
    leaves = tensor_leaves(outputs)
    return pytree.tree_structure(outputs), [t.shape for t in leaves], [t.dtype for t in leaves]


def gradients(model: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the gradient of a sum over all outputs by every parameter that has one; the model keeps none."""
    outputs = floating(model(*inputs.args, **inputs.kwargs))
    named = dict(model.named_parameters())
    found = torch.autograd.grad(
        sum(t.float().square().mean() for t in outputs), list(named.values()), allow_unused=True
    )
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ZOO)
def test_randomly_pruned_net_runs_and_trains_with_outputs_of_the_same_form(name: str, seed: int) -> None:
    of = case(name)
    pruned = pruned_at_random(of, seed)
    assert sum(p.numel() for p in pruned.model.parameters()) < sum(p.numel() for p in of.model.parameters())
    assert form(call(pruned.model, of.inputs)) == form(call(of.model, of.inputs))
    found = gradients(pruned.model, of.inputs)
    assert found.keys() == gradients(of.model, of.inputs).keys()
    assert [key for key, gradient in found.items() if not torch.isfinite(gradient).all()] == []


@pytest.mark.parametrize("name", ZOO)
def test_randomly_pruned_net_takes_another_batch_size(name: str) -> None:
    of = case(name)
    other = rebatched(of.inputs, 3)
    found = call(pruned_at_random(of, 0).model, other)
    assert form(found) == form(call(of.model, other))
    assert all(torch.isfinite(t).all() for t in floating(found))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in BRANCHING])
def test_removing_equals_zeroing_where_groups_say_so_and_everywhere_once_norms_only_scale(name: str, seed: int) -> None:
    of = case(name)
    alive = pruned_at_random(of, seed).alive
    tolerance = LOW_PRECISION.get(name, TOLERANCE)
    if of.exact.any():
        assert masking_error(of.model, of, alive | ~of.exact) <= tolerance
    if not of.exact.all():
        assert masking_error(of.model, of, alive) > tolerance
        assert masking_error(substituted(of.model), of, alive) <= tolerance


def test_cutting_the_wrong_units_is_noticed() -> None:
    of = case("resnet20")
    alive = pruned_at_random(of, 0).alive
    shifted = np.concatenate([np.roll(alive[g.start : g.start + g.width], 1) for g in of.groups.groups])
    right, wrong = (of.pruner._slicer.mask(a) for a in (alive, shifted))
    assert parity(call(right, of.inputs), call(wrong, of.inputs)) > 1e-3


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
@pytest.mark.parametrize("name", ZOO)
def test_saved_net_loads_into_the_unpruned_definition_with_equal_outputs(name: str, seed: int, tmp_path: Path) -> None:
    of = case(name)
    pruned = pruned_at_random(of, seed)
    member = Member(
        pruned.model,
        rebatched(of.inputs, 2),
        pruned.policy.to_json(),
        pruned.architecture,
        metrics={},
        card=f"# {name}\n",
        formats=(),
    )
    loaded = load(save_member(tmp_path / name, member), of.source)
    assert parity(call(pruned.model, of.inputs), call(loaded, of.inputs)) == 0.0
