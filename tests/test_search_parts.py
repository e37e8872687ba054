"""The parts of the learned search: rows of a space, evolution, infill, training points, scales, what trials tell."""

from __future__ import annotations

import math
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from planner_cases import COMMON, space_of
from sampler_cases import ACCURACY, MACS, PARAMETERS

from autoprune.pareto import hypervolume, non_dominated
from autoprune.search.context import SIGNAL
from autoprune.search.evolution import Evolution, best_rows, cross, evolve, mutate
from autoprune.search.genome import FLOAT_STEPS, Genome
from autoprune.search.infill import choose_batch, gain
from autoprune.search.objectives import Objective
from autoprune.search.observations import PREDICTED, Memory, observe
from autoprune.search.scaling import ranges_of, scaled, table_of
from autoprune.search.training import training_subset
from autoprune.tasks.protocol import MetricSpec

Floats = npt.NDArray[np.float64]
BOTH = ("accuracy", "macs")
RATE = {"learning_rate": {"low": 0.01, "high": 0.1}, "recovery_steps": {"choices": [10, 20, 40]}}


def genome_of(**further: Any) -> Genome:
    return Genome(space_of(16, 12, 3, **{"levels": 5, **RATE, **further}))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("per_group", [False, True])
def test_rows_come_back_from_their_parameters_which_lie_in_the_space(per_group: bool) -> None:
    genome = genome_of(per_group=per_group, norms=(True, False, True), criteria=("l1", "l2", "bn_scale"))
    known = genome.space.distributions()
    assert set(genome.names) == set(known)
    for row in genome.random(40, generator()):
        params = genome.decode(row)
        assert all(known[name]._contains(known[name].to_internal_repr(value)) for name, value in params.items())
        assert (genome.encode(params) == row).all()
        assert genome.space.policy_of(params).digest


def test_values_outside_of_the_space_make_no_row_and_missing_ones_are_the_first() -> None:
    genome = genome_of()
    assert genome.encode({}) is not None
    assert not genome.encode({}).any()
    assert not genome.encode({"momentum": 3}).any()
    for params in (
        {"level/layer0": 5},
        {"level/layer0": 1.5},
        {"criterion": "taylor"},
        {"recovery_steps": 15},
        {"learning_rate": 0.2},
        {"learning_rate": math.nan},
        {"learning_rate": "fast"},
    ):
        assert genome.encode(params) is None


def test_a_continuous_value_takes_the_nearest_step_of_its_grid() -> None:
    genome = genome_of()
    column = genome.names.index("learning_rate")
    steps = [genome.encode({"learning_rate": rate})[column] for rate in (0.01, 0.0101, 0.0317, 0.1)]
    assert steps == [0, 0, FLOAT_STEPS // 2, FLOAT_STEPS - 1]


def test_levels_stand_for_the_widths_of_their_groups() -> None:
    genome = genome_of()
    widest, narrowest = genome.dense()[None], (genome.sizes - 1)[None]
    assert genome.widths(widest)[0].tolist() == genome.dense_widths.tolist() == [16, 12, 3]
    assert genome.widths(narrowest)[0].tolist() == [genome.space.widths[g.name][-1] for g in genome.space.groups]
    assert genome.capacity() == math.prod(genome.sizes.tolist())


def test_numbers_in_order_are_ordered_and_names_are_not() -> None:
    genome = genome_of()
    ordered = {d.name: d.ordered for d in genome.dimensions}
    assert ordered == {
        **{f"level/layer{i}": True for i in range(3)},
        "criterion": False,
        "learning_rate": True,
        "recovery_steps": True,
    }
    swapped = genome_of(recovery_steps={"choices": [40, 10]})
    assert not swapped.dimensions[swapped.names.index("recovery_steps")].ordered


def test_equal_rows_have_equal_keys_and_repeats_fall_away_in_order() -> None:
    genome = genome_of()
    rows = genome.random(5, generator())
    again = np.vstack([rows[[3, 1, 3]], rows])
    assert genome.keys(rows.astype(np.int32)) == genome.keys(rows)
    assert (genome.unique(again) == rows[[3, 1, 0, 2, 4]]).all()


def test_random_rows_cover_the_range_of_sparsities() -> None:
    genome = genome_of()
    rows = genome.random(300, generator())
    assert ((rows >= 0) & (rows < genome.sizes)).all()
    removed = (1.0 - genome.widths(rows) / genome.dense_widths).mean(axis=1)
    assert removed.min() < 0.1
    assert removed.max() > 0.7
    assert (genome.random(9, generator(1)) == genome.random(9, generator(1))).all()


@pytest.mark.parametrize("further", [{}, {"per_group": True}], ids=["global", "per group"])
def test_changed_rows_stay_in_the_space(further: dict[str, Any]) -> None:
    genome = genome_of(**further)
    rows = genome.random(400, generator())
    changed = mutate(genome, rows, generator(1))
    assert ((changed >= 0) & (changed < genome.sizes)).all()
    assert (changed != rows).any(axis=0).all()
    assert (changed == mutate(genome, rows, generator(1))).all()
    crossed = cross(rows, rows[:3], generator(2))
    assert all(np.isin(crossed[:, c], rows[:, c]).all() for c in range(rows.shape[1]))
    share = (crossed != rows).any(axis=1).mean()
    assert 0.2 < share < 0.5


def expected(rows: npt.NDArray[np.int64]) -> Floats:
    """Return two objectives whose best compromises need unequal levels."""
    weights = np.array([1.0, 4.0, 0.5])
    levels = rows[:, :3] / 4.0
    return np.column_stack([(levels**2 * weights).sum(axis=1), (1.0 - levels).sum(axis=1) + rows[:, 3:].sum(axis=1)])


def test_evolution_nears_the_true_front_and_tells_each_row_once() -> None:
    genome = genome_of()
    start = genome.random(10, generator())
    rows, values = evolve(genome, start, expected, Evolution(20, 12), generator(1))
    assert ((rows >= 0) & (rows < genome.sizes)).all()
    assert len(set(genome.keys(rows))) == len(rows) <= 10 + 12 * 20
    assert (values == expected(rows)).all()
    everything = expected(np.array(list(np.ndindex(*genome.sizes))))
    corner = [6.0, 6.0]
    best, reached, begun = (hypervolume(v, corner) for v in (everything, values, expected(start)))
    assert reached - begun > 0.8 * (best - begun)
    again = evolve(genome, start, expected, Evolution(20, 12), generator(1))[0]
    assert rows.tolist() == again.tolist()


def test_the_best_rows_come_front_by_front() -> None:
    value = np.array([[0.0, 2.0], [3.0, 3.0], [2.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    for seed in range(5):
        assert set(best_rows(value, 3, generator(seed)).tolist()) == {0, 2, 3}
        assert best_rows(value, 9, generator(seed)).tolist()[3:] == [4, 1]


coordinates = st.integers(0, 12).map(lambda i: i / 10.0)


def rows_of(k: int, least: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[coordinates] * k), min_size=least, max_size=7)


@pytest.mark.parametrize("k", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_gain_is_the_difference_of_hypervolumes(k: int, data: st.DataObject) -> None:
    points = np.array(data.draw(rows_of(k, 1)), dtype=float)
    front = np.array(data.draw(rows_of(k, 0)), dtype=float).reshape(-1, k)
    corner = np.ones(k)

    def volume(rows: Floats) -> float:
        inside = rows[(rows < 1.0).all(axis=1)]
        return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0

    brute = [volume(np.vstack([front, p])) - volume(front) for p in points]
    assert gain(points, front) == pytest.approx(brute, abs=1e-12)


def test_each_choice_of_a_batch_believes_those_before_it() -> None:
    points = np.array([[0.50, 0.50], [0.51, 0.50], [0.50, 0.51], [0.2, 0.8], [0.8, 0.2], [1.0, 0.0]])
    front = np.array([[0.9, 0.1]])
    chosen = choose_batch(points, front, 3)
    assert chosen == [0, 3, 4]
    known = front
    for index in chosen:
        assert gain(points, known).argmax() == index
        known = np.vstack([known, points[index]])


def test_a_batch_is_never_larger_than_its_candidates_nor_repeats_one() -> None:
    points = np.full((3, 2), 0.5)
    assert sorted(choose_batch(points, np.zeros((0, 2)), 9)) == [0, 1, 2]
    assert choose_batch(points[:0], points, 2) == []


def test_improbable_candidates_count_less_and_impossible_ones_come_last() -> None:
    points = np.array([[0.1, 0.1], [0.3, 0.3], [0.6, 0.6], [0.9, 0.9]])
    nothing = np.zeros((0, 2))
    assert choose_batch(points, nothing, 1) == [0]
    assert choose_batch(points, nothing, 1, weights=np.array([0.1, 0.9, 1.0, 1.0])) == [1]
    front = np.array([[0.05, 0.05]])
    assert choose_batch(points, front, 3, weights=np.array([0.0, 0.0, 0.5, 1.0])) == [2, 3, 0]
    assert choose_batch(points, nothing, 1, weights=np.zeros(4)) == [0]


def test_training_points_are_all_of_few_and_of_many_the_front_and_every_cost() -> None:
    assert training_subset(np.zeros((7, 2)), 10).tolist() == list(range(7))
    rng = generator()
    cost = rng.uniform(0.0, 1.0, 5000)
    points = np.column_stack([1.0 - cost + rng.exponential(0.2, 5000), cost])
    kept = training_subset(points)
    assert 1900 <= len(kept) <= 2000
    assert (np.diff(kept) > 0).all()
    assert set(np.flatnonzero(non_dominated(points))) <= set(kept.tolist())
    counts = np.histogram(cost[kept], bins=10, range=(0.0, 1.0))[0]
    assert counts.min() > 50
    away = points[kept][:, 0] - (1.0 - points[kept][:, 1])
    assert np.median(away) < np.median(points[:, 0] - (1.0 - cost))


CROSS_ENTROPY = Objective("cross_entropy", "min", "value")
UTILITY = Objective("utility", "max", "value")
METRICS = (*COMMON, MetricSpec("utility", "max", (-math.inf, math.inf)))


def test_the_unit_box_reaches_from_the_best_to_what_counts_least() -> None:
    objectives = (ACCURACY, CROSS_ENTROPY, UTILITY, MACS)
    dense = {"accuracy": 0.95, "cross_entropy": 0.2, "utility": -8.0, "macs": 1e6}
    ranges = ranges_of(objectives, METRICS, dense)
    assert ranges["accuracy"] == (1.0, 0.5)
    assert ranges["cross_entropy"] == (0.0, 1.0)
    assert ranges["utility"] == (-4.0, -12.0)
    assert ranges["macs"] == (1e4, 1e6)
    best = {name: best for name, (best, _) in ranges.items()}
    worst = {name: worst for name, (_, worst) in ranges.items()}
    table = table_of(objectives, [best, worst, dense | {"macs": 1e5}, {**best, "accuracy": 0.25, "macs": 1e3}])
    found = scaled(objectives, ranges, table)
    assert found[:2].tolist() == [[0.0] * 4, [1.0] * 4]
    assert found[2] == pytest.approx([0.1, 0.2, 0.5, 0.5])
    assert found[3] == pytest.approx([1.5, 0.0, 0.0, 0.0])


def test_a_poor_dense_model_widens_the_box_and_one_without_loss_leaves_one() -> None:
    assert ranges_of((ACCURACY,), METRICS, {"accuracy": 0.8})["accuracy"] == pytest.approx((1.0, 0.0))
    perfect = ranges_of((CROSS_ENTROPY,), METRICS, {"cross_entropy": 0.0})
    assert np.isfinite(scaled((CROSS_ENTROPY,), perfect, np.array([[0.0], [3.0]]))).all()


def test_costs_that_are_not_positive_stay_finite() -> None:
    ranges = ranges_of((PARAMETERS,), METRICS, {"parameters": 100.0})
    assert scaled((PARAMETERS,), ranges, np.array([[0.0], [-1.0]])).tolist() == [[0.0], [0.0]]


def trial(genome: Genome, number: int, state: TrialState = TrialState.COMPLETE, **further: Any) -> FrozenTrial:
    params = further.pop("params", {"level/layer0": number % 5, "criterion": "l2"})
    known = genome.space.distributions() | {"level/layer0": IntDistribution(0, 99), "x": FloatDistribution(0.0, 1.0)}
    values = further.pop("values", [0.9, 100.0 + number]) if state is TrialState.COMPLETE else None
    attributes, violated = further.pop("user_attrs", {}), further.pop("violated", {})
    made = create_trial(
        state=state,
        params=params,
        distributions={n: known[n] for n in params},
        values=values,
        user_attrs=attributes,
        **further,
    )
    made.number = number
    for name, value in violated.items():
        made.set_constraint(name, value)
    return made


def test_trials_tell_values_signals_violations_and_what_is_under_way() -> None:
    genome = genome_of()
    told = {PREDICTED: {"accuracy": {"mean": 0.8, "std": 0.1}}}
    trials = [
        trial(genome, 0, user_attrs={SIGNAL: 0.4} | told, violated={"a": -0.1, "b": 0.2}),
        trial(genome, 1, TrialState.FAIL),
        trial(genome, 2, TrialState.RUNNING),
        trial(genome, 3, TrialState.PRUNED),
        trial(genome, 4, violated={"a": -0.3}),
    ]
    seen = observe(trials, genome, BOTH, memory=Memory(predictions={0: 0.1, 4: 0.7}))
    assert seen.numbers.tolist() == [0, 4]
    assert seen.values.tolist() == [[0.9, 100.0], [0.9, 104.0]]
    assert seen.violation.tolist() == [0.2, -0.3]
    assert seen.signal[0] == 0.4
    assert math.isnan(seen.signal[1])
    assert seen.predicted.tolist() == [0.8, 0.7]
    assert seen.pending[:, 0].tolist() == [2]
    assert sorted(seen.taken.values()) == [0, 1, 2, 3, 4]
    assert seen.count == 5
    assert observe(trials, genome, BOTH, current=2).pending.tolist() == []


@pytest.mark.parametrize(
    "further",
    [
        {"params": {}},
        {"params": {"level/layer0": 77}},
        {"values": [0.9]},
        {"values": [math.inf, 3.0]},
        {"state": TrialState.PRUNED},
    ],
    ids=str,
)
def test_useless_trials_are_counted_only(further: dict[str, Any]) -> None:
    genome = genome_of()
    seen = observe([trial(genome, 0, **further)], genome, BOTH)
    assert (len(seen), len(seen.pending), seen.count) == (0, 0, 1)


@pytest.mark.parametrize("mark", [3.0, "high", {"accuracy": 0.5}, {"accuracy": {"mean": "x"}}, {"other": {}}])
def test_an_attribute_of_another_meaning_is_no_prediction(mark: object) -> None:
    genome = genome_of()
    seen = observe([trial(genome, 0, user_attrs={PREDICTED: mark, SIGNAL: mark})], genome, BOTH)
    assert np.isnan(seen.predicted).all()


def test_a_trial_under_way_is_known_before_it_has_asked_for_all_its_parameters() -> None:
    genome = genome_of()
    row = genome.random(1, generator())[0]
    waiting = trial(genome, 0, TrialState.RUNNING, params={"level/layer0": 1})
    assert (observe([waiting], genome, BOTH, memory=Memory(handed={0: row})).pending == row).all()
    fixed = trial(genome, 0, TrialState.RUNNING, params={"level/layer0": 1}, system_attrs={"fixed_params": {}})
    assert observe([fixed], genome, BOTH, memory=Memory(handed={0: row})).pending[0, 0] == 1
    done = trial(genome, 0, params={"level/layer0": 1})
    assert observe([done], genome, BOTH, memory=Memory(handed={0: row})).rows[0, 0] == 1


def test_what_a_batch_was_chosen_by_does_not_change_with_later_trials() -> None:
    genome = genome_of()
    states = [TrialState.COMPLETE] * 4 + [TrialState.RUNNING] + [TrialState.COMPLETE] * 3
    trials = [trial(genome, n, s, params={"level/layer0": n % 5, "level/layer1": n // 5}) for n, s in enumerate(states)]
    for count in (6, 7, 8):
        seen = observe(trials[:count], genome, BOTH).before(6)
        assert seen.numbers.tolist() == [0, 1, 2, 3, 5]
        assert seen.pending_numbers.tolist() == [4]
        assert seen.pending[:, 0].tolist() == [4]
        assert sorted(seen.taken.values()) == [0, 1, 2, 3, 4, 5]


def test_optuna_still_marks_enqueued_trials_by_their_fixed_parameters() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5})
    study.ask()
    assert "fixed_params" in study.trials[0].system_attrs
