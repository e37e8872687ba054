"""Fronts: every objective minimised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.pareto import hypervolume, knee, non_dominated, spread, thin

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=25)


@given(points)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_non_dominated_equals_brute_force(rows: list[tuple[int, int, int]]) -> None:
    values = np.array(rows, dtype=float)
    expected = []
    for i, row in enumerate(values):
        better = (values <= row).all(axis=1) & (values < row).any(axis=1)
        repeated = (values[:i] == row).all(axis=1).any()
        expected.append(not better.any() and not repeated)
    assert non_dominated(values).tolist() == expected


def test_hypervolume_of_a_staircase_is_the_area_under_it() -> None:
    assert hypervolume([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], [4.0, 4.0]) == pytest.approx(6.0)


def test_hypervolume_ignores_points_beyond_the_reference() -> None:
    assert hypervolume([[1.0, 1.0], [5.0, 0.0]], [2.0, 2.0]) == pytest.approx(1.0)
    assert hypervolume([[5.0, 5.0]], [2.0, 2.0]) == 0.0


def test_non_finite_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        non_dominated([[np.inf, 1.0]])


def test_empty_set_has_no_front_and_no_volume() -> None:
    assert non_dominated(np.zeros((0, 2))).tolist() == []
    assert hypervolume(np.zeros((0, 2)), [1.0, 1.0]) == 0.0


def test_knee_is_the_bend() -> None:
    assert knee([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]]) == 1


def test_spread_keeps_both_ends_and_the_asked_number() -> None:
    values = [[float(20 - i), float(i)] for i in range(20)]
    chosen = spread(values, 5)
    assert len(chosen) == len(set(chosen)) == 5
    assert chosen[0] == 0
    assert chosen[-1] == 19
    assert spread(values[:3], 5) == [0, 1, 2]


def test_thin_keeps_the_better_of_two_that_cost_the_same() -> None:
    cost, loss = [1.0, 1.01, 2.0, 3.0], [0.3, 0.2, 0.1, 0.05]
    assert thin(cost, loss, relative_cost=0.02) == [1, 2, 3]


@given(st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.0, 1.0)), min_size=1, max_size=30))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_thinned_costs_are_all_apart(rows: list[tuple[float, float]]) -> None:
    cost = np.array([r[0] for r in rows])
    kept = thin(cost, [r[1] for r in rows], relative_cost=0.02)
    gaps = [abs(cost[i] - cost[j]) / max(cost[i], cost[j]) for i in kept for j in kept if i < j]
    assert kept
    assert all(gap > 0.02 for gap in gaps)
