"""What defines each regularizer: a closed form on a model whose task has no say, which no other regularizer has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from pruning_cases import Case, case, context, mlp, mute_case, quiet, sparsified, taught_case
from torch import Tensor, nn

from autoprune.axes import AXES
from autoprune.groups.cloning import clone_model
from autoprune.policy import Amount, Policy
from autoprune.pruning.gates import Gates
from autoprune.pruning.recovery import fine_tune
from autoprune.pruning.sparsifying import Sparsified

STRENGTH = 0.6
STEPS = 20
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def moved(regularizer: str, strength: float = STRENGTH) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the weights of the pruned layer before and after a training under a regularizer, and its BatchNorm's."""
    of = mute_case()
    policy = Policy({"0": 0.5}, quiet(regularizer=regularizer, strength=strength))
    model = sparsified(of, policy, STEPS).model
    pairs = [(of.dense.get_parameter(n).detach(), model.get_parameter(n).detach()) for n in ("0.weight", "1.weight")]
    return (*pairs[0], *pairs[1])


def l1(regularizer: str) -> None:
    before, after, *scales = moved(regularizer)
    expected = before.sign() * (before.abs() - STRENGTH * before.abs().mean()).clamp_min(0.0)
    torch.testing.assert_close(after, expected, **CLOSE)
    assert 0 < int((after == 0).sum()) < after.numel()
    assert torch.equal(*scales)


def bn_l1(regularizer: str) -> None:
    *weights, before, after = moved(regularizer)
    torch.testing.assert_close(after, (before - STRENGTH * before.mean()).clamp_min(0.0), **CLOSE)
    assert int((after == 0).sum()) == 2
    torch.testing.assert_close(*weights, **CLOSE)


def l2(regularizer: str) -> None:
    before, after, *scales = moved(regularizer)
    torch.testing.assert_close(after, before * (1.0 - STRENGTH / STEPS) ** STEPS, **CLOSE)
    assert torch.equal(*scales)


def group_lasso(regularizer: str) -> None:
    before, after, *scales = moved(regularizer)
    norms = before.norm(dim=1, keepdim=True)
    expected = before * (1.0 - STRENGTH * norms.mean() / norms).clamp_min(0.0)
    torch.testing.assert_close(after, expected, **CLOSE)
    assert torch.equal(*scales)


def growing_l2(regularizer: str) -> None:
    before, after, *_ = moved(regularizer)
    goes = torch.zeros(8, dtype=torch.bool)
    goes[before.abs().mean(1).argsort()[:4]] = True
    torch.testing.assert_close(after[goes], before[goes] * np.exp(-STRENGTH), **CLOSE)
    torch.testing.assert_close(after[~goes], before[~goes], **CLOSE)


def max_norm(regularizer: str) -> None:
    before, after, *_ = moved(regularizer, 1.0)
    norms = before.norm(dim=1, keepdim=True)
    above = (norms > norms.mean()).flatten()
    assert 0 < int(above.sum()) < 8
    torch.testing.assert_close(after, before * (norms.mean() / norms).clamp_max(1.0), **CLOSE)


PROPERTIES: dict[str, Callable[[str], None]] = {
    f.__name__: f for f in (l1, bn_l1, l2, group_lasso, growing_l2, max_norm)
}
OTHERS = [(name, other) for name in PROPERTIES for other in ("none", *PROPERTIES) if other != name]


def test_every_regularizer_but_the_gates_has_its_property() -> None:
    assert set(PROPERTIES) == set(AXES["regularizer"]) - {"none", "hard_concrete"}


def lacking(name: str, regularizer: str) -> AssertionError | None:
    """Return what of a property does not hold for a regularizer."""
    try:
        PROPERTIES[name](regularizer)
    except AssertionError as error:
        return error
    return None


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_regularizer_has_the_property_that_defines_it(name: str) -> None:
    assert lacking(name, name) is None


@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_another_in_its_place_would_not(name: str, other: str) -> None:
    assert lacking(name, other) is not None


def test_masked_weights_are_penalised_and_others_are_not() -> None:
    of = mute_case()
    policy = Policy({"0.weight": 0.5}, quiet(granularity="weight", regularizer="l1", strength=0.5))
    model = sparsified(of, policy, STEPS).model
    before = of.dense.get_parameter("0.weight")
    expected = before.sign() * (before.abs() - 0.5 * before.abs().mean()).clamp_min(0.0)
    torch.testing.assert_close(model.get_parameter("0.weight"), expected, **CLOSE)
    torch.testing.assert_close(model.get_parameter("3.weight"), of.dense.get_parameter("3.weight"), **CLOSE)


def nearly_closed(regularizer: str) -> float:
    """Return the share of BatchNorm scales that a training drives to a twentieth of their mean, before any cut."""
    of = case("cnn")
    policy = Policy({}, quiet(scope="global", criterion="bn_scale", regularizer=regularizer, strength=1.0,
                              learning_rate=0.02), amount=Amount("sparsity", 0.5))  # fmt: skip
    trained = sparsified(of, policy, 30).model
    norms = [m.weight.detach().abs() for m in trained.modules() if isinstance(m, nn.BatchNorm2d)]
    mean = float(torch.cat([m.weight.detach() for m in of.dense.modules() if isinstance(m, nn.BatchNorm2d)]).mean())
    return float((torch.cat(norms) < 0.05 * mean).float().mean())


def test_slimming_drives_scales_to_nothing_before_the_cut() -> None:
    assert nearly_closed("none") < 0.02
    assert nearly_closed("bn_l1") > 0.25


@cache
def half_useless() -> Case:
    """Return a net whose first four units are the largest, and which nothing reads; the others give a class each."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4))
    model = mlp(np.concatenate([3.0 + rng.random((4, 4)), np.eye(4)]), np.hstack([np.zeros((4, 4)), 4.0 * np.eye(4)]))
    return taught_case(model, x)


def by_gates(regularizer: str) -> Sparsified:
    strategy = quiet(scope="local", regularizer=regularizer)
    return sparsified(half_useless(), Policy({}, strategy, amount=Amount("sparsity", 0.5)), 120)


def test_gates_of_useless_units_close_before_those_of_useful_ones() -> None:
    assert by_gates("hard_concrete").choice.alive.tolist() == [False] * 4 + [True] * 4
    for other in ("none", "l1", "group_lasso"):
        assert by_gates(other).choice.alive.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("together", [True, False])
def test_the_expected_share_of_open_gates_comes_to_what_is_asked(together: bool) -> None:
    of = case("cnn")
    asked = {"stem": 0.75, "inner": 0.5, "wide": 0.25}
    model = clone_model(of.dense, {})
    pools = [of.groups.groups] if together else [[g] for g in of.groups.groups]
    gates = Gates(model, of.groups, pools, open_share=asked, steps=STEPS, seed=0)
    started = gates.open_chance()
    fine_tune(model, of.task, context(STEPS, on_step=gates.after_step))
    assert started.min() > 0.95
    for pool in pools:
        wanted = sum(g.width * asked[g.name] for g in pool) / sum(g.width for g in pool)
        found = np.concatenate([gates.open_chance()[g.start : g.start + g.width] for g in pool])
        assert found.mean() == pytest.approx(wanted, rel=0.05)
    assert gates.open_chance().std() > 0.01


def test_baked_gates_answer_as_they_did_in_eval_mode() -> None:
    of = case("cnn")
    model = clone_model(of.dense, {})
    gates = Gates(model, of.groups, [of.groups.groups], open_share={"stem": 0.5, "inner": 0.5, "wide": 0.5},
                  steps=STEPS, seed=0)  # fmt: skip
    fine_tune(model, of.task, context(STEPS, lr=0.05, on_step=gates.after_step))
    gated = of.outputs(model)
    gates.bake()
    torch.testing.assert_close(of.outputs(model), gated)
    assert not torch.equal(gated, of.outputs(of.dense))
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in of.dense.named_parameters()}
    assert not model._forward_pre_hooks


def test_gates_are_noisy_in_training_alone() -> None:
    of = case("cnn")
    model = clone_model(of.dense, {}).eval()
    Gates(model, of.groups, [of.groups.groups], open_share={g.name: 0.5 for g in of.groups.groups}, steps=4, seed=0)
    assert torch.equal(of.outputs(model), of.outputs(model))
    model.train()
    assert not torch.equal(of.outputs(model), of.outputs(model))
