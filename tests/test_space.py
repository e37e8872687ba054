"""Spaces: widths that exist, choices that are possible, trials that become policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from part_cases import model

from autoprune.axes import AXES
from autoprune.compatibility import check_policy
from autoprune.errors import ConfigError, UnknownNameError
from autoprune.groups.types import ModelGroups, PruningGroup, SlicingPlan
from autoprune.space import SearchSpace, list_spaces, load_space


def groups_of(*widths: int, batch_norm: tuple[bool, ...] | None = None) -> ModelGroups:
    starts = np.cumsum([0, *widths])
    norms = batch_norm or (True,) * len(widths)
    groups = tuple(
        PruningGroup(f"layer{i}", int(starts[i]), w, "channel", ((f"layer{i}.weight", 0),), ("bn",) if on else ())
        for i, (w, on) in enumerate(zip(widths, norms, strict=True))
    )
    return ModelGroups(groups, (), SlicingPlan(int(starts[-1]), ()), "torch.export")


def space(**sections: object) -> SearchSpace:
    return SearchSpace.model_validate({"name": "test", "description": "-", **sections})


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (16, (16, 14, 12, 10, 8, 6, 4, 2)),
        (64, (64, 56, 48, 40, 32, 24, 16, 8)),
        (512, tuple(range(512, 51, -16))),
        (100, (100, 96, 88, 80, 72, 64, 56, 48, 40, 32, 24, 16)),
    ],
)
def test_widths_are_multiples_that_the_hardware_likes(width: int, expected: tuple[int, ...]) -> None:
    assert space().bind(groups_of(width)).widths["layer0"] == expected


def test_every_group_keeps_its_least_width_and_levels() -> None:
    bound = space(sparsity={"max": 0.95, "round_to": 1, "min_width": 5, "max_levels": 4}).bind(groups_of(40))
    widths = bound.widths["layer0"]
    assert widths[0] == 40
    assert min(widths) == 5
    assert len(widths) == 4


def test_a_trial_chooses_a_width_of_every_group() -> None:
    bound = space(strategy={"criterion": {"choices": ["l1", "taylor"]}}).bind(groups_of(16, 32))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(50):
        trial = study.ask()
        policy = bound.suggest(trial)
        for group in bound.groups:
            kept = group.width * (1.0 - policy.sparsity.get(group.name, 0.0))
            assert round(kept, 3) in bound.widths[group.name]
        assert set(trial.params) == set(bound.distributions())
        assert bound.policy_of(trial.params) == policy
        seen.add(policy.strategy.criterion)
    assert seen == {"l1", "taylor"}


def test_a_dimension_with_one_value_is_no_dimension() -> None:
    bound = space().bind(groups_of(16))
    assert set(bound.distributions()) == {"level/layer0"}


def test_batch_norm_scale_is_not_offered_where_a_group_has_none() -> None:
    spec = space(strategy={"criterion": {"choices": ["bn_scale", "l1"]}})
    assert spec.bind(groups_of(16, 16)).criteria() == ("bn_scale", "l1")
    assert spec.bind(groups_of(16, 16, batch_norm=(True, False))).criteria() == ("l1",)


def test_per_group_criteria_are_offered_by_what_each_group_has() -> None:
    spec = space(strategy={"criterion": {"choices": ["bn_scale", "l1"], "per_group": True}})
    bound = spec.bind(groups_of(16, 16, batch_norm=(True, False)))
    assert set(bound.distributions()) == {"level/layer0", "level/layer1", "criterion/layer0"}
    policy = bound.policy_of({"level/layer0": 1, "level/layer1": 1, "criterion/layer0": "bn_scale"})
    assert (policy.criterion_of("layer0"), policy.criterion_of("layer1")) == ("bn_scale", "l1")


def test_no_possible_criterion_is_refused_with_the_remedy() -> None:
    bound = space(strategy={"criterion": {"choices": ["bn_scale"]}}).bind(groups_of(16, batch_norm=(False,)))
    with pytest.raises(ConfigError, match="need BatchNorm") as raised:
        bound.distributions()
    assert "l1" in raised.value.hint


def test_unknown_criterion_of_a_space_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'taylor'"):
        space(strategy={"criterion": {"choices": ["tailor"]}}).bind(groups_of(16))


def test_space_without_any_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than one width"):
        space(sparsity={"min_width": 16}).bind(groups_of(16))


def test_uniform_parameters_remove_about_the_same_everywhere() -> None:
    bound = space().bind(groups_of(16, 64, 128))
    policy = bound.policy_of(bound.uniform(0.5))
    assert all(value == pytest.approx(0.5, abs=0.07) for value in policy.sparsity.values())
    assert bound.policy_of(bound.uniform(0.0)).sparsity == {}


def test_smallest_policy_has_every_group_at_its_least_width() -> None:
    bound = space().bind(groups_of(16, 64))
    assert bound.smallest().sparsity == {"layer0": 0.875, "layer1": 0.875}


def test_size_counts_every_combination() -> None:
    bound = space(strategy={"criterion": {"choices": ["l1", "l2"]}}).bind(groups_of(16, 16))
    assert 10 ** bound.size_log10() == pytest.approx(8 * 8 * 2)


@pytest.mark.parametrize("name", sorted(list_spaces()))
def test_ready_made_spaces_load_and_bind(name: str) -> None:
    loaded = load_space(name)
    assert loaded.name == name
    groups = model()
    space = loaded.bind(groups)
    known = space.distributions()
    assert known
    assert all(c in AXES["criterion"] for c in loaded.strategy.criterion.choices)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    policies = set()
    for _ in range(200):
        trial = study.ask()
        policies.add(policy := space.suggest(trial))
        check_policy(groups, policy)
        assert set(trial.params) == space.active(trial.params) <= set(known)
        assert space.policy_of(trial.params) == policy
    assert len(policies) >= 80


def test_a_space_is_found_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: my own\nsparsity: {max: 0.5}\n")
    assert load_space("mine.yaml", base=tmp_path).sparsity.max == 0.5


def test_unknown_space_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'channels'"):
        load_space("channel")


def test_wrong_key_in_a_space_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: my own\nsparsity:\n  maxx: 0.5\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:4.*sparsity\.maxx"):
        load_space("mine.yaml", base=tmp_path)


def test_the_proxy_space_keeps_widths_and_criteria_and_drops_what_only_training_tells_apart() -> None:
    strategy = {
        "criterion": {"choices": ["l1", "taylor"]},
        "recovery": {"choices": ["fine_tune", "distillation"]},
        "learning_rate": {"low": 0.01, "high": 0.04, "log": True},
        "recovery_steps": {"choices": [10, 20]},
    }
    bound = space(strategy=strategy).bind(groups_of(16, 32))
    proxy = bound.for_proxy()
    assert set(proxy.distributions()) == {"level/layer0", "level/layer1", "criterion"}
    assert proxy.widths == bound.widths
    chosen = proxy.policy_of({"level/layer0": 2, "criterion": "taylor"})
    assert (chosen.strategy.recovery, chosen.strategy.recovery_steps) == ("recalibrate", None)
    assert chosen.strategy.learning_rate == pytest.approx(0.02)
    assert chosen.sparsity == bound.policy_of({"level/layer0": 2}).sparsity
