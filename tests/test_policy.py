"""Policies are plain data: equal ones have equal digests, and JSON brings them back."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.axes import AXES
from autoprune.errors import ConfigError, UnknownNameError
from autoprune.policy import Policy, Strategy, candidate_seed

names = st.text(min_size=1, max_size=12)
policies = st.builds(
    Policy,
    st.dictionaries(names, st.floats(0.0, 0.999), max_size=6),
    st.builds(
        Strategy,
        st.sampled_from(sorted(AXES["criterion"])),
        st.sampled_from(sorted(AXES["recovery"])),
        st.floats(1e-6, 10.0),
        st.none() | st.integers(0, 1000),
    ),
    st.dictionaries(names, st.sampled_from([{"criterion": c} for c in AXES["criterion"]]), max_size=4),
)


@given(policies)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_policy_survives_json_and_pickle_with_its_digest(policy: Policy) -> None:
    through_json = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert through_json == policy
    assert through_json.digest == policy.digest
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_digest_ignores_order_and_whole_groups() -> None:
    one = Policy({"a": 0.5, "b": 0.25, "c": 0.0})
    other = Policy({"b": 0.25, "a": 0.5})
    assert one.digest == other.digest
    assert one == other


def test_digest_tells_policies_apart() -> None:
    base = Policy({"a": 0.5})
    variants = [
        Policy({"a": 0.25}),
        Policy({"b": 0.5}),
        Policy({"a": 0.5}, Strategy(criterion="l2")),
        Policy({"a": 0.5}, Strategy(learning_rate=0.1)),
        Policy({"a": 0.5}, Strategy(), {"a": {"criterion": "taylor"}}),
    ]
    assert len({p.digest for p in [base, *variants]}) == 1 + len(variants)


def test_override_equal_to_the_policys_own_criterion_is_no_difference() -> None:
    assert Policy({"a": 0.5}, Strategy(), {"a": {"criterion": "l1"}}) == Policy({"a": 0.5})


def test_override_decides_the_criterion_of_its_group_only() -> None:
    policy = Policy({"a": 0.5, "b": 0.5}, Strategy("l1"), {"b": {"criterion": "taylor"}})
    assert (policy.criterion_of("a"), policy.criterion_of("b")) == ("l1", "taylor")


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ConfigError, match="group 'a'"):
        Policy({"a": sparsity})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sparsity": {}, "strategy": {"criterion": "l3"}}, "Did you mean 'l"),
        ({"sparsity": {}, "strategy": {"speed": 1}}, "unknown key 'speed'"),
        ({"sparsity": {}, "more": 1}, "unknown key 'more'"),
        ({"sparsity": {"a": 0.5}, "overrides": {"a": {"color": "red"}}}, "unknown key 'color'"),
    ],
)
def test_foreign_json_is_refused_by_name(data: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        Policy.from_json(data)


def test_candidate_seed_depends_on_run_seed_and_policy_alone() -> None:
    one, other = Policy({"a": 0.5}).digest, Policy({"a": 0.25}).digest
    assert candidate_seed(0, one) == candidate_seed(0, one)
    assert len({candidate_seed(0, one), candidate_seed(1, one), candidate_seed(0, other)}) == 3
    assert 0 <= candidate_seed(3, one) < 2**31
