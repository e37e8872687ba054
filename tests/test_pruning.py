"""Policy -> pruned model: the real widths, the model left alone, recovery by the policy's own choices."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

import autoprune
from autoprune.errors import ConfigError
from autoprune.groups import find_groups, rebuild
from autoprune.policy import Policy, Strategy
from autoprune.pruning import PrunedModel, Pruner, Recovery

HALF = {"stem": 0.5, "inner": 0.5, "wide": 0.5}


@pytest.fixture(scope="module")
def task() -> tiny.TinyTask:
    return tiny.make_task()


def accuracy(task: tiny.TinyTask, model: nn.Module) -> float:
    with torch.no_grad():
        return task.evaluate(lambda inputs: model(*inputs.args), "val").metrics["accuracy"]


def recovery(steps: int, seed: int = 0) -> Recovery:
    return Recovery(steps=steps, batch_size=64, calibration=128, seed=seed)


def test_every_tensor_follows_the_policy_and_the_dense_model_is_untouched(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    pruned = autoprune.prune(dense, Policy(HALF), task)
    model = pruned.model
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["stem.weight"] == (8, 1, 3, 3)
    assert shapes["outer.weight"] == (8, 8, 3, 3)
    assert shapes["wide.weight"] == (16, 8, 3, 3)
    assert shapes["fc.weight"] == (10, 16)
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())
    assert not model.training


def test_recalibration_and_fine_tuning_each_bring_accuracy_back(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    pruner = Pruner(dense, find_groups(dense, task.example_inputs()), task)
    policy = Policy(HALF, Strategy(criterion="l1", learning_rate=0.05))
    cut = accuracy(task, pruner.cut(policy).model)
    recalibrated = accuracy(task, pruner.prune(policy, recovery(0)).model)
    tuned = accuracy(task, pruner.prune(policy, recovery(40)).model)
    assert cut < recalibrated < tuned
    assert tuned > 0.85


def test_a_policy_that_removes_nothing_is_the_trained_model(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    pruned = autoprune.prune(dense, Policy({}), task, recovery=recovery(10))
    assert all(torch.equal(v, dense.state_dict()[k]) for k, v in pruned.model.state_dict().items())


def test_the_architecture_rebuilds_the_pruned_model(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    pruned: PrunedModel = autoprune.prune(dense, Policy(HALF), task, recovery=recovery(3))
    again = rebuild(dense, pruned.architecture)
    again.load_state_dict(pruned.model.state_dict())
    x = task.example_inputs(batch_size=3).args
    assert torch.equal(again.eval()(*x), pruned.model(*x))


def test_random_scores_follow_the_candidates_seed_and_others_the_runs(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    pruner = Pruner(dense, find_groups(dense, task.example_inputs()), task)
    one, same, other = (pruner.cut(Policy(HALF, Strategy("random")), seed=s).alive for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert (pruner.cut(Policy(HALF), seed=1).alive == pruner.cut(Policy(HALF), seed=2).alive).all()


def test_distillation_learns_from_the_dense_model(task: tiny.TinyTask) -> None:
    dense = task.build_model()
    pruner = Pruner(dense, find_groups(dense, task.example_inputs()), task)
    plain, taught = (
        pruner.prune(Policy(HALF, Strategy(recovery=name)), recovery(5)).model for name in ("fine_tune", "distillation")
    )
    assert not torch.equal(plain.fc.weight, taught.fc.weight)


def test_a_foreign_policy_is_refused(task: tiny.TinyTask) -> None:
    with pytest.raises(ConfigError, match="'layer9'"):
        autoprune.prune(task.build_model(), Policy({"layer9": 0.5}), task)
