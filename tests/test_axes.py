"""The axes and the presets on them: every claim can be looked up, none contradicts another. No pipeline is needed."""

from __future__ import annotations

from itertools import combinations

import pytest

from autoprune.axes import AXES, EDITS, MASKED, PRESETS, STRUCTURED, TENSORS, exclusions, refusal
from autoprune.axes.presets import USUAL
from autoprune.axes.types import AxisValue
from autoprune.errors import UnknownNameError
from autoprune.policy import Strategy

VALUES = [(axis, name) for axis, table in AXES.items() for name in table]
EXCLUDED = [(axis, name, other) for axis, name in VALUES for other in AXES[axis][name].excludes]


def value_of(axis: str, name: str) -> AxisValue:
    return AXES[axis][name]


@pytest.mark.parametrize("name", PRESETS)
class TestEveryPreset:
    def test_is_a_point_on_all_axes_that_is_not_refused(self, name: str) -> None:
        preset = PRESETS[name]
        assert set(preset.axes) == set(AXES)
        assert all(value in AXES[axis] for axis, value in preset.axes.items())
        assert refusal(preset.axes) is None

    def test_has_a_name_a_summary_and_a_source(self, name: str) -> None:
        preset = PRESETS[name]
        assert preset.name == name
        assert preset.summary.endswith(".")
        assert len(preset.source.strip()) > 5 or preset.source == "control"

    def test_makes_a_strategy_of_the_same_point(self, name: str) -> None:
        preset = PRESETS[name]
        strategy = Strategy.of_preset(name)
        assert strategy.point == dict(preset.axes)
        assert all(getattr(strategy, field) == value for field, value in preset.settings.items())

    def test_names_another_preset_where_it_is_the_same_as_one(self, name: str) -> None:
        other = PRESETS[name].same_as
        if other is not None:
            assert other != name
            assert PRESETS[other].same_as is None
            assert PRESETS[name].axes["criterion"] == PRESETS[other].axes["criterion"]


def test_two_presets_differ_unless_one_is_said_to_be_the_other() -> None:
    equal = [
        (left.name, right.name)
        for left, right in combinations(PRESETS.values(), 2)
        if (dict(left.axes), dict(left.settings)) == (dict(right.axes), dict(right.settings))
        and left.same_as != right.name
        and right.same_as != left.name
    ]
    assert not equal


@pytest.mark.parametrize(("axis", "name"), VALUES)
class TestEveryValue:
    def test_has_name_axis_summary_and_source(self, axis: str, name: str) -> None:
        value = value_of(axis, name)
        assert (value.axis, value.name) == (axis, name)
        assert value.summary.endswith(".")
        assert value.source.strip()
        assert value.source != "-" or name == "none"

    def test_goes_with_something_on_every_other_axis(self, axis: str, name: str) -> None:
        for other, table in AXES.items():
            if other != axis:
                assert any(refusal({axis: name, other: o}) is None for o in table), other

    def test_lists_its_exclusions_from_both_sides(self, axis: str, name: str) -> None:
        found = exclusions(axis, name)
        assert set(found) >= set(value_of(axis, name).excludes)
        for excluded in found:
            other, _, other_name = excluded.partition("=")
            assert f"{axis}={name}" in exclusions(other, other_name)


@pytest.mark.parametrize(("axis", "name", "excluded"), EXCLUDED)
def test_an_exclusion_names_what_exists_and_holds_in_either_order(axis: str, name: str, excluded: str) -> None:
    other, mark, other_name = excluded.partition("=")
    assert mark
    assert other != axis
    assert other_name in AXES[other]
    why = value_of(axis, name).excludes[excluded]
    assert why
    orders = [refusal({axis: name, other: other_name}), refusal({other: other_name, axis: name})]
    for found in orders:
        assert found is not None
        assert f"{axis} {name!r}" in found or f"{other} {other_name!r}" in found
    assert why in f"{orders[0]} {orders[1]}"


@pytest.mark.parametrize(("axis", "name", "excluded"), EXCLUDED)
def test_a_whole_strategy_that_holds_an_exclusion_is_refused(axis: str, name: str, excluded: str) -> None:
    other, _, other_name = excluded.partition("=")
    assert refusal({**USUAL, axis: name, other: other_name}) is not None


def test_a_criterion_goes_with_a_granularity_that_it_can_rank() -> None:
    of_weights = {name for name, value in AXES["criterion"].items() if "weight" in value.levels}
    for granularity in AXES["granularity"]:
        able = {c for c in AXES["criterion"] if refusal({"granularity": granularity, "criterion": c}) is None}
        if granularity in MASKED:
            assert able == of_weights
        elif granularity in STRUCTURED:
            assert able == set(AXES["criterion"])
        elif granularity in EDITS:
            assert {"contribution", "random"} <= able
            assert "taylor" not in able
        else:
            assert able == {"l2"}


def test_every_granularity_is_of_one_kind() -> None:
    assert sorted((*STRUCTURED, *TENSORS, *EDITS)) == sorted(AXES["granularity"])
    assert set(MASKED) < set(TENSORS)


def test_values_that_are_left_out_are_not_looked_at() -> None:
    assert refusal({}) is None
    assert refusal({"granularity": "n_m"}) is None
    assert refusal({"granularity": "n_m", "scope": "global"}) is not None


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'slimming'"):
        Strategy.of_preset("sliming")
