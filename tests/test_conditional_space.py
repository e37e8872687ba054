"""Conditional spaces: only what counts is asked for, what is impossible is never proposed, equal policies are one."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from part_cases import EVERYTHING, bound, declared, model

from autoprune.axes import AXES
from autoprune.compatibility import check_policy
from autoprune.errors import AutopruneError, ConfigError
from autoprune.policy import Amount, Policy, Strategy
from autoprune.search.evolution import cross, mutate
from autoprune.search.genome import Genome
from autoprune.space import BoundSpace, SearchSpace
from autoprune.space.allotments import Allotments

STRUCTURAL = ("channel", "head")
NUMBERS = ("learning_rate", "recovery_steps", "batch_size", "strength", "rounds", "tolerance")
KINDS = (
    STRUCTURAL,
    ("channel",),
    ("weight",),
    ("weight_block",),
    ("n_m",),
    ("rank",),
    ("depth",),
    ("activation", "norm"),
    ("channel", "head", "weight", "depth"),
    ("rank", "depth"),
)


def trials(space: BoundSpace, count: int, seed: int = 0) -> list[optuna.trial.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.ask() for _ in range(count)]


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Draw any kinds of groups with any choices on any axis; many exclude each other."""
    strategy: dict[str, Any] = {}
    for axis, values in AXES.items():
        if axis != "granularity":
            usual = getattr(Strategy(), axis)
            chosen = draw(st.lists(st.sampled_from(sorted(values)), max_size=4, unique=True))
            strategy[axis] = {"choices": list(dict.fromkeys([*chosen, usual]))}
    if draw(st.booleans()):
        strategy["granularity"] = {"choices": draw(st.permutations(["channel", "head", "ffn", "scale"]))[:2]}
    for axis in ("criterion", "schedule"):
        strategy[axis]["per_group"] = draw(st.booleans())
    strategy["criterion"]["choices"] += ["l2", "contribution"]
    strategy["criterion"]["choices"] = list(dict.fromkeys(strategy["criterion"]["choices"]))
    numbers = {name: EVERYTHING[name] for name in (*NUMBERS, "amount")}
    return declared(*draw(st.sampled_from(KINDS)), **strategy, **numbers)


def bound_or_none(spec: SearchSpace) -> BoundSpace | None:
    """Return the space, or None where its declared choices leave no combination, which is told in one error."""
    space = spec.bind(model())
    try:
        space.distributions()
    except ConfigError:
        return None
    return space


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=spaces(), seed=st.integers(0, 1000))
def test_every_policy_of_every_space_is_possible_and_has_one_representation(spec: SearchSpace, seed: int) -> None:
    space = bound_or_none(spec)
    if space is None:
        return
    genome, known = Genome(space), space.distributions()
    rows: dict[str, bytes] = {}
    for trial in trials(space, 12, seed):
        policy = space.suggest(trial)
        check_policy(model(), policy)
        assert set(trial.params) == space.active(trial.params) <= set(known)
        assert space.policy_of(trial.params) == policy == Policy.from_json(policy.to_json())
    made = genome.random(12, np.random.default_rng(seed))
    for row in mutate(genome, made, np.random.default_rng(seed)):
        params = genome.decode(row)
        policy = space.policy_of(params)
        check_policy(model(), policy)
        assert set(params) == space.active(params)
        assert (genome.encode(params) == row).all()
        assert rows.setdefault(policy.digest, row.tobytes()) == row.tobytes()
    assert len(set(rows)) == len(set(rows.values()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=spaces())
def test_what_every_space_needs_of_itself_works(spec: SearchSpace) -> None:
    space = bound_or_none(spec)
    if space is None:
        return
    for policy in (space.smallest(), space.policy_of(space.uniform(0.4)), space.policy_of({})):
        check_policy(model(), policy)
    assert space.smallest().removes
    assert space.size_log10() > 0.0
    proxy = space.for_proxy()
    for trial in trials(proxy, 4):
        policy = proxy.suggest(trial)
        check_policy(model(), policy)
        found = policy.strategy
        assert (found.recovery, found.schedule, found.regularizer) == ("recalibrate", "one_shot", "none")
        assert not set(trial.params) & set(NUMBERS)


def test_numbers_exist_only_where_they_mean_something() -> None:
    space = bound(*STRUCTURAL, **EVERYTHING)
    usual = {"recovery": "fine_tune"}
    assert {"learning_rate", "recovery_steps", "batch_size", "optimizer"} <= space.active(usual)
    assert not {"strength", "rounds", "tolerance", "amount"} & space.active(usual)
    assert not {"learning_rate", "recovery_steps", "batch_size", "optimizer"} & space.active(
        {"recovery": "recalibrate"}
    )
    assert "strength" in space.active(usual | {"regularizer": "l1"})
    assert "rounds" in space.active(usual | {"schedule": "cubic"})
    assert {"rounds", "tolerance"} <= space.active(usual | {"schedule": "dynamic"})
    assert "rounds" in space.active(usual | {"selection": "greedy"})
    levels = {f"level/layer{i}" for i in range(3)}
    assert levels <= space.active(usual)
    assert "amount" in space.active(usual | {"scope": "global"})
    assert not levels & space.active(usual | {"scope": "global"})


def test_values_of_what_does_not_count_change_nothing() -> None:
    space = bound(*STRUCTURAL, **EVERYTHING)
    params = {"recovery": "recalibrate", "level/layer0": 2}
    noise = {"learning_rate": 0.09, "strength": 0.01, "rounds": 3, "amount": 0.6, "optimizer": "adamw"}
    assert space.policy_of(params) == space.policy_of(params | noise)
    assert (space.policy_of(params).strategy.strength, space.policy_of(params).strategy.batch_size) == (None, None)


def test_a_dimension_with_some_of_the_values_bears_their_names() -> None:
    space = bound(*STRUCTURAL, **EVERYTHING)
    known = space.distributions()
    assert known["regularizer"] == CategoricalDistribution(("none", "l1", "growing_l2", "hard_concrete"))
    fewer = known["regularizer[none|l1]"]
    assert fewer == CategoricalDistribution(("none", "l1"))
    assert "regularizer[none|l1]" in space.active({"recovery": "fine_tune", "schedule": "dynamic"})
    # The regrowth that a dynamic schedule has none of is no dimension there.
    assert "regrowth" not in space.active({"recovery": "fine_tune", "schedule": "dynamic"})


def test_no_walk_ends_in_a_dead_end() -> None:
    strategy = {
        "normalization": {"choices": ["mean"]},
        "criterion": {"choices": ["lamp", "l1"]},
        "schedule": {"choices": ["one_shot", "cubic"]},
        "regrowth": {"choices": ["gradient"]},
        "recovery": {"choices": ["recalibrate", "fine_tune"]},
    }
    space = bound("channel", **strategy)
    assert set(space.distributions()) == {"level/layer0", "level/layer2"}
    chosen = space.policy_of({"level/layer0": 1}).strategy
    assert (chosen.criterion, chosen.recovery, chosen.schedule) == ("l1", "fine_tune", "cubic")


def test_choices_that_exclude_each_other_are_refused_with_the_reason() -> None:
    space = bound("channel", criterion={"choices": ["lamp"]}, normalization={"choices": ["mean"]})
    with pytest.raises(ConfigError, match="LAMP scores are normalised already"):
        space.distributions()


def test_a_group_chooses_for_itself_only_where_it_is_pruned_and_states_a_sparsity() -> None:
    criterion = {"choices": ["l1", "taylor"], "per_group": True}
    space = bound(*STRUCTURAL, criterion=criterion, scope={"choices": ["per_group", "local"]})
    own = {f"criterion/layer{i}" for i in range(3)}
    assert own < set(space.distributions())
    assert own & space.active({"level/layer1": 1}) == {"criterion/layer1"}
    together = space.active({"scope": "local", "level/layer1": 1})
    assert "criterion" in together
    assert not own & together


def test_an_own_schedule_decides_which_numbers_count() -> None:
    schedule = {"choices": ["one_shot", "cubic", "dynamic"], "per_group": True}
    space = bound("channel", schedule=schedule, rounds=EVERYTHING["rounds"], tolerance=EVERYTHING["tolerance"])
    cubic = {"level/layer0": 1, "schedule/layer0": "cubic"}
    assert {"rounds", "tolerance"} & space.active(cubic) == {"rounds"}
    assert not {"rounds", "tolerance"} & space.active(cubic | {"level/layer0": 0})
    policy = space.policy_of(cubic | {"level/layer2": 1, "schedule/layer2": "dynamic", "tolerance": 0.2})
    assert (policy.choice("layer0", "schedule"), policy.choice("layer2", "schedule")) == ("cubic", "dynamic")
    assert policy.strategy.tolerance == 0.2


def test_a_scope_gives_one_amount_for_all_groups() -> None:
    space = bound("channel", "head", scope={"choices": ["local", "global"]}, amount={"choices": [0.5, 0.25]})
    assert set(space.distributions()) == {"scope", "amount"}
    policy = space.policy_of({"scope": "global", "amount": 0.25})
    assert policy == Policy({}, Strategy(scope="global"), {}, Amount("sparsity", 0.25, 1, 0.9))
    assert space.smallest().amount == Amount("sparsity", 0.5, 1, 0.9)
    assert 10 ** space.size_log10() == pytest.approx(4)


def test_rows_of_an_amount_have_the_levels_that_it_comes_to() -> None:
    space = bound("channel", "head", scope={"choices": ["per_group", "local", "global"]})
    shares = {"layer0": 0.9, "layer1": 0.0, "layer2": 0.5}
    asked = []
    genome = Genome(space.with_allotments(lambda strategy, amount: asked.append((strategy, amount)) or shares))
    local, world = (genome.encode({"scope": s, "amount": 0.5, "level/layer1": 3}) for s in ("local", "global"))
    assert (1.0 - genome.widths(local[None]) / genome.dense_widths)[0] == pytest.approx([0.5, 0.5, 0.5], abs=0.13)
    removed = (1.0 - genome.widths(world[None]) / genome.dense_widths)[0]
    assert removed == pytest.approx([0.9, 0.0, 0.5], abs=0.13)
    assert {amount.value for _, amount in asked} == set(space.amounts)
    assert {strategy.scope for strategy, _ in asked} == {"global"}
    assert "level/layer1" not in genome.decode(world)
    freed = genome.freed(world[None])
    assert (genome.widths(freed) == genome.widths(world[None])).all()
    assert set(space.policy_of(genome.decode(freed[0])).sparsity) == {"layer0", "layer2"}


def test_a_scope_that_would_reach_what_is_not_searched_is_left_out_with_a_note() -> None:
    space = bound("channel", scope={"choices": ["per_group", "global"]})
    assert "scope" not in space.distributions()
    assert any("layer1" in note and "global" in note for note in space.notes)


def test_a_granularity_has_levels_of_its_own_groups_only() -> None:
    space = bound(*STRUCTURAL, granularity={"choices": ["head", "ffn", "channel"]})
    assert space.active({"granularity": "head"}) == {"granularity", "level/layer1"}
    assert space.active({"granularity": "ffn"}) == {"granularity", "level/layer2"}
    policy = space.policy_of({"granularity": "head", "level/layer0": 2, "level/layer1": 1})
    assert set(policy.sparsity) == {"layer1"}
    assert set(space.smallest().sparsity) == {"layer0", "layer1", "layer2"}


@pytest.mark.parametrize(
    ("kind", "granularity", "shares"),
    [
        ("weight", "weight", [0.0, 0.25, 0.45, 0.7, 0.9]),
        ("n_m", "n_m", [0.0, 0.5]),
        ("weight_block", "block", [0.0, 0.25, 0.45, 0.7, 0.9]),
    ],
)
def test_weights_are_masked_by_the_strategys_granularity(kind: str, granularity: str, shares: list[float]) -> None:
    space = bound(kind)
    assert [g.name for g in space.groups] == ["layer0.weight", "layer3.weight", "layer4.weight"]
    assert space.removed("layer3.weight") == pytest.approx(shares, abs=0.06)
    policy = space.policy_of({"level/layer3.weight": 1})
    assert policy == Policy({"layer3.weight": space.removed("layer3.weight")[1]}, Strategy(granularity=granularity))


def test_low_ranks_are_those_that_really_shrink_a_weight() -> None:
    spec = declared("rank", criterion={"choices": ["l2"]}).model_dump()
    space = SearchSpace.model_validate({**spec, "sparsity": {"max": 0.95}}).bind(model())
    ranks = [round((1.0 - share) * 20) for share in space.removed("layer3.weight")[1:]]
    assert ranks == sorted(set(ranks), reverse=True)
    assert 8 <= len(ranks) <= 10
    assert max(ranks) == 10
    assert list(space.widths["layer3.weight"][1:]) == [r * 44 for r in ranks]
    assert all(width < 480 for width in space.widths["layer3.weight"][1:])


def test_modules_of_a_kind_go_one_by_one_and_the_last_stays() -> None:
    space = bound("depth", criterion={"choices": ["contribution"]})
    assert space.removed("@depth") == (0.0, 0.25, 0.5, 0.75)
    assert space.policy_of({"level/@depth": 3}).sparsity == {"@depth": 0.75}
    with pytest.raises(ConfigError, match="more than one width"):
        bound("bias")


def test_kinds_beside_each_other_are_overrides_and_a_weight_is_cut_or_masked_never_both() -> None:
    space = bound("channel", "head", "weight", "depth")
    assert [g.name for g in space.groups] == ["layer0", "layer1", "layer2", "layer3.weight", "layer4.weight", "@depth"]
    assert any("layer0.weight" in note for note in space.notes)
    policy = space.policy_of({"level/layer0": 1, "level/layer3.weight": 2, "level/@depth": 1})
    assert policy.strategy.granularity == "channel"
    assert policy.overrides == {"layer3.weight": {"granularity": "weight"}}
    check_policy(model(), policy)


def test_two_kinds_for_one_weight_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight and n_m.*in one way only"):
        bound("weight", "n_m")


@pytest.mark.parametrize(
    ("strategy", "match"),
    [
        ({"schedule": {"choices": ["cubik"]}}, "Did you mean 'cubic'"),
        ({"recovery": {"choices": ["fine_tune"], "per_group": True}}, "cannot choose for themselves"),
        ({"strength": {"low": 0.1, "high": 0.01}}, "low must be <= high"),
        ({"amount": {"choices": [0.95]}}, "must lie in"),
    ],
)
def test_wrong_declarations_are_refused(strategy: Mapping[str, Any], match: str) -> None:
    with pytest.raises(AutopruneError, match=match):
        bound("channel", **strategy)


def test_a_value_that_is_not_on_offer_is_refused() -> None:
    space = bound("channel", schedule={"choices": ["one_shot", "cubic"]})
    with pytest.raises(ConfigError, match="schedule must be one of"):
        space.policy_of({"schedule": "dynamic"})
    with pytest.raises(ConfigError, match="level/layer0 must lie in"):
        space.policy_of({"level/layer0": 99})


def test_an_optimizer_that_is_no_choice_is_not_needed_where_nothing_is_trained() -> None:
    space = bound("channel", optimizer={"choices": ["adamw"]}, recovery={"choices": ["recalibrate", "fine_tune"]})
    assert space.policy_of({"recovery": "recalibrate"}).strategy.optimizer == "sgd"
    assert space.policy_of({"recovery": "fine_tune"}).strategy.optimizer == "adamw"
    assert "optimizer" not in space.distributions()


def test_the_number_of_policies_is_that_of_the_rows() -> None:
    strategy = {name: EVERYTHING[name] for name in ("scope", "recovery", "schedule", "regrowth", "rounds", "amount")}
    space = replace_levels(bound("channel", "head", criterion={"choices": ["l1", "l2"], "per_group": True}, **strategy))
    rows = Genome(space).every()
    assert 10 ** space.size_log10() == pytest.approx(len(rows))
    assert len({space.policy_of(Genome(space).decode(row)).digest for row in rows}) == len(rows)


def replace_levels(space: BoundSpace) -> BoundSpace:
    """Return the space with two levels a group, so that all of it can be counted."""
    widths = {name: (widths[0], widths[-1]) for name, widths in space.widths.items()}
    return replace(space, widths=widths)


def test_rows_stay_canonical_through_variation() -> None:
    genome = Genome(bound(*STRUCTURAL, **EVERYTHING))
    rng = np.random.default_rng(0)
    rows = genome.random(300, rng)
    crossed = mutate(genome, cross(rows, rows, rng), rng)
    for made in (rows, crossed, genome.unique(np.vstack([rows, rows])), genome.freed(rows)):
        assert (genome.canonical(made) == made).all()
        assert (made[:, genome.groups :][~genome.active(made)[:, genome.groups :]] == 0).all()
    assert len(genome.unique(np.vstack([rows, rows]))) == len(genome.unique(rows))


def test_allotments_travel_without_the_model_that_was_asked() -> None:
    asked: list[float] = []

    def ask(strategy: Strategy, amount: Amount) -> dict[str, float]:
        asked.append(amount.value)
        return {"a": amount.value}

    allotments = Allotments(ask)
    strategy, half = Strategy(scope="global"), Amount("sparsity", 0.5)
    assert allotments(strategy, half) == allotments(strategy, half) == {"a": 0.5}
    assert asked == [0.5]
    there = pickle.loads(pickle.dumps(allotments))
    assert there(strategy, half) == {"a": 0.5}
    assert there(strategy, Amount("sparsity", 0.25)) == {}
