"""Every criterion on every net of the zoo, and the granularities that work on some of a net's parts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from zoo import ZOO
from zoo.cases import Case, RandomTask, call, case, floating

from autoprune.axes import AXES
from autoprune.compatibility import can_rank, concerns
from autoprune.errors import ConfigError
from autoprune.groups import ModelGroups
from autoprune.groups.patterns import without
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning import Pruner

CRITERIA = tuple(AXES["criterion"])
MEASURED = ("contribution",)
"""Criteria that cost a forward pass a unit: large nets are scored in some of their groups only."""

MOST_UNITS = 150
LARGE = ("resnet50", "resnext50", "mobilenetv2", "efficientnet_lite0", "vit_ti_224")


def rankable(name: str, criterion: str) -> bool:
    return any(can_rank(group, criterion) for group in case(name).groups.groups)


def pairs() -> list[object]:
    """Return every net with every criterion; all but two a net are slow, in turn, so that each comes a few times."""
    nets = [name for name in ZOO if name not in LARGE]
    quick = {(name, CRITERIA[(2 * i + j) % len(CRITERIA)]) for i, name in enumerate(nets) for j in (0, 1)}
    quick |= {(name, criterion) for name in LARGE for criterion in ("l1", "taylor")}
    quick |= {(name, "bn_scale") for name in ("mobilenetv3", "yolo", "pointnet")}
    quick |= {("mobilenetv3", "hessian"), ("structured", "noise")}
    return [
        pytest.param(name, criterion, marks=() if (name, criterion) in quick else pytest.mark.slow)
        for name in ZOO
        for criterion in CRITERIA
    ]


@cache
def few_groups(name: str) -> tuple[ModelGroups, Pruner]:
    """Return the narrowest groups of a net, at most `MOST_UNITS` units in all but for a single one."""
    of = case(name)
    chosen, units = set[str](), 0
    for group in sorted(of.groups.groups, key=lambda g: g.width):
        if not chosen or units + group.width <= MOST_UNITS:
            chosen.add(group.name)
            units += group.width
    others = {g.name: "left out of this test" for g in of.groups.groups if g.name not in chosen}
    found = without(of.model, of.groups, others)
    return found, Pruner(of.model, found, RandomTask(of.model, of.inputs))


def test_quick_run_meets_each_criterion_on_three_nets_and_each_net_under_two_criteria() -> None:
    quick = [p.values for p in pairs() if not p.marks]
    met = {c: {name for name, criterion in quick if criterion == c and rankable(name, c)} for c in CRITERIA}
    assert all(len(nets) >= 3 for nets in met.values()), met
    assert all(sum(name == net for name, _ in quick) >= 2 for net in ZOO)


@pytest.mark.parametrize(("name", "criterion"), pairs())
def test_half_of_a_net_goes_by_any_criterion(name: str, criterion: str) -> None:
    of = case(name)
    groups, pruner = few_groups(name) if criterion in MEASURED else (of.groups, of.pruner)
    able = [group for group in groups.groups if can_rank(group, criterion)]
    policy = Policy({g.name: 0.5 for g in able or groups.groups}, Strategy(criterion=criterion))
    if not able:
        with pytest.raises(ConfigError, match="no BatchNorm"):
            pruner.cut(policy)
        return
    scores = pruner.scores(criterion)
    assert scores.shape == (groups.plan.unit_count,)
    assert np.isfinite(scores).all()
    pruned = pruner.cut(policy)
    for group in able:
        kept = np.flatnonzero(pruned.alive[group.start : group.start + group.width])
        own = scores[group.start : group.start + group.width]
        assert len(kept) == max(1, round(group.width / 2))
        assert criterion == "random" or own[kept].min() >= np.sort(own)[-len(kept)]
    assert_runs(of, pruned.model)


def assert_runs(of: Case, model: torch.nn.Module) -> None:
    found, dense = (floating(call(m, of.inputs)) for m in (model, of.model))
    assert [t.shape for t in found] == [t.shape for t in dense]
    assert all(torch.isfinite(t).all() for t in found)
    assert not all(torch.equal(a, b) for a, b in zip(found, dense, strict=True))


GRANULARITIES = {
    "head": ("vit", "vit_ti_224", "vit_fused", "llama", "swin", "bert", "distilbert", "gpt", "t5", "translation"),
    "ffn": (
        *("vgg", "chunk_se", "vit", "vit_ti_224", "vit_fused", "llama", "lstm", "autoencoder", "convnext", "swin"),
        *("mixer", "bert", "distilbert", "gpt", "multi_query", "t5", "translation", "gru", "mlp_784"),
        *("multi_input", "multi_task", "siamese", "structured", "keyword_only"),
    ),
    "depth": (
        *("resnet14", "resnet20", "resnet56", "resnet20_pad", "resnet50", "resnext50", "mobilenetv2", "vit"),
        *("vit_ti_224", "vit_fused", "llama", "mobilenetv3", "efficientnet_lite0"),
        *("super_resolution", "convnext", "swin", "mixer", "gpt"),
    ),
}


def test_nets_have_the_granularities_that_are_listed() -> None:
    for kind, names in GRANULARITIES.items():
        assert [name for name in names if name not in granular(kind)] == []


@cache
def granular(kind: str) -> tuple[str, ...]:
    return tuple(name for name in ZOO if has(name, kind))


def has(name: str, kind: str) -> bool:
    try:
        return bool(concerns(case(name).groups, Strategy(granularity=kind)))
    except ConfigError:
        return False


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in GRANULARITIES.items() for name in names])
def test_half_of_one_kind_goes_and_nothing_else(kind: str, name: str) -> None:
    of = case(name)
    policy = Policy({}, Strategy(granularity=kind, scope="local"), amount=Amount("sparsity", 0.5, round_to=1))
    pruned = of.pruner.cut(policy)
    assert_runs(of, pruned.model)
    cut = {g.name for g in of.groups.groups if not pruned.alive[g.start : g.start + g.width].all()}
    if kind == "depth":
        (part,) = concerns(of.groups, policy.strategy)
        assert not cut
        assert 1 <= len(pruned.architecture.edits) <= -(-part.width // 2)
        assert {edit.path for edit in pruned.architecture.edits} <= set(part.members)
    else:
        assert cut == {part.name for part in concerns(of.groups, policy.strategy)}
