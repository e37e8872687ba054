"""What a policy's other choices do: recovery, optimizer, batch size, choices of single groups; and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pruning_cases import Case, case, case_of, mlp, quiet, recovery, sparsified
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning import Pruner, distillation_penalty
from autoprune.pruning.distilling import feature_penalty
from autoprune.pruning.masks import pattern_holds
from autoprune.tasks import ClassificationTask, LabelledArrays

HALF = {"stem": 0.5, "inner": 0.5, "wide": 0.5}


def distances(method: str) -> tuple[float, float]:
    """Return how far outputs and features of a recovered model are from the dense one's."""
    of = case("cnn")
    one = of.pruner.prune(Policy(HALF, Strategy(recovery=method)), recovery(30, distillation=1.0))
    batch = next(iter(of.task.batches("val", seed=0, batch_size=100)))
    with torch.no_grad(), feature_penalty(of.task, of.dense, one.model, one.architecture, 1.0) as features:
        outputs = one.model(batch[0])
        felt = float(features(one.model, outputs, batch))
        return float(distillation_penalty(of.task, of.dense, 1.0)(one.model, outputs, batch)), felt


def test_each_distillation_draws_near_what_it_looks_at() -> None:
    plain, by_outputs, by_features = (distances(m) for m in ("fine_tune", "distillation", "feature_distillation"))
    assert by_outputs[0] < 0.9 * plain[0]
    assert by_features[1] < 0.8 * plain[1]
    assert by_features[1] < by_outputs[1]


def first_move(optimizer: str) -> Tensor:
    """Return by how much one step moves the biases, which have no weight decay."""
    of, policy = case("cnn"), Policy(HALF, Strategy(optimizer=optimizer))
    before, after = of.pruner.cut(policy).model, of.pruner.prune(policy, recovery(1)).model
    return (after.get_parameter("fc.bias") - before.get_parameter("fc.bias")).detach().abs()


def test_adamw_moves_every_weight_alike_and_sgd_by_its_gradient() -> None:
    adamw, sgd = first_move("adamw"), first_move("sgd")
    assert float(adamw.std() / adamw.mean()) < 0.01
    assert float(sgd.std() / sgd.mean()) > 0.2


@pytest.mark.parametrize("schedule", ["one_shot", "iterative"])
def test_a_policys_own_batch_size_takes_the_place_of_the_runs(schedule: str) -> None:
    of = case("cnn")
    asked: list[int | None] = []
    task = copy.copy(of.task)

    def batches(split: Any, *, batch_size: int | None = None, **options: Any) -> Iterator[Any]:
        if split == "train":
            asked.append(batch_size)
        return iter(of.task.batches(split, batch_size=batch_size, **options))

    vars(task).update(batches=batches)
    pruner = Pruner(of.dense, of.groups, task)
    for own, expected in ((None, 64), (17, 17)):
        asked.clear()
        pruner.prune(Policy(HALF, Strategy(batch_size=own, schedule=schedule)), recovery(4))
        assert set(asked) == {expected}


def test_steps_are_counted_through_from_before_the_cut_and_probes_see_the_pruned_model_alone() -> None:
    seen: list[tuple[int, int]] = []
    probed: list[tuple[int, int]] = []

    def watch(into: list[tuple[int, int]]) -> Any:
        return lambda model, step: into.append((step, len(model.get_parameter("stem.weight"))))

    budget = recovery(6, on_step=watch(seen), on_probe=watch(probed))
    case("cnn").pruner.prune(Policy(HALF, Strategy(schedule="cubic")), budget)
    assert seen == [(0, 16), (1, 16), (2, 16), (3, 8), (4, 8), (5, 8)]
    assert probed == seen[3:]


def felt(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """Return what a module gives."""
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0]


def a_tenth(of: Case, group: str, module: str, strategy: Strategy) -> None:
    """Demand that half of a group's units stay and give a tenth of what they gave."""
    one = of.pruner.cut(Policy({group: 0.5}, strategy))
    (x,) = of.task.example_inputs(batch_size=5).args
    before, after = (felt(model, x, module) for model in (of.dense, one.model))
    assert after.shape == before.shape
    assert one.alive.all()
    found = of.groups[group]
    goes = ~of.pruner.cut(Policy({group: 0.5})).alive[found.start : found.start + found.width]
    torch.testing.assert_close(after[:, goes], 0.1 * before[:, goes])
    torch.testing.assert_close(after[:, ~goes], before[:, ~goes])


def plain_case() -> Case:
    """Return a net without BatchNorm."""
    rng = np.random.default_rng(0)
    data = LabelledArrays(rng.normal(size=(60, 3)), np.arange(60) % 2)
    return case_of(ClassificationTask(mlp(rng.normal(size=(8, 3)), rng.normal(size=(2, 8))), data))


@pytest.mark.parametrize("module", ["norm", "inner_norm", "wide_norm"])
def test_units_that_are_scaled_give_a_tenth_right_after_the_cut(module: str) -> None:
    group = {"norm": "stem", "inner_norm": "inner", "wide_norm": "wide"}[module]
    a_tenth(case("cnn"), group, module, Strategy(granularity="scale"))
    with pytest.raises(AssertionError):
        a_tenth(case("cnn"), group, module, Strategy())


def test_units_without_a_norm_are_scaled_by_their_weights() -> None:
    of, strategy = plain_case(), Strategy(granularity="scale")
    a_tenth(of, "0", "1", strategy)
    cut = of.pruner.cut(Policy({"0": 0.5}, strategy)).model
    ratio = cut.get_parameter("0.weight") / of.dense.get_parameter("0.weight")
    assert sorted(ratio.flatten().tolist()) == pytest.approx([0.1] * 12 + [1.0] * 12)


def test_one_group_may_be_scaled_while_another_is_cut() -> None:
    of = case("cnn")
    policy = Policy({"inner": 0.5, "wide": 0.5}, Strategy(), {"inner": {"granularity": "scale"}})
    one = of.pruner.cut(policy)
    assert one.model.get_parameter("inner.weight").shape == (16, 16, 3, 3)
    assert one.model.get_parameter("wide.weight").shape == (16, 16, 3, 3)
    ratio = one.model.get_parameter("inner_norm.weight") / of.dense.get_parameter("inner_norm.weight")
    assert sorted(ratio.tolist()) == pytest.approx([0.1] * 8 + [1.0] * 8)


def test_one_weight_may_be_masked_while_a_group_is_cut() -> None:
    policy = Policy({"inner": 0.5, "fc.weight": 0.5}, Strategy(), {"fc.weight": {"granularity": "n_m"}})
    one = case("cnn").pruner.prune(policy, recovery(4))
    assert one.model.get_parameter("inner.weight").shape == (8, 16, 3, 3)
    assert dict(one.architecture.masks) == {"fc.weight": "n_m"}
    assert pattern_holds("n_m", one.model.get_parameter("fc.weight"))


def test_one_group_may_have_a_schedule_of_its_own() -> None:
    gone: list[tuple[int, int]] = []

    def count(model: nn.Module, step: int) -> None:
        gone.append(tuple(int((model.get_parameter(f"{n}.weight") == 0).sum()) for n in ("inner_norm", "wide_norm")))

    policy = Policy(
        {"inner": 0.5, "wide": 0.5}, quiet(schedule="iterative", rounds=4), {"inner": {"schedule": "one_shot"}}
    )
    sparsified(case("cnn"), policy, 4, on_step=count)
    assert gone == [(8, 8), (8, 12), (8, 16), (8, 16)]


def test_one_group_may_have_a_criterion_of_its_own() -> None:
    of = case("cnn")
    both = {name: of.pruner.cut(Policy(HALF, Strategy(name))).alive for name in ("l1", "bn_scale")}
    mixed = of.pruner.cut(Policy(HALF, Strategy("l1"), {"wide": {"criterion": "bn_scale"}})).alive
    assert (mixed[:32] == both["l1"][:32]).all()
    assert (mixed[32:] == both["bn_scale"][32:]).all()
    assert (mixed[32:] != both["l1"][32:]).any()


MACS = Amount("macs", 0.5)
SOME = Amount("sparsity", 0.5)
Refused = tuple[str, Mapping[str, float], dict[str, str], Mapping[str, Mapping[str, str]], Amount | None, str]
REFUSED: dict[str, Refused] = {
    "masks of a tensor that loses channels": (
        "cnn", {"wide": 0.5, "wide.weight": 0.5}, {}, {"wide.weight": {"granularity": "n_m"}}, None,
        "Prune each weight",
    ),
    "the input channels of a masked tensor": (
        "cnn", {"stem": 0.5, "wide.weight": 0.5}, {}, {"wide.weight": {"granularity": "rank", "criterion": "l2"}}, None,
        "Prune each weight",
    ),
    "scales of norms that are not there": ("plain", {"0": 0.5}, {"criterion": "bn_scale"}, {}, None, "no BatchNorm"),
    "a penalty on norms that are not there": ("plain", {"0": 0.5}, {"regularizer": "bn_l1"}, {}, None, "no BatchNorm"),
    "fewer MACs by zeros": ("cnn", {}, {"granularity": "weight"}, {}, MACS, "no multiply-accumulates"),
    "fewer MACs by scales": ("cnn", {}, {"granularity": "scale"}, {}, MACS, "no multiply-accumulates"),
    "fewer MACs by folds": (
        "cnn", {}, {"granularity": "norm", "criterion": "contribution", "scope": "local"}, {}, MACS,
        "no multiply-accumulates",
    ),
    "a schedule of one group under one amount": (
        "cnn", {}, {}, {"wide": {"schedule": "cubic"}}, SOME, "schedule of its own",
    ),
    "gates by a threshold": (
        "cnn", {}, {"regularizer": "hard_concrete"}, {}, Amount("threshold", 0.5), "how many gates",
    ),
    "gates on a group that is scaled": (
        "cnn", HALF, {"regularizer": "hard_concrete"}, {"wide": {"granularity": "scale"}}, None, "not cut out",
    ),
    "a schedule of edits": (
        "cnn", {"@norm": 0.5}, {"criterion": "contribution", "schedule": "iterative"}, {}, None, "done once",
    ),
    "cuts in turns without training": (
        "cnn", HALF, {"recovery": "recalibrate", "schedule": "iterative"}, {}, None, "nothing is trained",
    ),
    "single weights of a group": ("cnn", HALF, {}, {"wide": {"granularity": "weight"}}, None, "works on weights"),
    "channels of a weight": ("cnn", {"fc.weight": 0.5}, {}, {}, None, "works on whole units"),
    "singular values by gradients": (
        "cnn", {"fc.weight": 0.5}, {"criterion": "taylor"}, {"fc.weight": {"granularity": "rank"}}, None,
        "ranked by l2",
    ),
    "heads of a net without attention": ("cnn", {}, {"granularity": "head"}, {}, SOME, "nothing of granularity 'head'"),
    "one threshold for patterns": ("cnn", {}, {"granularity": "n_m"}, {}, SOME, "same number"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_impossible_is_refused_with_the_reason(what: str) -> None:
    net, sparsity, choices, overrides, amount, reason = REFUSED[what]
    scope = "per_group" if amount is None else "global"
    policy = Policy(sparsity, Strategy(**{"scope": scope, **choices}), overrides, amount)
    of = plain_case() if net == "plain" else case(net)
    with pytest.raises(ConfigError) as caught:
        of.pruner.cut(policy)
    assert reason in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


def test_pruning_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    sparsified(case("cnn"), Policy(HALF, Strategy(regularizer="hard_concrete")), 2)
    case("cnn").pruner.cut(Policy(HALF, Strategy(selection="stochastic")))
    assert torch.equal(state, torch.get_rng_state())
